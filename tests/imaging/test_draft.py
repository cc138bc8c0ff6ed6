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
from lingshu.imaging._fhir_check import REPORT_STATUS, problems
from lingshu.imaging.draft import Draft, draft_to_json, markdown
from lingshu.imaging.fhir import diagnostic_report
from lingshu.imaging.reference import Instance, StudyReference, study_reference
from lingshu.imaging.seen import Seen
from tests.imaging._dicoms import SECRETS, dicom, planted

SEEN = (
    Seen(
        1,
        "dicom",
        8,
        8,
        modality="CT",
        series=1,
        place=3,
        of=9,
        window="lung",
        center=-600.0,
        width=1500.0,
    ),
)
DRAFT = Draft(
    "Right <b>lobe</b> & node.\nNo *effusion*. 未见实变。", "Normal.", "en", "model-1", "ab" * 32, "Research only.",
    datetime(2026, 11, 20, 23, 5, 7, tzinfo=timezone(timedelta(hours=8))), SEEN, ("1 file was left out.",),
)  # fmt: skip
REFERENCE = StudyReference(
    "1.2.3", {"PatientID": "P-1", "PatientName": "Wang^XiaoDong=王^小东", "StudyDate": "20260102", "AccessionNumber": "A 1"},
    (Instance("1.2.3.4", "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"), Instance("1.2.3.4", "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.6")),
)  # fmt: skip


def test_a_draft_says_what_it_is_in_every_form() -> None:
    plain = draft_to_json(DRAFT)
    assert (
        plain["status"] == "preliminary"
        and plain["verified"] is False
        and plain["seen"][0]["window"] == "lung"
    )
    for text in (markdown(DRAFT), json.dumps(diagnostic_report(DRAFT)), *sr_texts(DRAFT)[-1:]):
        for words in (
            "not verified by a person",
            "Research only.",
            "model-1",
            "lung -600/1500",
            "slice 3 of 9",
        ):
            assert words in text
    assert "本草稿由机器生成" in markdown(replace(DRAFT, language="zh"))
    assert "Edited by a person" in markdown(replace(DRAFT, edited=True))


def test_what_a_model_writes_stays_text() -> None:
    for line in ("---", "=", "  -- ", "- a\n  ---"):
        assert (
            "\\"
            in markdown(replace(DRAFT, findings=f"Clear.\n{line}"))
            .split("Findings")[1]
            .split("Impression")[0]
        )
    told = markdown(replace(DRAFT, findings="# Head\n[x](http://y) ![z](w) <script>"))
    assert "\\# Head" in told and "\\[x\\](" in told and "\\<script\\>" in told
    assert "&lt;b&gt;lobe&lt;/b&gt; &amp; node." in diagnostic_report(DRAFT)["text"]["div"]
    odd = replace(DRAFT, findings="a\x00\x1b[31mb\ud800\ufffe]]> \u2028", impression="--> \x07")
    assert odd.findings == "a[31mb]]>" and problems(diagnostic_report(odd)) == []


def test_an_empty_draft_is_refused() -> None:
    with pytest.raises(InputError, match="neither findings nor an impression"):
        replace(DRAFT, findings=" \n", impression="\x00")
    with pytest.raises(InputError, match="not for clinical use"):
        replace(DRAFT, notice=" ")
    with pytest.raises(InputError, match="time zone"):
        replace(DRAFT, created=datetime(2026, 1, 1))


# --- FHIR
# --------------------------------------------------------------------------------------------------------


def test_fhir_names_nobody_unless_a_reference_is_given() -> None:
    report = diagnostic_report(DRAFT)
    assert report["status"] == "preliminary" and report["issued"] == "2026-11-20T23:05:07+08:00"
    assert not report.keys() & {"subject", "imagingStudy", "effectiveDateTime", "basedOn"}
    named = diagnostic_report(DRAFT, REFERENCE)
    assert (
        named["subject"]["identifier"]["value"] == "P-1"
        and named["effectiveDateTime"] == "2026-01-02"
    )
    assert named["imagingStudy"][0]["identifier"]["value"] == "urn:oid:1.2.3"
    assert named["contained"][1]["subject"] == named["subject"] and "Wang" not in json.dumps(named)
    for day in ("20260230", "20261301", "00000101", ""):
        assert "effectiveDateTime" not in diagnostic_report(
            DRAFT, replace(REFERENCE, elements={"StudyDate": day})
        )


@pytest.mark.parametrize("sections", [("", "x"), ("x", ""), ("x", "y")])
def test_fhir_keeps_its_rules_whatever_sections_there_are(sections: tuple[str, str]) -> None:
    findings, impression = sections
    report = diagnostic_report(replace(DRAFT, findings=findings, impression=impression), REFERENCE)
    assert problems(report) == [] and len(report["result"]) == bool(findings) + bool(impression)


