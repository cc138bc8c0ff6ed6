"""Hooks for schemathesis: strings that are images, which a schema cannot describe.

SCHEMATHESIS_HOOKS names this module.
"""

from __future__ import annotations

import base64
import struct
import zlib

import schemathesis  # pyright: ignore[reportMissingImports]
from hypothesis import strategies  # pyright: ignore[reportMissingImports]


def gray_png_uri(width: int, height: int) -> str:
    """A gray PNG file as a data URI."""

    def chunk(chunk_type: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data))
            + chunk_type
            + data
            + struct.pack(">I", zlib.crc32(chunk_type + data))
        )

    rows = b"".join(b"\0" + bytes(range(width)) for _ in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


schemathesis.openapi.format(
    "image-data-uri", strategies.sampled_from([gray_png_uri(56, 56), gray_png_uri(80, 60)])
)
