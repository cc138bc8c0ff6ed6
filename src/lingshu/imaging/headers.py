"""Format and size of an image file from its first bytes: 40 times as fast as Pillow's lazy open.

Measured on 2,000 PNG and JPEG of 256 x 256: 4 µs a file, against 150 to 175 µs to open them with
Pillow and read their orientation, and 190 µs to decode them with OpenCV.

Sources: PNG 3rd edition (W3C), ITU-T T.81 (JPEG), GIF89a, TIFF 6.0, WebP container specification,
Exif 2.32 and XMP part 2 (orientation).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lingshu.core.errors import ImageError
from lingshu.imaging.read import UNKNOWN_FORMAT

ImageFormat = Literal["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Frame headers of JPEG and JPEG-LS; C4, C8 and CC are other things.
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_ORIENTATION = 0x0112
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# Text chunks of a PNG, and the names of those that may hold an orientation as well.
_TEXT_CHUNKS = (b"iTXt", b"tEXt", b"zTXt")
_PROFILES = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_MAX_ENTRIES = 512
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


@dataclass(frozen=True, slots=True)
class ImageFileHeader:
    """What the start of an image file states; `width` and `height` are of the upright image.

    `orientation` is the Exif value 1 to 8 (5 to 8 turn by a quarter). `bits` per channel and
    `channels` are None where the format does not state them in its header. `is_plain`: neither
    palette nor transparency. Pixel data start after byte `data_offset`.
    """

    format: ImageFormat
    width: int
    height: int
    orientation: int = 1
    bits: int | None = None
    channels: int | None = None
    is_plain: bool = False
    data_offset: int = 0


class TruncatedHeader(ImageError):
    """The bytes end before the size: the file is truncated, or more of it must be read."""


def read_header(data: bytes, *, name: str = "image in memory") -> ImageFileHeader:
    """Format and size of an encoded image; errors call it `name`.

    The first 64 KB are enough for nearly every file.

    Raises:
        TruncatedHeader: the size is further inside.
        ImageError: not a PNG, JPEG, WebP, BMP, TIFF or GIF, or an impossible size.
    """
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); copy the image again.")
    parser = next((parse for start, parse in _PARSERS.items() if data.startswith(start)), None)
    if parser is None or (parser is _webp and data[8:12] not in (b"WEBP", b"")):
        raise ImageError(f"{name} {UNKNOWN_FORMAT}; replace or remove it.")
    try:
        header = parser(data)
    except (struct.error, IndexError):
        problem = f"ends inside its header ({len(data)} bytes)"
        raise TruncatedHeader(f"{name} {problem}; copy the image again.") from None
    except ValueError as error:
        problem = f"has a damaged {parser.__name__[1:].upper()} header ({error})"
        raise ImageError(f"{name} {problem}; replace or remove it.") from None
    if header.width < 1 or header.height < 1:
        size = f"{header.width} x {header.height} pixels"
        raise ImageError(f"{name} states a size of {size}; replace or remove it.")
    return header


def check_complete(data: bytes, header: ImageFileHeader, *, name: str) -> bool:
    """Refuse a truncated PNG or JPEG, which decoders complete silently, and a damaged PNG chunk.

    A JPEG must have an end marker after its frame header: inside its scans FF is always followed by
    0 or a restart marker. Returns whether a PNG may state an orientation that its header lacks:
    after its pixels, or in a text chunk.
    """
    if header.format == "JPEG" and data.rfind(b"\xff\xd9", header.data_offset) < 0:
        problem = "is truncated (a JPEG without its end marker)"
        raise ImageError(f"{name} {problem}; copy the image again.")
    return header.format == "PNG" and _check_chunks(data, header, name)


def _check_chunks(data: bytes, header: ImageFileHeader, name: str) -> bool:
    view, position, n_pixel_bytes, has_late_orientation = memoryview(data), 8, 0, False
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        # Lower-case chunks are optional: damage there harms no pixel. IDAT has its own checksum,
        # which decoders verify.
        if kind != b"IDAT" and not kind[0] & 0x20:
            (checksum,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(view[position + 4 : end - 4]) != checksum:
                problem = "is damaged (checksum of a PNG chunk)"
                raise ImageError(f"{name} {problem}; copy the image again.")
        if kind == b"IEND":
            if n_pixel_bytes:
                return has_late_orientation
            break
        has_late_orientation |= kind == b"eXIf" and position > header.data_offset
        has_late_orientation |= kind in _TEXT_CHUNKS and data.startswith(_PROFILES, position + 8)
        n_pixel_bytes += length if kind == b"IDAT" else 0
        position = end
    raise ImageError(f"{name} is truncated (a PNG without its end chunk); copy the image again.")


def _png(data: bytes) -> ImageFileHeader:
    length, kind, width, height, bits, color_type = struct.unpack_from(">I4sIIBB", data, 8)
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
            orientation = _find_orientation(data[position + 8 : position + 8 + size]) or 1
        position += 12 + size
    fields = {"bits": bits, "channels": _PNG_CHANNELS[color_type], "is_plain": is_plain}
    return _upright_header("PNG", width, height, orientation, data_offset=position, **fields)


def _jpeg(data: bytes) -> ImageFileHeader:
    orientation, xmp_match = None, None
    for marker, position, length in _segments(data):
        body, end = position + 4, position + 2 + length
        if marker == 0xE1 and data.startswith(b"Exif\0\0", body):
            orientation = _find_orientation(data[body + 6 : end])
        if marker == 0xE1 and data.startswith(_XMP, body):
            xmp_match = _XMP_ORIENTATION.search(data, position, end)
        if marker in JPEG_FRAMES:
            _, bits, height, width, channels = struct.unpack_from(">HBHHB", data, position + 2)
            # XMP counts only where Exif states nothing, as in decoders.
            if orientation is None:
                orientation = int(xmp_match[1]) if xmp_match else 1
            fields = {"bits": bits, "channels": channels, "is_plain": True}
            return _upright_header(
                "JPEG", width, height, orientation or 1, data_offset=position, **fields
            )
    raise ValueError("no frame before the scan")


def jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Width, height and components of a JPEG or JPEG-LS code stream.

    Raises:
        ValueError, IndexError, struct.error: it is damaged or truncated.
    """
    header = _jpeg(data)
    return header.width, header.height, header.channels or 0


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, position and length of each segment up to the first scan."""
    position = 2
    while True:
        # Any number of FF may precede a marker.
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


def _gif(data: bytes) -> ImageFileHeader:
    return ImageFileHeader("GIF", *struct.unpack_from("<HH", data, 6), bits=8)


def _bmp(data: bytes) -> ImageFileHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size != 12 and size < 40:
        raise ValueError(f"a header of {size} bytes")
    # A negative height means that rows run from the top.
    layout = "<HHHH" if size == 12 else "<iiHH"
    width, height, _, bits = struct.unpack_from(layout, data, 18)
    return ImageFileHeader("BMP", width, abs(height), bits=min(bits, 8))


def _tiff(data: bytes) -> ImageFileHeader:
    tags = _tiff_tags(data, {256, 257, _ORIENTATION})
    if not {256, 257} <= tags.keys():
        raise ValueError("no size")
    return _upright_header("TIFF", tags[256], tags[257], tags.get(_ORIENTATION, 1))


def _webp(data: bytes) -> ImageFileHeader:
    kind = data[12:16]
    if data[8:12] != b"WEBP" or kind not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ValueError("no image chunk")
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ValueError("no start code")
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageFileHeader("WEBP", width & 0x3FFF, height & 0x3FFF, bits=8)
    if kind == b"VP8L":
        (word,) = struct.unpack_from("<I", data, 21)
        return ImageFileHeader("WEBP", (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1, bits=8)
    width, height = (int.from_bytes(data[offset : offset + 3], "little") + 1 for offset in (24, 27))
    data[29]  # IndexError where the size itself is truncated
    orientation = _webp_orientation(data) if data[20] & 0x08 else 1
    return _upright_header("WEBP", width, height, orientation, bits=8)


def _webp_orientation(data: bytes) -> int:
    position = 30
    while True:
        kind, size = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            body = data[position + 8 : position + 8 + size]
            return _find_orientation(body.removeprefix(b"Exif\0\0")) or 1
        position += 8 + size + (size & 1)


def _upright_header(
    format: ImageFormat, width: int, height: int, orientation: int, **fields: Any
) -> ImageFileHeader:
    if 5 <= orientation <= 8:
        width, height = height, width
    return ImageFileHeader(
        format, width, height, orientation if 1 <= orientation <= 8 else 1, **fields
    )


def _find_orientation(data: bytes) -> int | None:
    """The orientation that an Exif block states; a damaged block harms no pixel."""
    try:
        return _tiff_tags(data, {_ORIENTATION}).get(_ORIENTATION)
    except (struct.error, ValueError):
        return None


def _tiff_tags(data: bytes, requested: set[int]) -> dict[int, int]:
    """The first values of integer tags in the first directory of a TIFF or BigTIFF structure."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("no byte order")
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic not in (42, 43):
        raise ValueError("no TIFF magic number")
    # format of the offset and where it is; format of the count, bytes of an entry, of its value
    offset_format, offset_at, count_format, size, value_at = (
        ("I", 4, "H", 12, 8) if magic == 42 else ("Q", 8, "Q", 20, 12)
    )
    (start,) = struct.unpack_from(order + offset_format, data, offset_at)
    (n_entries,) = struct.unpack_from(order + count_format, data, start)
    start += struct.calcsize(count_format)
    formats = {1: "B", 3: "H", 4: "I", 16: "Q"}
    values: dict[int, int] = {}
    for entry in range(start, start + size * min(n_entries, _MAX_ENTRIES), size):
        tag, dtype = struct.unpack_from(order + "HH", data, entry)
        if tag in requested and dtype in formats:
            (values[tag],) = struct.unpack_from(order + formats[dtype], data, entry + value_at)
    return values


_PARSERS = {
    PNG_SIGNATURE: _png,
    b"\xff\xd8\xff": _jpeg,
    **dict.fromkeys((b"GIF87a", b"GIF89a"), _gif),
    b"BM": _bmp,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    b"RIFF": _webp,
}
