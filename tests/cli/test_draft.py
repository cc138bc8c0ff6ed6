"""Drafting a report from a study: how a reply is read, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lingshu.cli.main import main
from lingshu.core.files import check_manifest
from lingshu.inference.answer import Answer
from lingshu.inference.draft_report import build_draft, parse_report
from tests.support.fhir_check import validate_report
from tests.support.tiny import make_image

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

from tests.support.dicom_files import SECRETS, dicom_with_identifiers  # noqa: E402

Capture = pytest.CaptureFixture[str]
REPLY = "echo:Findings: Both lungs are clear. Impression: No finding."


@pytest.mark.parametrize(
    ("reply", "report"),
    [
        ("Findings: Clear. Impression: Normal.", ("Clear.", "Normal.")),
        ("Findings: {Clear.} Impression: {Normal.}", ("Clear.", "Normal.")),
        (
            "## Findings\nClear.\nNo fluid.\n\n## Impression\n1. Normal.",
            ("Clear. No fluid.", "1. Normal."),
        ),
        ("**Findings:** Clear.\n**Impression:** Normal.", ("Clear.", "Normal.")),
        ("<think>Findings: none yet</think>FINDINGS: Clear.", ("Clear.", "")),
        ("Clear lungs, nothing else.", ("Clear lungs, nothing else.", "")),
        ("The findings are in the text. 结论正常", ("The findings are in the text. 结论正常", "")),
        ("影像所见：双肺清晰。诊断意见：未见异常。", ("双肺清晰。", "未见异常。")),
        ("影像所见：{双肺清晰} 诊断意见：{正常}。", ("双肺清晰", "正常。")),
        ("【影像所见】：双肺清晰\n【诊断意见】：正常", ("双肺清晰", "正常")),
        ("### 影像学表现\n心影不大\n### 印象\n正常", ("心影不大", "正常")),
        ("<think>Findings: a mass?", ("", "")),
        ("", ("", "")),
    ],
)
def test_a_reply_is_split_at_its_headings(reply: str, report: tuple[str, str]) -> None:
    assert parse_report(reply) == report


@pytest.mark.parametrize(
    ("reply", "n_words"),
    [
        ("<think>so far</think>Findings: Clear, no findings. Impression: None.", 0),
        ("【影像所见】：双肺清晰\n【诊断意见】：正常", 0),
        ("Clear lungs, nothing else.", 0),
        ("A large pneumothorax.\nFindings: The heart is normal.", 3),
        ("FINDINGS: Nodule.\nIMPRESSION: Benign.\nRECOMMENDATIONS: Biopsy the nodule.", 4),
    ],
)
def test_what_a_draft_leaves_out_of_a_reply_is_counted(reply: str, n_words: int) -> None:
    notes = build_draft(Answer(reply, "m", "d", notice="n"), "en").notes
    assert notes == (
        ()
        if not n_words
        else (
            (
                "words of the model's reply that are left out, under other headings or before the"
                f" first: {n_words}."
            ),
        )
    )


def study(root: Path, slices: int = 3) -> Path:
    """A folder named after a patient, with a series of planted files."""
    folder = root / "ZZQUX_PLANTED"
    folder.mkdir()
    for z in range(slices):
        position = {
            "ImagePositionPatient": ["0", "0", str(z)],
            "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        }
        (folder / f"ZZMRN-4711-{z}.dcm").write_bytes(
            dicom_with_identifiers(np.full((16, 16), z, np.uint8), **position)
        )
    return folder


def test_every_format_is_written_and_names_the_patient_only_on_request(
    tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    forms = ["--format", "sr,fhir", "--format", "md"]
    assert main(["draft", REPLY, str(study(tmp_path)), "--out", str(out), *forms]) == 0
    captured = capsys.readouterr()
    assert (
        "Both lungs are clear." in captured.out
        and "Research only; not for clinical use." in captured.err
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "draft.json",
        "manifest.json",
        "report.dcm",
        "report.fhir.json",
        "report.md",
        "run.json",
    ]
    check_manifest(out)
    sr = pydicom.dcmread(out / "report.dcm")
    assert str(sr.PatientName) == "ZZQUX^PLANTED" and sr.StudyInstanceUID == "1.2.826.99001"
    rest = (
        b"".join(path.read_bytes() for path in out.iterdir() if path.name != "report.dcm")
        + (captured.out + captured.err).encode()
    )
    assert [secret for secret in SECRETS if secret.encode() in rest] == []
    assert json.loads((out / "draft.json").read_text())["findings"] == "Both lungs are clear."
    assert validate_report(json.loads((out / "report.fhir.json").read_text())) == []


def test_the_patient_appears_in_fhir_where_requested(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        main(
            [
                "draft",
                REPLY,
                str(study(tmp_path)),
                "--out",
                str(out),
                "--format",
                "fhir",
                "--patient",
            ]
        )
        == 0
    )
    report = json.loads((out / "report.fhir.json").read_text())
    assert (
        validate_report(report) == []
        and report["subject"]["identifier"]["value"] == "ZZMRN-4711"
        and "report.md" not in str(list(out.iterdir()))
    )


def test_an_image_can_be_drafted_on_but_gives_no_sr(tmp_path: Path, capsys: Capture) -> None:
    make_image(0).save(tmp_path / "a.png")
    assert (
        main(
            [
                "draft",
                REPLY,
                str(tmp_path / "a.png"),
                "--out",
                str(tmp_path / "out"),
                "--language",
                "zh",
            ]
        )
        == 0
    )
    assert "# 报告草稿" in (tmp_path / "out" / "report.md").read_text()
    assert (
        main(
            [
                "draft",
                REPLY,
                str(tmp_path / "a.png"),
                "--out",
                str(tmp_path / "out2"),
                "--format",
                "sr",
            ]
        )
        == 2
    )
    assert "needs a DICOM study" in capsys.readouterr().err and not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "OUT"], "there is no image; name files"),
        (["--out", "OUT", "--store-in-pacs"], "name it"),
        (["--out", "OUT", "--format", "md,pdf"], "has no 'pdf'; choose one of: fhir, md, sr"),
    ],
)
def test_what_cannot_be_drafted_is_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: Capture
) -> None:
    assert (
        main(
            [
                "draft",
                REPLY,
                *(str(tmp_path / "out") if word == "OUT" else word for word in arguments),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_empty_reply_is_no_draft(tmp_path: Path, capsys: Capture) -> None:
    make_image(0).save(tmp_path / "a.png")
    assert main(["draft", "echo: ", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 2
    assert "wrote no report" in capsys.readouterr().err
