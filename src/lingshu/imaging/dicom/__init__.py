"""DICOM: files, pixels, windows, metadata, studies and references."""