def change(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(report: dict[str, Any]) -> None:
        *way, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
        place: Any = report
        for key in way:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("status", "nonsense", "status: not among"),
        ("status", None, "status: missing"),
        ("code", None, "code: missing"),
        ("code.coding.0.code", "1-1", "a code that no draft uses"),
        ("category.0.coding.0.system", "http://other", "a code that no draft uses"),
        ("issued", "2026-11-20", "issued: no valid instant"),
        ("issued", "2026-13-20T10:00:00Z", "issued: no valid instant"),
        ("effectiveDateTime", "2026-1-1", "no valid dateTime"),
        ("language", "xx", "language: not among"),
        ("conclusion", "", "no valid string"),
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
        ("text.div", '<div xmlns="http://www.w3.org/1999/xhtml">x<script/></div>', "no plain text"),
        (
            "text.div",
            '<!DOCTYPE x><div xmlns="http://www.w3.org/1999/xhtml">x</div>',
            "a declaration",
        ),
        ("text.status", "made", "text.status: not among"),
        ("presentedForm.0.data", "no base64!", "no base64"),
        ("unknown", 1, "unknown: unknown element"),
        ("subject", {}, "an object with at least one element"),
    ],
)
def test_a_fault_in_fhir_is_found(path: str, value: object, words: str) -> None:
    report = copy.deepcopy(diagnostic_report(DRAFT, REFERENCE))
    change(path, value)(report)
    assert any(words in one for one in problems(report)), problems(report)


def test_the_value_set_of_a_report_is_that_of_the_standard() -> None:
    assert (
        len(REPORT_STATUS) == 10
        and "preliminary" in REPORT_STATUS
        and problems({"resourceType": "Patient"})
    )


@pytest.mark.peers
def test_another_library_reads_the_report() -> None:
    module = pytest.importorskip(
        "fhir.resources.R4B.diagnosticreport", reason="fhir.resources is not installed"
    )
    for reference in (None, REFERENCE):
        read = module.DiagnosticReport.model_validate_json(
            json.dumps(diagnostic_report(DRAFT, reference))
        )
        assert read.status == "preliminary" and len(read.contained) == 3


# --- SR
# ----------------------------------------------------------------------------------------------------------


def sr_texts(draft: Draft) -> list[str]:
    """Every text of the tree, in its order."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from lingshu.imaging.sr import basic_text_sr

    found = pydicom.dcmread(io.BytesIO(basic_text_sr(draft, REFERENCE)))
    return [str(item.value) for item in found.iterall() if item.keyword == "TextValue"]


def test_an_sr_is_unverified_and_refers_to_the_images() -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from lingshu.imaging.sr import basic_text_sr

    file = basic_text_sr(DRAFT, REFERENCE)
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
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == [
        "1.2.3.4.5",
        "1.2.3.4.6",
    ]
    findings, impression, comment = sr_texts(DRAFT)[-3:]
    assert (
        findings.endswith("未见实变。")
        and impression == "Normal."
        and "not verified by a person" in comment
    )
    assert basic_text_sr(DRAFT, REFERENCE) != file  # each has a UID of its own


def test_dcmtk_reads_the_sr(tmp_path: Path) -> None:
    if not shutil.which("dsrdump"):
        pytest.skip("dcmtk is not installed")
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from lingshu.imaging.sr import basic_text_sr

    (tmp_path / "sr.dcm").write_bytes(basic_text_sr(DRAFT, REFERENCE))
    told = subprocess.run(
        ["dsrdump", "+Pl", str(tmp_path / "sr.dcm")], capture_output=True, timeout=60, check=True
    )
    shown = told.stdout.decode("utf-8", "replace")
    assert (
        "Basic Text SR" in shown
        and "UNVERIFIED" in shown
        and "未见实变。" in shown
        and b"E:" not in told.stderr
    )


@pytest.mark.filterwarnings("ignore")
def test_a_reference_takes_what_its_list_holds_and_shows_none_of_it() -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    pixels = np.zeros((4, 4), np.uint8)
    found = study_reference([planted(pixels), planted(pixels)])
    assert (
        found.elements["PatientName"] == "ZZQUX^PLANTED"
        and found.elements["StudyDate"] == "19020304"
        and len(found.images) == 2
    )
    assert (
        "PatientAddress" not in found.elements
        and [one for one in SECRETS if one in repr(found)] == []
    )
    odd = study_reference([planted(pixels, PatientSex="ZZ", StudyDate="19020304ZZ")])
    assert "PatientSex" not in odd.elements


@pytest.mark.parametrize(
    ("files", "words"),
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
    files: tuple[dict[str, str], ...], words: str
) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    with pytest.raises(InputError, match=words) as raised:
        study_reference([dicom(np.zeros((4, 4), np.uint8), **one) for one in files])
    assert "ZZ" not in str(raised.value)
