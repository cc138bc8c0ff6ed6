"""For schemathesis: what a description cannot say of a string, that it is a picture.

SCHEMATHESIS_HOOKS names this file.
"""

from __future__ import annotations

import base64
import struct
import zlib

import schemathesis  # pyright: ignore[reportMissingImports]
from hypothesis import strategies  # pyright: ignore[reportMissingImports]


def picture(width: int, height: int) -> str:
    """A grey PNG file as a data URI."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + bytes(range(width)) for _ in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


schemathesis.openapi.format(
    "image-data-uri", strategies.sampled_from([picture(56, 56), picture(80, 60)])
)
