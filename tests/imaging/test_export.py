"""A draft as Markdown, FHIR and DICOM SR: preliminary in each, nobody named unless asked, and the
rules of each form kept.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingshu.core.errors import InputError
from lingshu.imaging.dicom.references import (
    ReferencedInstance,
    StudyReference,
    read_study_reference,
)
from lingshu.imaging.export.fhir import draft_to_fhir
from lingshu.imaging.export.report_draft import (
    ReportDraft,
    ReportLanguage,
    draft_to_json,
    draft_to_markdown,
)
from lingshu.imaging.provenance import ImageProvenance
from tests.support.dicom_files import SECRETS, dicom, dicom_with_identifiers
from tests.support.fhir_check import REPORT_STATUS, validate_report

IMAGE_PROVENANCE = (
    ImageProvenance(
        1,
        "dicom",
        8,
        8,
        modality="CT",
        series=1,
        index=3,
        total=9,
        window="lung",
        center=-600.0,
        width=1500.0,
    ),
)
DRAFT = ReportDraft(
    "Right <b>lobe</b> & node.\nNo *effusion*. 未见实变。", "Normal.", "en", "model-1", "ab" * 32, "Research only.",
    datetime(2026, 11, 20, 23, 5, 7, tzinfo=timezone(timedelta(hours=8))), IMAGE_PROVENANCE, ("1 file was left out.",),
)  # fmt: skip
REFERENCE = StudyReference(
    "1.2.3", {"PatientID": "P-1", "PatientName": "Wang^XiaoDong=王^小东", "StudyDate": "20260102", "AccessionNumber": "A 1"},
    (ReferencedInstance("1.2.3.4", "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"), ReferencedInstance("1.2.3.4", "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.6")),
)  # fmt: skip


def valid_fhir(draft: ReportDraft, reference: StudyReference | None = None) -> dict[str, Any]:
    report = draft_to_fhir(draft, reference)
    assert validate_report(report) == []
    return report


def test_a_draft_states_what_it_is_in_every_form() -> None:
    plain = draft_to_json(DRAFT)
    assert (
        plain["status"] == "preliminary"
        and plain["verified"] is False
        and plain["image_provenance"][0]["window"] == "lung"
    )
    for text in (draft_to_markdown(DRAFT), json.dumps(valid_fhir(DRAFT)), *sr_texts(DRAFT)[-1:]):
        for phrase in (
            "not verified by a person",
            "Research only.",
            "model-1",
            "lung -600/1500",
            "slice 3 of 9",
        ):
            assert phrase in text
    assert "本草稿由机器生成" in draft_to_markdown(replace(DRAFT, language="zh"))
    assert "Edited by a person" in draft_to_markdown(replace(DRAFT, edited=True))


def test_what_a_model_writes_stays_text() -> None:
    for line in ("---", "=", "  -- ", "- a\n  ---"):
        assert (
            "\\"
            in draft_to_markdown(replace(DRAFT, findings=f"Clear.\n{line}"))
            .split("Findings")[1]
            .split("Impression")[0]
        )
    text = draft_to_markdown(replace(DRAFT, findings="# Head\n[x](http://y) ![z](w) <script>"))
    assert "\\# Head" in text and "\\[x\\](" in text and "\\<script\\>" in text
    assert "&lt;b&gt;lobe&lt;/b&gt; &amp; node." in valid_fhir(DRAFT)["text"]["div"]
    unusual = replace(DRAFT, findings="a\x00\x1b[31mb\ud800\ufffe]]> \u2028", impression="--> \x07")
    assert unusual.findings == "a[31mb]]>" and valid_fhir(unusual)


def test_an_empty_draft_is_refused() -> None:
    with pytest.raises(InputError, match="neither findings nor an impression"):
        replace(DRAFT, findings=" \n", impression="\x00")
    with pytest.raises(InputError, match="not for clinical use"):
        replace(DRAFT, notice=" ")
    with pytest.raises(InputError, match="time zone"):
        replace(DRAFT, created=datetime(2026, 1, 1))


# --- FHIR
# --------------------------------------------------------------------------------------------------------


def test_fhir_identifies_nobody_unless_a_reference_is_given() -> None:
    report = valid_fhir(DRAFT)
    assert report["status"] == "preliminary" and report["issued"] == "2026-11-20T23:05:07+08:00"
    assert not report.keys() & {"subject", "imagingStudy", "effectiveDateTime", "basedOn"}
    with_reference = valid_fhir(DRAFT, REFERENCE)
    assert (
        with_reference["subject"]["identifier"]["value"] == "P-1"
        and with_reference["effectiveDateTime"] == "2026-01-02"
    )
    assert with_reference["imagingStudy"][0]["identifier"]["value"] == "urn:oid:1.2.3"
    assert with_reference["contained"][1]["subject"] == with_reference[
        "subject"
    ] and "Wang" not in json.dumps(with_reference)
    for date in ("20260230", "20261301", "00000101", ""):
        assert "effectiveDateTime" not in valid_fhir(
            DRAFT, replace(REFERENCE, elements={"StudyDate": date})
        )


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("sections", [("", "x"), ("x", ""), ("x", "y")])
def test_fhir_keeps_its_rules_whatever_sections_there_are(
    sections: tuple[str, str], language: ReportLanguage
) -> None:
    findings, impression = sections
    draft = replace(DRAFT, findings=findings, impression=impression, language=language)
    report = valid_fhir(draft, REFERENCE)
    assert len(report["result"]) == bool(findings) + bool(impression)


def set_path(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(report: dict[str, Any]) -> None:
        *parents, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
        node: Any = report
        for key in parents:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("status", "nonsense", "status: not among"),
        ("status", None, "status: missing"),
        ("code", None, "code: missing"),
        ("code.coding.0.code", "1-1", "a code that no draft uses"),
        ("category.0.coding.0.system", "http://other", "a code that no draft uses"),
        ("issued", "2026-11-20", "issued: not a valid instant"),
        ("issued", "2026-13-20T10:00:00Z", "issued: not a valid instant"),
        ("effectiveDateTime", "2026-1-1", "not a valid dateTime"),
        ("language", "xx", "language: not among"),
        ("conclusion", "", "not a valid string"),
        ("conclusion", ["x"], "one value is needed"),
        ("result", {"reference": "#findings"}, "a list with something in it"),
        ("result", [], "a list with something in it"),
        ("result.0.reference", "#nowhere", "#nowhere leads nowhere"),
        ("contained.1.status", "draft", "contained[1].status: not among"),
        ("contained.0.deviceName.0.type", "name", "type: not among"),
        ("contained.0.resourceType", "Patient", "no resource that a draft holds"),
        ("contained.2.id", "findings", "share an id"),
        ("text.div", "<div>x", "not well-formed"),
        ("text.div", "<div>x</div>", "a div with text is needed"),
        (
            "text.div",
            '<div xmlns="http://www.w3.org/1999/xhtml">x<script/></div>',
            "not plain text",
        ),
        (
            "text.div",
            '<!DOCTYPE x><div xmlns="http://www.w3.org/1999/xhtml">x</div>',
            "a declaration",
        ),
        ("text.status", "made", "text.status: not among"),
        ("presentedForm.0.data", "no base64!", "not base64"),
        ("unknown", 1, "unknown: unknown element"),
        ("subject", {}, "an object with at least one element"),
    ],
)
def test_a_fault_in_fhir_is_found(path: str, value: object, message: str) -> None:
    report = copy.deepcopy(valid_fhir(DRAFT, REFERENCE))
    set_path(path, value)(report)
    assert any(message in error for error in validate_report(report)), validate_report(report)


def test_the_value_set_of_a_report_is_that_of_the_standard() -> None:
    assert (
        len(REPORT_STATUS) == 10
        and "preliminary" in REPORT_STATUS
        and validate_report({"resourceType": "Patient"})
    )


@pytest.mark.peers
def test_another_library_reads_the_report() -> None:
    module = pytest.importorskip(
        "fhir.resources.R4B.diagnosticreport", reason="fhir.resources is not installed"
    )
    for reference in (None, REFERENCE):
        parsed = module.DiagnosticReport.model_validate_json(
            json.dumps(valid_fhir(DRAFT, reference))
        )
        assert parsed.status == "preliminary" and len(parsed.contained) == 3


# --- SR
# ----------------------------------------------------------------------------------------------------------


def sr_texts(draft: ReportDraft) -> list[str]:
    """Every text of the tree, in its order."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from lingshu.imaging.export.sr import draft_to_sr

    found = pydicom.dcmread(io.BytesIO(draft_to_sr(draft, REFERENCE)))
    return [str(item.value) for item in found.iterall() if item.keyword == "TextValue"]


