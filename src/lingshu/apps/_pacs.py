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
from lingshu.imaging.dicomweb import Server, check_uid, pull

AUTH_VARIABLE = "DICOMWEB_AUTH"


def server_for(url: str, auth: Path | None) -> Server:
    """A DICOMweb server with its secret: from a file, else from DICOMWEB_AUTH (user:password, or a
    bearer token).

    Raises:
        InputError: an address that cannot be used, or a file that cannot be read.
    """
    try:
        secret = auth.read_text(encoding="utf-8") if auth else os.environ.get(AUTH_VARIABLE, "")
    except (OSError, UnicodeDecodeError):
        raise InputError("the file of --auth cannot be read; check its path.") from None
    return Server(url, secret.strip() or None)


@contextlib.contextmanager
def pulled(url: str | None, study: str | None, auth: Path | None) -> Iterator[list[Path]]:
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
    server = server_for(url, auth)
    check_uid(study)
    with _stoppable(), tempfile.TemporaryDirectory(prefix="lingshu-") as made:
        folder = Path(made)
        for number, file in enumerate(pull(server, study), 1):
            (folder / f"{number:05}.dcm").write_bytes(file)
        yield [folder]


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM as an exception meanwhile: a program that it ends at once leaves a patient's files
    behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
