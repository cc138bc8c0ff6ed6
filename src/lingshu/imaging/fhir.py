"""A draft as a FHIR R4 DiagnosticReport of status preliminary, checked before anybody gets it.

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

from lingshu.imaging._fhir_check import problems
from lingshu.imaging.draft import WORDS, Draft, markdown
from lingshu.imaging.reference import StudyReference

Json = dict[str, Any]
LOINC = "http://loinc.org"
LANGUAGES = {"en": "en", "zh": "zh-CN"}
_CODES = {"findings": "59776-5", "impression": "19005-8"}


def diagnostic_report(draft: Draft, reference: StudyReference | None = None) -> Json:
    """The report as plain JSON; `reference` names the patient and the study by their identifiers."""
    words, language = WORDS[draft.language], LANGUAGES[draft.language]
    subject, study = _about(reference)
    sections = {name: text for name in _CODES if (text := getattr(draft, name))}
    report: Json = {
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
        "code": _concept(LOINC, "18748-4", words["title"]),
        **subject,
        **study,
        "issued": draft.created.isoformat(timespec="seconds"),
        "result": [{"reference": f"#{name}"} for name in sections],
        **({"conclusion": draft.impression} if draft.impression else {}),
        "presentedForm": [_attachment(draft, language)],
    }
    wrong = problems(report)
    # a fault of ours: what comes from a model or a file is text or was checked where it was read
    assert not wrong, wrong
    return report


def _about(reference: StudyReference | None) -> tuple[Json, Json]:
    """The subject, and what else says which examination it was; empty without a reference."""
    if reference is None:
        return {}, {}
    known = reference.elements
    subject = (
        {"subject": {"type": "Patient", "identifier": {"value": known["PatientID"]}}}
        if "PatientID" in known
        else {}
    )
    # Of the DICOM UID, as hl7.org/fhir/R4/imagingstudy.html writes it.
    study: Json = {
        "imagingStudy": [
            {
                "type": "ImagingStudy",
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{reference.study}"},
            }
        ]
    }
    if "AccessionNumber" in known:
        kind = {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]
        }
        study["basedOn"] = [
            {
                "type": "ServiceRequest",
                "identifier": {"type": kind, "value": known["AccessionNumber"]},
            }
        ]
    # A day that no calendar has is no FHIR date.
    with contextlib.suppress(ValueError):
        study["effectiveDateTime"] = date.fromisoformat(known.get("StudyDate", "")).isoformat()
    return subject, study


def _observation(draft: Draft, name: str, text: str, subject: Json) -> Json:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "preliminary",
        "code": _concept(LOINC, _CODES[name], WORDS[draft.language][name]),
        **subject,
        "issued": draft.created.isoformat(timespec="seconds"),
        "valueString": text,
        "note": [{"text": line} for line in draft.provenance],
        "device": {"reference": "#model"},
    }


def _device(draft: Draft) -> Json:
    return {
        "resourceType": "Device",
        "id": "model",
        "deviceName": [{"name": draft.model or "unknown", "type": "model-name"}],
        "version": [{"value": f"sha256:{draft.digest}"}],
        "note": [{"text": draft.notice}],
    }


def _narrative(draft: Draft, language: str) -> Json:
    paragraphs = [f"<p><b>{escape(draft.provenance[0])}</b></p>"]
    for heading, text in draft.sections.items():
        paragraphs.append(
            f"<h2>{escape(heading)}</h2><p>{'<br/>'.join(map(escape, text.split(chr(10))))}</p>"
        )
    paragraphs += [f"<p>{escape(line)}</p>" for line in draft.provenance[1:]]
    opening = f'<div xmlns="http://www.w3.org/1999/xhtml" lang="{language}" xml:lang="{language}">'
    return {"status": "generated", "div": f"{opening}{''.join(paragraphs)}</div>"}


def _attachment(draft: Draft, language: str) -> Json:
    data = base64.b64encode(markdown(draft).encode()).decode()
    return {
        "contentType": "text/markdown",
        "language": language,
        "data": data,
        "title": WORDS[draft.language]["title"],
    }


def _concept(system: str, code: str, text: str) -> Json:
    return {"coding": [{"system": system, "code": code}], "text": text}
