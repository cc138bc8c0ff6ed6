"""Drafts of reports and their export as DICOM SR and FHIR."""
