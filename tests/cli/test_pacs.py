"""A real PACS (Orthanc with its DICOMweb plugin) on loopback: pull a study, draft, store the SR,
read it back.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed")

from lingshu.cli.main import main  # noqa: E402
from lingshu.core.errors import InputError  # noqa: E402
from lingshu.imaging import dicomweb  # noqa: E402
from lingshu.imaging.dicomweb import DicomWebServer  # noqa: E402
from tests.support.dicom_files import SECRETS, dicom_with_identifiers  # noqa: E402

PLUGINS = Path("/usr/share/orthanc/plugins")
ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
STUDY = "1.2.826.99001"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[DicomWebServer]:
    """An own Orthanc with a password; it is ended by its process."""
    if not ORTHANC or not (PLUGINS / "libOrthancDicomWeb.so").exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, password = tmp_path / "orthanc", secrets.token_hex(8)
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": port, "DicomServerEnabled": False,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": True, "RegisteredUsers": {"tester": password},
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            server = DicomWebServer(f"http://127.0.0.1:{port}/dicom-web", f"tester:{password}")
            wait_for(process, port)
            yield server
        finally:
            process.terminate()
            process.wait(20)


def wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(300):
        if process.poll() is not None:
            pytest.fail("Orthanc did not start")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    pytest.fail("Orthanc did not start")


def ct(z: int) -> bytes:
    position = {
        "ImagePositionPatient": ["0", "0", str(z)],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    }
    return dicom_with_identifiers(
        np.full((32, 32), z * 10, np.int16),
        InstanceNumber=str(9 - z),
        RescaleSlope="1",
        RescaleIntercept="0",
        **position,
    )


@pytest.mark.slow
def test_a_study_is_pulled_drafted_stored_and_read_back(
    pacs: DicomWebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dicomweb.store_report_files(pacs, [ct(z) for z in range(3)])
    assert [
        (study.uid, study.modalities, study.n_images) for study in dicomweb.find_studies(pacs)
    ] == [(STUDY, ("OT",), 3)]
    assert pacs.auth is not None
    monkeypatch.setenv("DICOMWEB_AUTH", pacs.auth)
    out = tmp_path / "out"
    reply = "echo:影像所见：双肺清晰。诊断意见：未见异常。"
    command = [
        "draft",
        reply,
        "--language",
        "zh",
        "--dicomweb",
        pacs.url,
        "--study",
        STUDY,
        "--out",
        str(out),
        "--store-in-pacs",
        "--max-slices",
        "2",
    ]
    assert main(command) == 0, capsys.readouterr().err
    assert "stored: the SR" in capsys.readouterr().err
    assert sorted(study.modalities for study in dicomweb.find_studies(pacs)) == [("OT", "SR")]
    with dicomweb._client(pacs) as client:
        [series] = [
            study
            for study in client.search_for_series(STUDY)
            if study["00080060"]["Value"] == ["SR"]
        ]
        [stored] = client.retrieve_series(STUDY, series["0020000E"]["Value"][0])
    assert (
        str(stored.PatientName) == "ZZQUX^PLANTED"
        and stored.VerificationFlag == "UNVERIFIED"
        and stored.PreliminaryFlag == "PRELIMINARY"
    )
    assert stored.ContentSequence[7].ContentSequence[0].TextValue == "双肺清晰。"
    [references] = stored.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(references.ReferencedSOPSequence) == 2
    check_with_dcmtk(out / "report.dcm", tmp_path)
    # The SR itself is not requested when the study is pulled again.
    assert len(list(dicomweb.retrieve_study(pacs, STUDY))) == 3
    other_files = b"".join(
        (out / name).read_bytes()
        for name in ("draft.json", "report.md", "report.fhir.json", "run.json")
        if (out / name).exists()
    )
    assert [study for study in SECRETS if study.encode() in other_files] == []


def check_with_dcmtk(file: Path, folder: Path) -> None:
    if not shutil.which("dsrdump"):
        return
    process = subprocess.run(
        ["dsrdump", "+Pl", str(file)], capture_output=True, timeout=60, check=True
    ).stdout.decode("utf-8", "replace")
    assert "Basic Text SR" in process and "UNVERIFIED" in process and "双肺清晰" in process


@pytest.mark.slow
def test_what_a_pacs_refuses_is_one_line(
    pacs: DicomWebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="HTTP status 401; set DICOMWEB_AUTH"):
        dicomweb.find_studies(DicomWebServer(pacs.url, "tester:wrong"))
    with pytest.raises(InputError, match="no study of that UID"):
        list(dicomweb.retrieve_study(pacs, "1.2.3"))
    with pytest.raises(InputError, match="HTTP status 404"):
        dicomweb.find_studies(DicomWebServer(pacs.url.replace("dicom-web", "nothing"), pacs.auth))
    assert main(["ask", "echo:x", "?", "--dicomweb", pacs.url, "--study", "1.2.3"]) == 2
    assert "401" in capsys.readouterr().err


def test_addresses_and_secrets_are_checked_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, auth, message in (
        ("ftp://host", None, "is written http"),
        ("https://me:secret@host/x", None, "holds a query or password; use DICOMWEB_AUTH"),
        ("http://192.0.2.1/x", "me:secret", "would be sent unencrypted"),
        ("https://host/x", "a\nb", "copy it again"),
    ):
        with pytest.raises(InputError, match=message) as error_info:
            DicomWebServer(url, auth)
        assert "secret" not in str(error_info.value)
    assert "secret" not in repr(DicomWebServer("https://host/x", "me:secret"))
    for options, message in (
        (["--dicomweb", "http://127.0.0.1:9"], "both --dicomweb URL and --study UID"),
        (["--dicomweb", "http://127.0.0.1:9/x", "--study", "ZZ^Name"], "digits and dots"),
        (
            ["--dicomweb", "http://127.0.0.1:9/x", "--study", "1.2"],
            "does not respond as a DICOMweb server",
        ),
        (["--auth", str(tmp_path / "none")], "--auth is for --dicomweb"),
    ):
        assert main(["ask", "echo:x", "?", *options]) == 2
        stderr = capsys.readouterr().err
        assert message in stderr and stderr.count("\n") == 1 and "ZZ" not in stderr


def test_parts_of_an_answer_are_cut_at_its_boundary() -> None:
    body = (
        b"--b 1\r\nContent-Type: application/dicom\r\n\r\none\r\n\r\n--b 1\r\nA:"
        b" b\r\n\r\ntwo\r\n--b 1--\r\n"
    )
    assert dicomweb.split_multipart(
        'multipart/related; type="application/dicom"; boundary="b 1"', body
    ) == [
        b"one\r\n",
        b"two",
    ]
    assert dicomweb.split_multipart("application/dicom", b"whole") == [b"whole"]


class ForeignUrlHandler(BaseHTTPRequestHandler):
    """Answers what no PACS answers; the path says what."""

    def do_GET(self) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        if "redirect" in self.path:
            self.send_response(302)
            self.send_header("Location", "/dicom-web/elsewhere")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[" + b" " * 3000 + b"]" if "long" in self.path else b'[{"0020000D": 7}]')

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_an_odd_server_is_one_error_and_no_other_server_is_queried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dicomweb, "MAX_INSTANCE_BYTES", 2000)
    with HTTPServer(("127.0.0.1", 0), ForeignUrlHandler) as server:
        server.requested = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        for path in ("redirect", "long", "numbers"):
            with pytest.raises(InputError, match="DICOMweb"):
                dicomweb.find_studies(
                    DicomWebServer(f"http://127.0.0.1:{server.server_port}/{path}")
                )
        server.shutdown()
        assert [path.split("/")[1] for path in server.requested] == ["redirect", "long", "numbers"]  # type: ignore[attr-defined]


class PagingHandler(BaseHTTPRequestHandler):
    """A series of five images; a search gives two at a time, however many are requested."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        kind = path.rsplit("/", 1)[-1]
        responses = {
            "series": [{"0020000E": {"Value": ["1.2.3"]}}],
            "instances": [{"00080018": {"Value": [f"{n}"]}} for n in range(5)],
        }
        start = int(parse_qs(query).get("offset", ["0"])[0])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            json.dumps(responses[kind][start : start + 2]).encode()
            if kind in responses
            else kind.encode()
        )

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_that_gives_few_results_at_a_time_loses_no_image() -> None:
    with HTTPServer(("127.0.0.1", 0), PagingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert list(
            dicomweb.retrieve_study(
                DicomWebServer(f"http://127.0.0.1:{server.server_port}/x"), "1.2"
            )
        ) == [
            b"0",
            b"1",
            b"2",
            b"3",
            b"4",
        ]
        server.shutdown()


class StallingHandler(BaseHTTPRequestHandler):
    """A study of two images; the second one is never sent."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        kind = path.rsplit("/", 1)[-1]
        if kind == "2":
            self.server.requested.set()  # type: ignore[attr-defined]
            self.server.ended.wait(30)  # type: ignore[attr-defined]
            return
        responses = {
            "series": [{"0020000E": {"Value": ["1.2.3"]}}],
            "instances": [{"00080018": {"Value": [n]}} for n in ("1", "2")],
        }
        self.send_response(200)
        self.end_headers()
        rest = (
            responses[kind]
            if kind in responses and parse_qs(query).get("offset", ["0"]) == ["0"]
            else []
        )
        self.wfile.write(ct(1) if kind == "1" else json.dumps(rest).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_nothing_of_a_study_stays_behind_when_the_program_is_stopped(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), StallingHandler) as server:
        server.requested, server.ended = threading.Event(), threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            sys.executable,
            "-m",
            "lingshu",
            "ask",
            "echo:x",
            "?",
            "--dicomweb",
            f"http://127.0.0.1:{server.server_port}/x",
        ]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(
            [*command, "--study", "1.2"], env=environment, stderr=subprocess.PIPE
        ) as process:
            assert server.requested.wait(30) and [*tmp_path.glob("lingshu-*/*.dcm")]  # type: ignore[attr-defined]
            process.terminate()
            assert process.wait(20) == 143
        server.ended.set()  # type: ignore[attr-defined]
        server.shutdown()
    assert [*tmp_path.iterdir()] == []
