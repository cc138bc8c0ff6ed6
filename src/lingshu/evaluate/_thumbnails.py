"""Small pictures of what was asked, kept once in the run folder so that its report can show them.

    OUT/<task>/thumbnails.jsonl   {"image": sha256 of the image's file, "jpeg": base64}, append-only

An image that several questions share is kept once, and a run that goes on adds only what is not
there. Where the file has reached MOST_BYTES no more are kept: a page could not show them.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from lingshu.core.errors import BadImage
from lingshu.core.files import JsonlAppender, read_jsonl

THUMBNAILS = "thumbnails.jsonl"
MOST_BYTES = 48 << 20  # of pictures in base64, as they stand in the file and on a page
SIDE = 256
QUALITY = 70
TOGETHER = 64  # pictures to one write


class Thumbnails:
    """The file of a task's thumbnails; `add` an image as it is read, `close` when all were.

    Raises:
        StorageError: another process writes the file, or the disk refused.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._path = folder / THUMBNAILS
        self._kept: set[str] = set()
        self._waiting: list[dict[str, str]] = []
        self._room = most_bytes
        # A benchmark of text alone leaves no file behind.
        self._log = JsonlAppender(self._path) if self._path.exists() else None
        for row in read_jsonl(self._path) if self._log else ():
            self._kept.add(str(row.get("image")))
            self._room -= len(str(row.get("jpeg")))

    def add(self, digest: str, data: bytes) -> None:
        """Keep the encoded image `data` under its digest; one that cannot be decoded is passed
        over, the engine will tell.
        """
        if digest in self._kept or self._room <= 0:
            return
        try:
            small = base64.b64encode(thumbnail(data)).decode()
        except BadImage:
            return
        self._kept.add(digest)
        self._room -= len(small)
        self._waiting.append({"image": digest, "jpeg": small})
        if len(self._waiting) == TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._log = self._log or JsonlAppender(self._path)
            self._log.append(self._waiting)
            self._waiting = []

    def close(self) -> None:
        try:
            self._flush()
        finally:
            if self._log:
                self._log.close()

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def thumbnail(data: bytes, *, side: int = SIDE) -> bytes:
    """A JPEG file of at most `side` pixels a side, without any metadata; grey stays grey.

    Raises:
        BadImage: not to be decoded, or too large.
    """
    from lingshu.imaging.read import decode

    picture = decode(data, name="an image")
    picture.thumbnail((side, side), reducing_gap=2.0)
    red, green, blue = (band.tobytes() for band in picture.split())
    buffer = io.BytesIO()
    (picture.convert("L") if red == green == blue else picture).save(
        buffer, "JPEG", quality=QUALITY, optimize=True
    )
    return buffer.getvalue()
