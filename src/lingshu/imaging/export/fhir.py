"""A draft as a FHIR R4 DiagnosticReport of status preliminary.

R4 (4.0.1), because that is what hospital servers speak; R4B has the same elements. Findings and
impression are contained Observations whose device is the model, the impression is the conclusion
too, and the whole text is attached as Markdown. A patient, a study or a date stands in it only if a
reference is given. Source: hl7.org/fhir/R4/diagnosticreport.html, observation.html, device.html,
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
from lingshu.imaging.export.report_draft import LABELS, ReportDraft, draft_to_markdown

JsonObject = dict[str, Any]
LOINC = "http://loinc.org"
LANGUAGES = {"en": "en", "zh": "zh-CN"}
_LOINC_CODES = {"findings": "59776-5", "impression": "19005-8"}


def draft_to_fhir(draft: ReportDraft, reference: StudyReference | None = None) -> JsonObject:
    """The report as plain JSON; `reference` names the patient and the study by their identifiers."""
    labels, language = LABELS[draft.language], LANGUAGES[draft.language]
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
    """The subject, and what else says which examination it was; empty without a reference."""
    if reference is None:
        return {}, {}
    elements = reference.elements
    subject = (
        {"subject": {"type": "Patient", "identifier": {"value": elements["PatientID"]}}}
        if "PatientID" in elements
        else {}
    )
    # Of the DICOM UID, as hl7.org/fhir/R4/imagingstudy.html writes it.
    study: JsonObject = {
        "imagingStudy": [
            {
                "type": "ImagingStudy",
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{reference.study}"},
            }
        ]
    }
    if "AccessionNumber" in elements:
        identifier_type = {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]
        }
        study["basedOn"] = [
            {
                "type": "ServiceRequest",
                "identifier": {"type": identifier_type, "value": elements["AccessionNumber"]},
            }
        ]
    # A day that no calendar has is no FHIR date.
    with contextlib.suppress(ValueError):
        study["effectiveDateTime"] = date.fromisoformat(elements.get("StudyDate", "")).isoformat()
    return subject, study


def _observation(draft: ReportDraft, name: str, text: str, subject: JsonObject) -> JsonObject:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "preliminary",
        "code": _concept(LOINC, _LOINC_CODES[name], LABELS[draft.language][name]),
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
        paragraphs.append(
            f"<h2>{escape(heading)}</h2><p>{'<br/>'.join(map(escape, text.split(chr(10))))}</p>"
        )
    paragraphs += [f"<p>{escape(line)}</p>" for line in draft.provenance[1:]]
    opening = f'<div xmlns="http://www.w3.org/1999/xhtml" lang="{language}" xml:lang="{language}">'
    return {"status": "generated", "div": f"{opening}{''.join(paragraphs)}</div>"}


def _attachment(draft: ReportDraft, language: str) -> JsonObject:
    data = base64.b64encode(draft_to_markdown(draft).encode()).decode()
    return {
        "contentType": "text/markdown",
        "language": language,
        "data": data,
        "title": LABELS[draft.language]["title"],
    }


def _concept(system: str, code: str, text: str) -> JsonObject:
    return {"coding": [{"system": system, "code": code}], "text": text}