def test_an_sr_is_unverified_and_refers_to_the_images() -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from lingshu.imaging.export.sr import draft_to_sr

    file = draft_to_sr(DRAFT, REFERENCE)
    assert file[:132] == b"\0" * 128 + b"DICM"
    found = pydicom.dcmread(io.BytesIO(file))
    assert (found.CompletionFlag, found.VerificationFlag, found.PreliminaryFlag) == (
        "PARTIAL",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert (
        found.StudyInstanceUID == "1.2.3"
        and str(found.PatientName) == "Wang^XiaoDong=王^小东"
        and found.PatientBirthDate == ""
    )
    assert (
        found.Modality == "SR"
        and found.SeriesInstanceUID != "1.2.3.4"
        and found.TimezoneOffsetFromUTC == "+0800"
    )
    [series] = found.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [instance.ReferencedSOPInstanceUID for instance in series.ReferencedSOPSequence] == [
        "1.2.3.4.5",
        "1.2.3.4.6",
    ]
    findings, impression, comment = sr_texts(DRAFT)[-3:]
    assert (
        findings.endswith("未见实变。")
        and impression == "Normal."
        and "not verified by a person" in comment
    )
    assert draft_to_sr(DRAFT, REFERENCE) != file  # each has a UID of its own


def test_dcmtk_reads_the_sr(tmp_path: Path) -> None:
    if not shutil.which("dsrdump"):
        pytest.skip("dcmtk is not installed")
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from lingshu.imaging.export.sr import draft_to_sr

    (tmp_path / "sr.dcm").write_bytes(draft_to_sr(DRAFT, REFERENCE))
    result = subprocess.run(
        ["dsrdump", "+Pl", str(tmp_path / "sr.dcm")], capture_output=True, timeout=60, check=True
    )
    output = result.stdout.decode("utf-8", "replace")
    assert (
        "Basic Text SR" in output
        and "UNVERIFIED" in output
        and "未见实变。" in output
        and b"E:" not in result.stderr
    )


@pytest.mark.filterwarnings("ignore")
def test_a_reference_takes_what_its_list_holds_and_shows_none_of_it() -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    pixels = np.zeros((4, 4), np.uint8)
    found = read_study_reference([dicom_with_identifiers(pixels), dicom_with_identifiers(pixels)])
    assert (
        found.elements["PatientName"] == "ZZQUX^PLANTED"
        and found.elements["StudyDate"] == "19020304"
        and len(found.images) == 2
    )
    assert (
        "PatientAddress" not in found.elements
        and [one for one in SECRETS if one in repr(found)] == []
    )
    unusual = read_study_reference(
        [dicom_with_identifiers(pixels, PatientSex="ZZ", StudyDate="19020304ZZ")]
    )
    assert "PatientSex" not in unusual.elements


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "needs a DICOM study"),
        ((dict(PatientID="ZZ1"), dict(PatientID="ZZ2")), "several studies or patients"),
        (
            (dict(StudyInstanceUID="1.2"), dict(StudyInstanceUID="1.3")),
            "several studies or patients",
        ),
        ((dict(StudyInstanceUID="ZZ"),), "lacks a valid UID"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_files_that_no_report_can_refer_to_are_refused(
    files: tuple[dict[str, str], ...], message: str
) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    with pytest.raises(InputError, match=message) as exc_info:
        read_study_reference([dicom(np.zeros((4, 4), np.uint8), **elements) for elements in files])
    assert "ZZ" not in str(exc_info.value)
