"""Small versions of the images, kept once in the run folder so that its report can show them.

    OUT/<task>/thumbnails.jsonl   {"image": sha256 of the image's file, "jpeg": base64}, append-only

An image that several questions share is kept once, and a resumed run adds only what is missing.
At MAX_THUMBNAIL_BYTES no more are kept: a page could not show them.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from lingshu.core.errors import ImageError
from lingshu.core.files import Closeable, JsonlAppender, read_jsonl

THUMBNAILS = "thumbnails.jsonl"
MAX_THUMBNAIL_BYTES = 48 << 20  # in base64, as in the file and on a page
MAX_SIDE = 256
QUALITY = 70
BATCH_SIZE = 64  # images per write


class Thumbnails(Closeable):
    """The file of a task's thumbnails; `add` an image as it is read, `close` when all were.

    Raises:
        StorageError: another process writes the file, or the disk refused.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_THUMBNAIL_BYTES) -> None:
        self._path = folder / THUMBNAILS
        self._digests: set[str] = set()
        self._buffer: list[dict[str, str]] = []
        self._bytes_left = max_bytes
        # A benchmark of text alone leaves no file behind.
        self._log = JsonlAppender(self._path) if self._path.exists() else None
        for row in read_jsonl(self._path) if self._log else ():
            self._digests.add(str(row.get("image")))
            self._bytes_left -= len(str(row.get("jpeg")))

    def add(self, digest: str, data: bytes) -> None:
        """Keep the image file `data` under its digest; one that cannot be decoded is skipped."""
        if digest in self._digests or self._bytes_left <= 0:
            return
        try:
            encoded = base64.b64encode(thumbnail(data)).decode()
        except ImageError:
            return
        self._digests.add(digest)
        self._bytes_left -= len(encoded)
        self._buffer.append({"image": digest, "jpeg": encoded})
        if len(self._buffer) == BATCH_SIZE:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._log = self._log or JsonlAppender(self._path)
            self._log.append(self._buffer)
            self._buffer = []

    def close(self) -> None:
        try:
            self._flush()
        finally:
            if self._log:
                self._log.close()


def thumbnail(data: bytes, *, max_side: int = MAX_SIDE) -> bytes:
    """A JPEG file of at most `max_side` pixels a side, without any metadata; gray stays gray.

    Raises:
        ImageError: the image cannot be decoded, or is too large.
    """
    from lingshu.imaging.read import decode

    image = decode(data, name="an image")
    image.thumbnail((max_side, max_side), reducing_gap=2.0)
    red, green, blue = (band.tobytes() for band in image.split())
    buffer = io.BytesIO()
    (image.convert("L") if red == green == blue else image).save(
        buffer, "JPEG", quality=QUALITY, optimize=True
    )
    return buffer.getvalue()
