"""Stored values of DICOM frames: sizes are checked against the file before a decoder sees a byte,
one frame at a time.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lingshu.core.errors import ImageError
from lingshu.imaging.dicom.elements import (
    DicomElements,
    NoPixelDataError,
    silence_pydicom,
    wrap_parse_errors,
)
from lingshu.imaging.dicom.gdcm_process import DecodeError, DecoderCrashed, decode_in_subprocess
from lingshu.imaging.dicom.metadata import PHOTOMETRIC, frame_count
from lingshu.imaging.headers import TruncatedHeader, jpeg_frame
from lingshu.imaging.read import MAX_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.pixels.decoders.base import Decoder

UNDEFINED_LENGTH = 0xFFFFFFFF
_J2K_START = re.compile(rb"\xff\x4f\xff\x51")


class FrameLayout(NamedTuple):
    """How the values of a file lie, checked to be possible."""

    rows: int
    columns: int
    samples_per_pixel: int
    n_frames: int
    bits_allocated: int
    bits_stored: int
    signed: int
    photometric: str
    planar_configuration: int


def read_layout(elements: DicomElements, name: str) -> FrameLayout:
    """The shape of a file's frames.

    Raises:
        NoPixels: it holds none.
        BadImage: an impossible shape.
    """
    if elements.keyword is None:
        raise NoPixelDataError(f"{name} holds no pixel data; leave it out.")
    rows, columns = elements.uint16(0x00280010), elements.uint16(0x00280011)
    samples_per_pixel = elements.uint16(0x00280002) or 1
    n_frames = frame_count(elements)
    bits_allocated = elements.uint16(0x00280100) or {"PixelData": 0, "FloatPixelData": 32}.get(
        elements.keyword, 64
    )
    bits_stored = elements.uint16(0x00280101) or bits_allocated
    photometric = elements.text(0x00280004).upper() or (
        "MONOCHROME2" if samples_per_pixel == 1 else "RGB"
    )
    problem = None
    if not rows or not columns:
        problem = "it states no rows and columns"
    elif rows * columns > MAX_PIXELS:
        problem = f"{columns} x {rows} pixels are more than {MAX_PIXELS // 1_000_000} megapixels"
    elif samples_per_pixel not in (1, 3):
        problem = f"{samples_per_pixel} samples per pixel are neither 1 nor 3"
    elif n_frames is None:
        problem = "its number of frames is no number"
    elif bits_allocated not in (1, 8, 16, 32, 64) or not 1 <= bits_stored <= bits_allocated:
        problem = f"{bits_stored} of {bits_allocated} bits are impossible"
    elif photometric not in PHOTOMETRIC:
        problem = "its photometric interpretation is unknown"
    if problem or not rows or not columns or n_frames is None:
        raise ImageError(f"{name}: {problem}; export the file again, or leave it out.")
    signed = elements.uint16(0x00280103) or 0
    return FrameLayout(
        rows,
        columns,
        samples_per_pixel,
        n_frames,
        bits_allocated,
        bits_stored,
        signed,
        photometric,
        elements.uint16(0x00280006) or 0,
    )


def decode_frames(
    elements: DicomElements, name: str, requested: Sequence[int] | None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The wanted frames with their numbers from 0, decoded one after the other.

    Raises:
        NoPixels, BadImage: as DicomFile.values.
    """
    layout = read_layout(elements, name)
    indices = range(layout.n_frames) if requested is None else requested
    out_of_range = next((n for n in requested or () if not 0 <= n < layout.n_frames), None)
    if out_of_range is not None:
        raise ImageError(
            f"{name} has no frame {out_of_range}: it has {layout.n_frames}, counted from 0."
        )
    with wrap_parse_errors(name, "choosing a decoder"):
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.uid import UID

        try:
            decoder = get_decoder(UID(elements.transfer_syntax))
        except NotImplementedError:
            label = UID(elements.transfer_syntax).name
            raise ImageError(f"{name}: no decoder reads {label}; convert the file.") from None
        if not decoder.is_available:
            raise ImageError(
                f"{name}: no installed decoder reads {decoder.UID.name}; pip install"
                " 'lingshu[dicom]'."
            )
        options = _decoder_options(elements, layout)
        encapsulated = decoder.is_encapsulated
        if not encapsulated:
            _check_native(elements, layout, name)
    if encapsulated:
        yield from _decode_encapsulated(elements, layout, name, indices, decoder, options)
        return
    for index in indices:
        with wrap_parse_errors(name, "decoding"):
            elements.stream.seek(elements.offset)
            # One index at a time: the decoder then seeks to the frame and reads no other.
            values, _ = next(
                decoder.iter_array(elements.stream, indices=[index], validate=False, **options)
            )
        yield index, values


def _decoder_options(elements: DicomElements, layout: FrameLayout) -> dict[str, Any]:
    from pydicom.uid import UID

    photometric = layout.photometric
    return {
        "transfer_syntax_uid": UID(elements.transfer_syntax), "rows": layout.rows, "columns": layout.columns, "samples_per_pixel": layout.samples_per_pixel,
        "number_of_frames": layout.n_frames, "bits_allocated": layout.bits_allocated, "bits_stored": layout.bits_stored,
        "pixel_representation": 1 if layout.signed else 0, "photometric_interpretation": photometric,
        "planar_configuration": 1 if layout.planar_configuration else 0, "pixel_keyword": elements.keyword, "pixel_vr": elements.pixel_vr,
    }  # fmt: skip


