"""Names, numbers and paths of patients planted in every place: none comes out of ask or draft, on
no way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

from lingshu.cli.main import main  # noqa: E402
from tests.support.dicom_files import SECRETS, dicom_with_identifiers  # noqa: E402
from tests.support.llm_server import Server, completion  # noqa: E402

FOLDER = "ZZQUX_PLANTED_19010203"


@pytest.fixture
def endpoint() -> Iterator[Server]:
    running = Server()

    async def respond(request: web.Request, body: dict) -> web.StreamResponse:
        return completion("Findings: Clear. Impression: Normal.")

    running.handler = respond
    yield running
    running.close()


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Good, cut and mangled files under names and folders that are patients'."""
    base = tmp_path / "ZZHOSPITAL" / FOLDER
    base.mkdir(parents=True)
    intact = dicom_with_identifiers(
        np.arange(64, dtype=np.uint16).reshape(8, 8),
        SeriesDescription="ZZDESCRIBED",
        ProtocolName="ZZPROTOCOL",
        PatientComments="ZZ",
    )
    damaged_files = [
        intact[:300],
        intact[:-40],
        intact.replace(b"MONOCHROME2", b"ZZCHROME_2 "),
        intact.replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0UI"),
    ]
    for index, file in enumerate([intact, *damaged_files, b"ZZ"]):
        (base / f"ZZMRN-4711-{index}.dcm").write_bytes(file)
    (base / "ZZlink.dcm").symlink_to(base / "ZZMRN-4711-0.dcm")
    (base / "ZZMRN-4711.png").write_bytes(b"\x89PNG ZZ")
    return base


def test_planted_identifiers_appear_nowhere(
    hospital: Path, endpoint: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    model, codes = f"{endpoint.url}#model", []
    (hospital / "questions.jsonl").write_text(
        "\n".join(
            json.dumps({"question": "Q?", "files": [name]})
            for name in ("ZZMRN-4711-0.dcm", "ZZMRN-4711-1.dcm", "ZZMRN-4711.png", ".")
        )
    )
    for item in (hospital, *sorted(hospital.glob("ZZ*"))):
        codes.append(main(["ask", model, "What is seen?", str(item), "--json"]))
        codes.append(main(["ask", "echo:x", "What is seen?", str(item), "--window", "lung"]))
    codes.append(main(["ask", model, "--questions", str(hospital / "questions.jsonl")]))
    for index, forms in enumerate((["md", "fhir"], ["sr"])):
        out = tmp_path / f"out{index}"
        codes.append(
            main(
                [
                    "draft",
                    model,
                    str(hospital),
                    "--out",
                    str(out),
                    *(word for form in forms for word in ("--format", form)),
                ]
            )
        )
    printed = capfd.readouterr()
    outputs = [
        printed.out,
        printed.err.replace(str(tmp_path), ""),
        caplog.text,
        *(str(warning.message) for warning in recwarn),
    ]
    outputs += [json.dumps(body) for body in endpoint.bodies] + [
        json.dumps(headers) for headers in endpoint.headers
    ]
    outputs += [path.read_text() for path in tmp_path.glob("out*/*") if path.suffix != ".dcm"]
    assert codes.count(0) >= 4 and 2 in codes and len(endpoint.bodies) >= 4
    assert [
        secret for secret in (*SECRETS, FOLDER) if any(secret in warning for warning in outputs)
    ] == []
    assert str(pydicom.dcmread(tmp_path / "out1" / "report.dcm").PatientID) == "ZZMRN-4711"
