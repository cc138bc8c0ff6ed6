"""Format and size of an image file from its first bytes, without decoding anything.

Sources: PNG 3rd edition (W3C), ITU-T T.81 (JPEG), GIF89a, TIFF 6.0, WebP container specification,
Exif 2.32 and XMP part 2 (orientation).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lingshu.core.errors import ImageError

ImageFormat = Literal["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Frame headers of JPEG and JPEG-LS; C4, C8 and CC are other things.
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_ORIENTATION = 0x0112
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# Chunks of text in a PNG, and the names of those that hold an orientation as well.
_TEXT_CHUNKS = (b"iTXt", b"tEXt", b"zTXt")
_PROFILES = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_MAX_ENTRIES = 512
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the head of an image file says. `width` and `height` are of the upright image, in
    pixels.

    `orientation` is the Exif value 1 to 8 (5 to 8 turn by a quarter). `bits` are bits per channel
    and `channels` 1 to 4, None where the format does not tell at once. `plain` means neither
    palette nor transparency. Pixel data start behind byte `body`.
    """

    format: ImageFormat
    width: int
    height: int
    orientation: int = 1
    bits: int | None = None
    channels: int | None = None
    is_plain: bool = False
    data_offset: int = 0

    @property
    def pixels(self) -> int:
        return self.width * self.height


class TruncatedHeader(ImageError):
    """The bytes at hand end before the size is told: the file is truncated, or more of it must be
    read.
    """


def read_header(data: bytes, *, name: str = "image in memory") -> ImageHeader:
    """Format and size of an encoded image; errors call it `name`. The first 64 KB are enough for
    nearly every file.

    Raises:
        EndsEarly: the size lies further inside.
        BadImage: no PNG, JPEG, WebP, BMP, TIFF or GIF, or no possible size.
    """
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); copy the image again.")
    parser = next((parse for start, parse in _PARSERS if data.startswith(start)), None)
    if parser is None or (parser is _webp and data[8:12] not in (b"WEBP", b"")):
        raise ImageError(f"{name} is no PNG, JPEG, WebP, BMP, TIFF or GIF; replace or remove it.")
    try:
        header = parser(data)
    except (struct.error, IndexError):
        raise TruncatedHeader(
            f"{name} ends inside its header ({len(data)} bytes); copy the image again."
        ) from None
    except ValueError as error:
        raise ImageError(
            f"{name} has a damaged {parser.__name__[1:].upper()} header ({error}); replace or"
            " remove it."
        ) from None
    if header.width < 1 or header.height < 1:
        raise ImageError(
            f"{name} says that it has {header.width} x {header.height} pixels; replace or"
            " remove it."
        )
    return header


def check_complete(data: bytes, header: ImageHeader, *, name: str) -> bool:
    """Refuse a PNG or JPEG that is cut short: decoders fill such images up in silence. Also a PNG
    with a damaged head.

    A JPEG must have an end marker behind its frame header: inside its scans FF is always followed
    by 0 or a restart marker. Returns whether a PNG may state an orientation that its header does
    not have: behind its pixels, or in a chunk of text.

    Raises:
        BadImage: it is.
    """
    if header.format == "JPEG" and data.rfind(b"\xff\xd9", header.data_offset) < 0:
        raise ImageError(
            f"{name} is truncated (a JPEG without its end marker); copy the image again."
        )
    if header.format == "PNG":
        return _check_chunks(data, header, name)
    return False


def _check_chunks(data: bytes, header: ImageHeader, name: str) -> bool:
    view, position, pixels, has_late_orientation = memoryview(data), len(PNG_SIGNATURE), 0, False
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        # Lower-case chunks are comments and the like: damage there harms no pixel. IDAT has a
        # checksum inside, which decoders check.
        if (
            kind != b"IDAT"
            and not kind[0] & 0x20
            and zlib.crc32(view[position + 4 : end - 4])
            != struct.unpack_from(">I", data, end - 4)[0]
        ):
            raise ImageError(f"{name} is damaged (checksum of a PNG chunk); copy the image again.")
        if kind == b"IEND":
            if pixels:
                return has_late_orientation
            break
        has_late_orientation |= kind == b"eXIf" and position > header.data_offset
        has_late_orientation |= kind in _TEXT_CHUNKS and data.startswith(_PROFILES, position + 8)
        pixels += length if kind == b"IDAT" else 0
        position = end
    raise ImageError(f"{name} is truncated (a PNG without its end chunk); copy the image again.")


def _png(data: bytes) -> ImageHeader:
    length, kind, width, height, bits, color_type = struct.unpack_from(
        ">I4sIIBB", data, len(PNG_SIGNATURE)
    )
    if length != 13 or kind != b"IHDR" or color_type not in _PNG_CHANNELS:
        raise ValueError("no IHDR chunk")
    orientation, position, is_plain = 1, 33, color_type in (0, 2)
    while True:
        size, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"tRNS":
            is_plain = False
        if kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : position + 8 + size])
        position += 12 + size
    return _upright_header(
        "PNG", width, height, orientation, bits, _PNG_CHANNELS[color_type], is_plain, position
    )


