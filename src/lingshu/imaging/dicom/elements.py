"""The allow-listed elements of a DICOM file as raw bytes; no other element is ever parsed.

Names, dates, free text and private elements are skipped by their length. Nothing that a file holds
gets into an error, a warning or a log: errors call the file what the caller calls it and state the
kind of problem. Source: DICOM PS3.5 (encoding) and PS3.10 (file format).
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, cast

from lingshu.core.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
EXPLICIT_BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
PIXEL_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
# Ids leave this package only as keyed hashes.
ID_TAGS = {
    "patient": 0x00100020,
    "study": 0x0020000D,
    "series": 0x0020000E,
    "instance": 0x00080018,
    "accession": 0x00080050,
}
# What rendering, grouping and sorting need.
READ_TAGS = frozenset({
    *ID_TAGS.values(),
    # character set, image type, class, modality, conversion
    0x00080005, 0x00080008, 0x00080016, 0x00080060, 0x00080064,
    0x00180015, 0x00180050, 0x00185101,  # body part, slice thickness, view
    # numbers, position, orientation, laterality
    0x00200011, 0x00200013, 0x00200032, 0x00200037, 0x00200060, 0x00200062,
    # layout of the pixels
    0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280030,
    0x00280100, 0x00280101, 0x00280103,
    0x00280120, 0x00280121, 0x00280301, 0x00280302,  # padding, burned-in text, recognizable
    # window, rescale, tables
    0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281054, 0x00281056, 0x00283000, 0x00283010,
    # palettes
    *range(0x00281101, 0x00281104), *range(0x00281201, 0x00281204), *range(0x00281221, 0x00281224),
    # presentation shape, functional groups, frame offsets
    0x20500020, 0x52009229, 0x52009230, 0x7FE00001, 0x7FE00002,
})  # fmt: skip
# A deflated file may unpack to this much: 50 megapixels of 16 bits, and a header.
MAX_INFLATED = 256 << 20
MAX_IN_MEMORY_BYTES = 64 << 20  # larger files are read in pieces
UID_PATTERN = re.compile(r"[0-9.]{1,64}")


class NotDicomError(ImageError):
    """The file is not a DICOM file."""


class NoPixelDataError(ImageError):
    """A valid DICOM file without pixel data: a report, a plan, a directory."""


class BoundedFile(io.RawIOBase):
    """A file that never reads past its end, as io.BytesIO: a false length costs no memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int = -1) -> bytes:
        remaining = max(0, self._size - self._file.tell())
        return self._file.read(remaining if size < 0 else min(size, remaining))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@dataclass(frozen=True)
class DicomElements:
    """The allow-listed elements of one file, and where its pixel data are in `stream`."""

    dataset: Dataset
    # bytes of every element but sequences; pydicom replaces those in `dataset` as it converts them
    raw_values: Mapping[int, bytes]
    transfer_syntax: str
    little_endian: bool
    stream: BinaryIO
    size: int  # of `stream`, in bytes
    keyword: str | None = None
    pixel_vr: str = "OW"
    offset: int = 0
    length: int = 0

    @property
    def byte_order(self) -> str:
        """For `struct` and numpy."""
        return "<" if self.little_endian else ">"

    def raw_value(self, tag: int) -> bytes:
        """The bytes of an element, empty if it is missing."""
        return self.raw_values.get(tag, b"")

    def text(self, tag: int) -> str:
        """An element that should be plain ASCII, stripped."""
        return self.raw_value(tag).decode("ascii", "replace").strip(" \0")

    def numbers(self, tag: int) -> list[float]:
        """As the function `numbers`."""
        return numbers(self.raw_value(tag))

    def uint16(self, tag: int) -> int | None:
        value = self.raw_value(tag)
        return struct.unpack_from(self.byte_order + "H", value)[0] if len(value) >= 2 else None

    def functional_group(self, tag: int, frame: int) -> Dataset | None:
        """The functional group (PS3.3 C.7.6.16) of one frame, else that of all frames."""
        for sequence_tag, index in ((0x52009230, frame), (0x52009229, 0)):
            items = sequence(self.dataset, sequence_tag)
            if index < len(items) and (inner := sequence(items[index], tag)):
                return inner[0]
        return None


def raw_value(data: Dataset, tag: int) -> bytes:
    """The bytes of an element of a sequence's item."""
    value = data.get_item(tag).value if tag in data else None
    return value if isinstance(value, bytes) else b""


def numbers(text: bytes) -> list[float]:
    """The numbers of a decimal string; empty where one of them is not a finite number."""
    try:
        parts = text.decode("ascii").strip(" \0").split("\\")
        values = [float(part) for part in parts if part.strip()]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def sequence(data: Dataset, tag: int) -> list[Dataset]:
    """The items of a sequence; empty if it is missing or damaged."""
    if tag not in data:
        return []
    try:
        value = data[tag].value
    except Exception:
        # Conversion raises a dozen classes on damaged files.
        return []
    return list(value) if not isinstance(value, bytes | str) and hasattr(value, "__iter__") else []


@contextlib.contextmanager
def silence_pydicom() -> Iterator[None]:
    """Mute pydicom's warnings and log records, which quote values of elements."""
    logger = logging.getLogger("pydicom")
    previous_level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(previous_level)


