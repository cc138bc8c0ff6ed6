"""A draft as a FHIR R4 DiagnosticReport of status preliminary.

R4 (4.0.1), because that is what hospital servers speak; R4B has the same elements. Findings and
impression are contained Observations whose device is the model, the impression is also the
conclusion, and the full text is attached as Markdown. A patient, a study or a date is in it only if
a reference is given. Source: hl7.org/fhir/R4/diagnosticreport.html, observation.html, device.html,
narrative.html, imagingstudy.html.
"""

from __future__ import annotations

import base64
import contextlib
import uuid
from datetime import date
from html import escape
from typing import Any

from lingshu.imaging.dicom.references import StudyReference
from lingshu.imaging.export.report_draft import ReportDraft, draft_to_markdown, report_labels

JsonObject = dict[str, Any]
LOINC = "http://loinc.org"
LANGUAGES = {"en": "en", "zh": "zh-CN"}
_LOINC_CODES = {"findings": "59776-5", "impression": "19005-8"}


def draft_to_fhir(draft: ReportDraft, reference: StudyReference | None = None) -> JsonObject:
    """The report as plain JSON; `reference` identifies the patient and the study."""
    labels, language = report_labels(draft.language), LANGUAGES[draft.language]
    subject, study = _subject_and_study(reference)
    sections = {name: text for name in _LOINC_CODES if (text := getattr(draft, name))}
    return {
        "resourceType": "DiagnosticReport",
        "language": language,
        "text": _narrative(draft, language),
        "contained": [
            _device(draft),
            *(_observation(draft, name, text, subject) for name, text in sections.items()),
        ],
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{uuid.uuid4()}"}],
        "status": "preliminary",
        "category": [_concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": _concept(LOINC, "18748-4", labels["title"]),
        **subject,
        **study,
        "issued": draft.created.isoformat(timespec="seconds"),
        "result": [{"reference": f"#{name}"} for name in sections],
        **({"conclusion": draft.impression} if draft.impression else {}),
        "presentedForm": [_attachment(draft, language)],
    }


def _subject_and_study(reference: StudyReference | None) -> tuple[JsonObject, JsonObject]:
    """The subject, and the elements that identify the study; empty without a reference."""
    if reference is None:
        return {}, {}
    elements = reference.elements
    subject: JsonObject = {}
    if "PatientID" in elements:
        subject["subject"] = _reference("Patient", value=elements["PatientID"])
    # As hl7.org/fhir/R4/imagingstudy.html writes a DICOM UID.
    uid = f"urn:oid:{reference.study}"
    study: JsonObject = {
        "imagingStudy": [_reference("ImagingStudy", system="urn:dicom:uid", value=uid)]
    }
    if "AccessionNumber" in elements:
        system = "http://terminology.hl7.org/CodeSystem/v2-0203"
        accession = {"coding": [{"system": system, "code": "ACSN"}]}
        order = _reference("ServiceRequest", type=accession, value=elements["AccessionNumber"])
        study["basedOn"] = [order]
    # An impossible date is left out.
    with contextlib.suppress(ValueError):
        study["effectiveDateTime"] = date.fromisoformat(elements.get("StudyDate", "")).isoformat()
    return subject, study


def _reference(resource: str, **identifier: object) -> JsonObject:
    return {"type": resource, "identifier": identifier}


def _observation(draft: ReportDraft, name: str, text: str, subject: JsonObject) -> JsonObject:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "preliminary",
        "code": _concept(LOINC, _LOINC_CODES[name], report_labels(draft.language)[name]),
        **subject,
        "issued": draft.created.isoformat(timespec="seconds"),
        "valueString": text,
        "note": [{"text": line} for line in draft.provenance],
        "device": {"reference": "#model"},
    }


def _device(draft: ReportDraft) -> JsonObject:
    return {
        "resourceType": "Device",
        "id": "model",
        "deviceName": [{"name": draft.model or "unknown", "type": "model-name"}],
        "version": [{"value": f"sha256:{draft.digest}"}],
        "note": [{"text": draft.notice}],
    }


def _narrative(draft: ReportDraft, language: str) -> JsonObject:
    paragraphs = [f"<p><b>{escape(draft.provenance[0])}</b></p>"]
    for heading, text in draft.sections.items():
        lines = "<br/>".join(map(escape, text.split("\n")))
        paragraphs.append(f"<h2>{escape(heading)}</h2><p>{lines}</p>")
    paragraphs += [f"<p>{escape(line)}</p>" for line in draft.provenance[1:]]
    opening = f'<div xmlns="http://www.w3.org/1999/xhtml" lang="{language}" xml:lang="{language}">'
    return {"status": "generated", "div": f"{opening}{''.join(paragraphs)}</div>"}


def _attachment(draft: ReportDraft, language: str) -> JsonObject:
    data = base64.b64encode(draft_to_markdown(draft).encode()).decode()
    return {
        "contentType": "text/markdown",
        "language": language,
        "data": data,
        "title": report_labels(draft.language)["title"],
    }


def _concept(system: str, code: str, text: str) -> JsonObject:
    return {"coding": [{"system": system, "code": code}], "text": text}
