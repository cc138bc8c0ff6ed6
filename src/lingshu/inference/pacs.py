"""A study pulled from a PACS into a private folder for as long as it is looked at."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from lingshu.core.errors import InputError
from lingshu.imaging.dicomweb import DicomWebServer, check_uid, retrieve_study

AUTH_VARIABLE = "DICOMWEB_AUTH"


def dicomweb_server(url: str, auth: Path | None) -> DicomWebServer:
    """A DICOMweb server with its secret: from a file, else from DICOMWEB_AUTH (user:password, or a
    bearer token).

    Raises:
        InputError: an address that cannot be used, or a file that cannot be read.
    """
    try:
        secret = auth.read_text(encoding="utf-8") if auth else os.environ.get(AUTH_VARIABLE, "")
    except (OSError, UnicodeDecodeError):
        raise InputError("the file of --auth cannot be read; check its path.") from None
    return DicomWebServer(url, secret.strip() or None)


@contextlib.contextmanager
def pull_study(url: str | None, study: str | None, auth: Path | None) -> Iterator[list[Path]]:
    """A folder with the files of a study, as a list to look at; empty where no server is named. It
    is removed afterwards.

    Raises:
        InputError: a server without a study or the other way round, or as `imaging.dicomweb.pull`.
    """
    if url is None and study is None:
        if auth is not None:
            raise InputError("--auth is for --dicomweb URL; name the server, or leave it out.")
        yield []
        return
    if url is None or study is None:
        raise InputError("a study is pulled with both --dicomweb URL and --study UID.")
    server = dicomweb_server(url, auth)
    check_uid(study)
    with _raise_on_sigterm(), tempfile.TemporaryDirectory(prefix="lingshu-") as temp_dir:
        folder = Path(temp_dir)
        for index, file in enumerate(retrieve_study(server, study), 1):
            (folder / f"{index:05}.dcm").write_bytes(file)
        yield [folder]


@contextlib.contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """SIGTERM as an exception meanwhile: a program that it ends at once leaves a patient's files
    behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