def _jpeg(data: bytes) -> ImageHeader:
    orientation, xmp_match = None, None
    for marker, position, length in _segments(data):
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _find_orientation(data[position + 10 : position + 2 + length])
        if marker == 0xE1 and data[position + 4 : position + 4 + len(_XMP)] == _XMP:
            xmp_match = _XMP_ORIENTATION.search(data, position, position + 2 + length)
        if marker in JPEG_FRAMES:
            _, bits, height, width, channels = struct.unpack_from(">HBHHB", data, position + 2)
            # Only where Exif says nothing, as decoders have it.
            orientation = (
                int(xmp_match[1]) if xmp_match and orientation is None else orientation or 1
            )
            return _upright_header(
                "JPEG", width, height, orientation, bits, channels, True, position
            )
    raise ValueError("no frame before the scan")


def jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Width, height and components of a JPEG or JPEG-LS code stream.

    Raises:
        ValueError, IndexError, struct.error: it is damaged or ends early.
    """
    header = _jpeg(data)
    return header.width, header.height, header.channels or 0


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, place and length of each segment up to the first scan."""
    position = 2
    while True:
        # Any number of FF may stand before a marker.
        while data[position + 1] == 0xFF:
            position += 1
        if data[position] != 0xFF:
            raise ValueError(f"no marker at byte {position}")
        marker = data[position + 1]
        if marker in (0xD9, 0xDA):
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if length < 2:
            raise ValueError(f"a segment of {length} bytes")
        yield marker, position, length
        position += 2 + length


def _gif(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageHeader("GIF", width, height, bits=8)


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif size >= 40:
        # A negative height means that rows run from the top.
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
    else:
        raise ValueError(f"a header of {size} bytes")
    return ImageHeader("BMP", width, abs(height), bits=min(bits, 8))


def _tiff(data: bytes) -> ImageHeader:
    tags = _tiff_tags(data, {256, 257, _ORIENTATION})
    if not {256, 257} <= tags.keys():
        raise ValueError("no size")
    return _upright_header("TIFF", tags[256], tags[257], tags.get(_ORIENTATION, 1))


def _webp(data: bytes) -> ImageHeader:
    if data[8:12] != b"WEBP":
        raise ValueError("no WEBP form")
    kind = data[12:16]
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ValueError("no start code")
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF, bits=8)
    if kind == b"VP8L":
        (word,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WEBP", (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1, bits=8)
    if kind != b"VP8X":
        raise ValueError("no picture chunk")
    width, height = (int.from_bytes(data[offset : offset + 3], "little") + 1 for offset in (24, 27))
    data[29]  # IndexError where the size itself is cut
    return _upright_header("WEBP", width, height, _webp_exif(data) if data[20] & 0x08 else 1, 8)


def _webp_exif(data: bytes) -> int:
    position = 30
    while True:
        kind, size = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            body = data[position + 8 : position + 8 + size]
            return _exif_orientation(body.removeprefix(b"Exif\0\0"))
        position += 8 + size + (size & 1)


def _upright_header(
    format: ImageFormat, width: int, height: int, orientation: int, bits: int | None = None, channels: int | None = None,
    is_plain: bool = False, data_offset: int = 0,
) -> ImageHeader:  # fmt: skip
    is_transposed = 5 <= orientation <= 8
    width, height = (height, width) if is_transposed else (width, height)
    return ImageHeader(
        format,
        width,
        height,
        orientation if 1 <= orientation <= 8 else 1,
        bits,
        channels,
        is_plain,
        data_offset,
    )


def _exif_orientation(data: bytes) -> int:
    """The orientation that an Exif block states, 1 where it states none or is damaged: its pixels
    are sound all the same.
    """
    return _find_orientation(data) or 1


def _find_orientation(data: bytes) -> int | None:
    try:
        return _tiff_tags(data, {_ORIENTATION}).get(_ORIENTATION)
    except (struct.error, ValueError):
        return None


def _tiff_tags(data: bytes, requested: set[int]) -> dict[int, int]:
    """The first values of some integer tags in the first directory of a TIFF or BigTIFF structure."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("no byte order")
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic == 42:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (n_entries,) = struct.unpack_from(order + "H", data, start)
        entries_start, size, value_offset = start + 2, 12, 8
    elif magic == 43:
        (start,) = struct.unpack_from(order + "Q", data, 8)
        (n_entries,) = struct.unpack_from(order + "Q", data, start)
        entries_start, size, value_offset = start + 8, 20, 12
    else:
        raise ValueError("no TIFF magic number")
    formats = {1: "B", 3: "H", 4: "I", 16: "Q"}
    values: dict[int, int] = {}
    for entry in range(entries_start, entries_start + size * min(n_entries, _MAX_ENTRIES), size):
        tag, type_code = struct.unpack_from(order + "HH", data, entry)
        if tag in requested and type_code in formats:
            (values[tag],) = struct.unpack_from(
                order + formats[type_code], data, entry + value_offset
            )
    return values


_PARSERS = (
    (PNG_SIGNATURE, _png), (b"\xff\xd8\xff", _jpeg), (b"GIF87a", _gif), (b"GIF89a", _gif), (b"BM", _bmp),
    (b"II*\0", _tiff), (b"MM\0*", _tiff), (b"II+\0", _tiff), (b"MM\0+", _tiff), (b"RIFF", _webp),
)  # fmt: skip