@contextlib.contextmanager
def wrap_parse_errors(name: str, action: str) -> Iterator[None]:
    """Turn whatever pydicom and its decoders raise into one ImageError that quotes nothing."""
    try:
        with silence_pydicom():
            yield
    except (ImageError, ImportError):
        raise
    except Exception as error:
        # Not chained: the traceback of the first error would quote the file's elements.
        problem = f"{action} failed ({type(error).__name__})"
        raise ImageError(f"{name}: {problem}; export the file again, or leave it out.") from None


def read_elements(file: BinaryIO, *, name: str) -> DicomElements:
    """Parse the allow-listed elements of a DICOM file up to its pixel data.

    Raises:
        NotDicomError: not a DICOM file.
        ImageError: damaged, of an unknown encoding, or deflated to more than 256 MB.
        MissingExtraError: pydicom is not installed.
    """
    try:
        from pydicom.filereader import read_dataset
        from pydicom.uid import UID
    except ImportError as error:
        raise MissingExtraError.of("pydicom", "dicom") from error

    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    is_small = size <= MAX_IN_MEMORY_BYTES
    stream = io.BytesIO(file.read()) if is_small else cast(BinaryIO, BoundedFile(file, size))
    head = stream.read(1 << 16)
    transfer_syntax, start = _read_file_meta(head, name)
    if transfer_syntax is None:
        transfer_syntax = _guess_transfer_syntax(head[start : start + 8], name)
    stream.seek(start)
    if transfer_syntax == DEFLATED:
        inflated = _inflate(stream.read(), name)
        stream, size = io.BytesIO(inflated), len(inflated)
    with wrap_parse_errors(name, "reading the DICOM elements"):
        if not UID(transfer_syntax).is_transfer_syntax:
            remedy = "convert it with its manufacturer's software"
            raise ImageError(f"{name} is in an unknown transfer syntax; {remedy}.")
        little_endian = transfer_syntax != EXPLICIT_BIG_ENDIAN
        dataset = read_dataset(
            stream,
            transfer_syntax == IMPLICIT_LITTLE_ENDIAN,
            little_endian,
            stop_when=lambda tag, *_: int(tag) in PIXEL_KEYWORDS,
            specific_tags=list(READ_TAGS),
        )
        # By keys: iterating over the data set itself would convert every element.
        raw_values = {int(tag): raw_value(dataset, tag) for tag in dataset.keys()}  # noqa: SIM118
    return _locate_pixel_data(
        DicomElements(dataset, raw_values, transfer_syntax, little_endian, stream, size)
    )


def _locate_pixel_data(elements: DicomElements) -> DicomElements:
    """Read the header of the pixel data element, at which parsing stopped."""
    stream, order = elements.stream, elements.byte_order
    head = stream.read(8)
    if len(head) < 8:
        return elements
    group, element = struct.unpack(order + "HH", head[:4])
    keyword = PIXEL_KEYWORDS.get(group << 16 | element)
    if keyword is None:
        return elements
    vr, length_bytes = head[4:6].decode("latin-1"), head[4:]
    if vr in ("OB", "OW", "UN", "OF", "OD"):
        length_bytes = stream.read(4).ljust(4, b"\0")
    else:
        vr = "OW"
    (length,) = struct.unpack(order + "I", length_bytes)
    return replace(elements, keyword=keyword, pixel_vr=vr, offset=stream.tell(), length=length)


def _read_file_meta(head: bytes, name: str) -> tuple[str | None, int]:
    """The transfer syntax of the file meta information; where the data set starts (PS3.10 7.1)."""
    position = 132 if head[128:132] == b"DICM" else 0
    if position == 0 and head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        raise NotDicomError(f"{name} is not a DICOM file; leave it out.")
    transfer_syntax = None
    while head[position : position + 2] == b"\x02\0" and position + 8 <= len(head):
        element, vr, length = struct.unpack_from("<H2sH", head, position + 2)
        position += 8
        if vr in (b"OB", b"UN", b"OW", b"UT", b"SQ"):
            if position + 4 > len(head):
                break
            (length,) = struct.unpack_from("<I", head, position)
            position += 4
        if element == 0x0010:
            value = head[position : position + length].strip(b" \0").decode("latin-1")
            transfer_syntax = value if UID_PATTERN.fullmatch(value) else None
        position += length
    return transfer_syntax, position


def _guess_transfer_syntax(start: bytes, name: str) -> str:
    """The encoding of a data set without file meta information, by its first element."""
    if len(start) < 8:
        raise NotDicomError(f"{name} ends before its first DICOM element; copy the file again.")
    if struct.unpack("<H", start[:2])[0] > 0x00FF:
        return EXPLICIT_BIG_ENDIAN
    is_explicit = start[4:6].isalpha() and start[4:6].isupper()
    return EXPLICIT_LITTLE_ENDIAN if is_explicit else IMPLICIT_LITTLE_ENDIAN


def _inflate(compressed: bytes, name: str) -> bytes:
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = decompressor.decompress(compressed, MAX_INFLATED)
    except zlib.error:
        raise ImageError(f"{name}: its deflated data are damaged; export the file again.") from None
    if decompressor.unconsumed_tail:
        problem = f"unpacks to more than {MAX_INFLATED >> 20} MB"
        raise ImageError(f"{name} {problem}; convert it to an uncompressed file.")
    return data