def _check_native(elements: DicomElements, layout: FrameLayout, name: str) -> None:
    bits_per_frame = layout.rows * layout.columns * layout.samples_per_pixel * layout.bits_allocated
    if layout.photometric == "YBR_FULL_422":
        bits_per_frame = bits_per_frame // 3 * 2
    required = -(-bits_per_frame * layout.n_frames // 8)
    remaining = elements.size - elements.offset
    available = (
        remaining if elements.length == UNDEFINED_LENGTH else min(elements.length, remaining)
    )
    if available < required:
        raise ImageError(
            f"{name} is truncated: its {layout.n_frames} frames need {required} bytes, it holds {available};"
            " copy the file again."
        )


def _decode_encapsulated(
    elements: DicomElements,
    layout: FrameLayout,
    name: str,
    indices: Sequence[int],
    decoder: Decoder,
    options: dict[str, Any],
) -> Iterator[tuple[int, NDArray[Any]]]:
    from pydicom.encaps import generate_frames

    offset_tables = elements.raw_value(0x7FE00001), elements.raw_value(0x7FE00002)
    elements.stream.seek(elements.offset)
    with wrap_parse_errors(name, "finding the frames"):
        frames = generate_frames(
            elements.stream,
            number_of_frames=layout.n_frames,
            extended_offsets=offset_tables if all(offset_tables) else None,
        )
    position, remaining = 0, iter(indices)
    for index in remaining:
        with wrap_parse_errors(name, "finding the frames"):
            codestream = next(itertools.islice(frames, index - position, None), None)
        position = index + 1
        if codestream is None:
            raise ImageError(
                f"{name} ends before frame {index} of the {layout.n_frames} that it states; copy the"
                " file again."
            )
        _check_codestream(codestream, layout, name)
        values = _decode_frame(codestream, name, decoder, {**options, "number_of_frames": 1})
        if values.shape[:2] != (layout.rows, layout.columns):
            raise ImageError(
                f"{name}: frame {index} has another size than the file states; export the file"
                " again."
            )
        yield index, values


# pydicom's names of the decoders, those that survive damaged frames first. GDCM does not, and works
# in a process of its own.
DECODER_PLUGINS = ("pydicom", "pillow", "pyjpegls", "pylibjpeg", "gdcm")


def _decode_frame(
    codestream: bytes, name: str, decoder: Decoder, options: dict[str, Any]
) -> NDArray[Any]:
    """One compressed frame's values by the first decoder that reads it."""
    from pydicom.encaps import encapsulate

    problem = "no decoder"
    for plugin in (plugin for plugin in DECODER_PLUGINS if plugin in decoder.available_plugins):
        try:
            if plugin == "gdcm":
                return decode_in_subprocess(codestream, options)
            with silence_pydicom():
                # With an index: without one, the decoder corrects signs in memory that it may not
                # write to.
                arrays = decoder.iter_array(
                    io.BytesIO(encapsulate([codestream], has_bot=False)),
                    indices=[0],
                    decoding_plugin=plugin,
                    **options,
                )
                return next(iter(arrays))[0]
        except (DecoderCrashed, DecodeError) as error:
            problem = str(error)
        except Exception as error:
            # Decoders raise a dozen classes on damaged frames; the next one may read it.
            problem = type(error).__name__
    raise ImageError(
        f"{name}: decoding failed ({problem}); export the file again, or leave it out."
    )


def _check_codestream(codestream: bytes, layout: FrameLayout, name: str) -> None:
    """Refuse a code stream that states another size than the file: the decoder would believe it and
    claim the memory.
    """
    if len(codestream) > MAX_BYTES * 4:
        raise ImageError(
            f"{name} holds a frame of {len(codestream) >> 20} MB; export it with a better compression."
        )
    size = None
    if codestream.startswith(b"\xff\xd8"):
        try:
            size = jpeg_frame(codestream)
        except (TruncatedHeader, ValueError, struct.error, IndexError):
            raise ImageError(
                f"{name} holds a frame with a damaged JPEG header; export the file again."
            ) from None
        if codestream.rfind(b"\xff\xd9") < 0:
            raise ImageError(
                f"{name} holds a truncated frame (a JPEG without its end marker); copy the file"
                " again."
            )
    else:
        start = _J2K_START.search(codestream, 0, 1 << 12)
        if start and len(codestream) >= start.start() + 42:
            width, height, left, top = struct.unpack_from(">IIII", codestream, start.start() + 8)
            (components,) = struct.unpack_from(">H", codestream, start.start() + 40)
            size = (width - left, height - top, components)
    if size is not None and (size[:2] != (layout.columns, layout.rows) or size[2] > 4):
        raise ImageError(
            f"{name} holds a frame of another size than it states; export the file again."
        )
