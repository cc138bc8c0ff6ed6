"""Headers: the size that a decoder would find, from the first bytes, for every format."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from lingshu.core.errors import ImageError
from lingshu.imaging.headers import TruncatedHeader, check_complete, read_header

IMAGE = PIL.Image.fromarray(
    np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
)


def encode(kind: str, image: PIL.Image.Image = IMAGE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_the_size_of_every_format_is_read(kind: str) -> None:
    header = read_header(encode(kind))
    assert (header.format, header.width, header.height) == (kind, 60, 40)


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}]
)
def test_the_size_of_all_three_kinds_of_webp_is_read(options: dict[str, Any]) -> None:
    header = read_header(encode("WEBP", **options))
    assert (header.width, header.height) == (60, 40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_of_the_upright_image(kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = encode(kind, exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(file)))
    header = read_header(file)
    assert (header.width, header.height) == upright.size and header.orientation == orientation


@pytest.mark.parametrize(
    ("mode", "bits", "channels", "is_plain"),
    [
        ("L", 8, 1, True),
        ("RGB", 8, 3, True),
        ("RGBA", 8, 4, False),
        ("P", 1, 3, False),
        ("I;16", 16, 1, True),
    ],
)
def test_bits_and_channels_of_a_png_are_read(
    mode: str, bits: int, channels: int, is_plain: bool
) -> None:
    header = read_header(encode("PNG", PIL.Image.new(mode, (3, 2))))
    assert (header.bits, header.channels, header.is_plain) == (bits, channels, is_plain)


def test_the_size_is_found_behind_long_segments() -> None:
    exif = PIL.Image.Exif()
    exif[0x010E] = "x" * 60_000
    file = encode("JPEG", exif=exif, comment=b"c" * 60_000)
    with pytest.raises(TruncatedHeader):
        read_header(file[:65536])
    assert read_header(file).width == 60


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"GIF",
        b"<svg/>",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xd9",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),
    ],
)
def test_what_has_no_size_is_refused(bad: bytes) -> None:
    with pytest.raises(ImageError, match=r"^the file "):
        read_header(bad, name="the file")


def test_a_header_may_state_any_size_without_cost() -> None:
    file = bytearray(encode("PNG"))
    file[16:24] = struct.pack(">II", 2_000_000_000, 2_000_000_000)
    header = read_header(bytes(file))
    assert header.width == header.height == 2_000_000_000


def test_complete_files_pass_and_cut_or_damaged_ones_do_not() -> None:
    for kind in ("PNG", "JPEG"):
        file = encode(kind)
        header = read_header(file)
        check_complete(file + b"\0\0trailing", header, name="f")
        with pytest.raises(ImageError, match="truncated"):
            check_complete(file[:-12], header, name="f")
    png = bytearray(encode("PNG"))
    png[24] ^= 1
    with pytest.raises(ImageError, match="checksum"):
        check_complete(bytes(png), read_header(bytes(png)), name="f")


def test_an_embedded_thumbnail_does_not_make_a_cut_jpeg_complete() -> None:
    thumbnail = encode("JPEG", IMAGE.resize((8, 8)))
    file = encode("JPEG")
    app = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    truncated = (file[:2] + app + file[2:])[:-2]
    with pytest.raises(ImageError, match="truncated"):
        check_complete(truncated, read_header(truncated), name="f")
