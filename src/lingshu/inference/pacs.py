"""A study pulled from a PACS into a private folder that is removed after use."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lingshu.core.errors import InputError
from lingshu.imaging.dicomweb import DicomWebServer, check_uid, retrieve_study

AUTH_VARIABLE = "DICOMWEB_AUTH"


@dataclass(frozen=True, kw_only=True)
class PacsOptions:
    """A study on a DICOMweb server."""

    dicomweb: str | None = None
    "Address of a DICOMweb server to pull --study from."
    study: str | None = None
    "StudyInstanceUID of the study to pull."
    auth: Path | None = None
    "File with user:password or a bearer token for --dicomweb, in place of DICOMWEB_AUTH."


def dicomweb_server(options: PacsOptions) -> DicomWebServer:
    """The server with its secret, from the file or from DICOMWEB_AUTH.

    Raises:
        InputError: an address that cannot be used, or a file that cannot be read.
    """
    secret = os.environ.get(AUTH_VARIABLE, "")
    try:
        if options.auth:
            secret = options.auth.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError("the file of --auth cannot be read; check its path.") from None
    return DicomWebServer(options.dicomweb or "", secret.strip() or None)


@contextlib.contextmanager
def pull_study(options: PacsOptions) -> Iterator[list[Path]]:
    """A temporary folder with the files of the study, as a list; empty if no server is named.

    Raises:
        InputError: a server without a study or the reverse, or as `imaging.dicomweb.retrieve_study`.
    """
    if options.dicomweb is None and options.study is None:
        if options.auth is not None:
            raise InputError("--auth is for --dicomweb URL; name the server, or leave it out.")
        yield []
        return
    if options.dicomweb is None or options.study is None:
        raise InputError("a study is pulled with both --dicomweb URL and --study UID.")
    server = dicomweb_server(options)
    check_uid(options.study)
    with _raise_on_sigterm(), tempfile.TemporaryDirectory(prefix="lingshu-") as temp_dir:
        folder = Path(temp_dir)
        for index, file in enumerate(retrieve_study(server, options.study), 1):
            (folder / f"{index:05}.dcm").write_bytes(file)
        yield [folder]


@contextlib.contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """SIGTERM as an exception, so that a patient's files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
