"""Stored values of DICOM frames, one at a time; sizes are checked before a decoder sees a byte."""

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
from lingshu.imaging.dicom.metadata import closed_terms, frame_count
from lingshu.imaging.headers import jpeg_frame
from lingshu.imaging.read import MAX_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.pixels.decoders.base import Decoder

UNDEFINED_LENGTH = 0xFFFFFFFF
# pydicom's names of the decoders, those that survive damaged frames first. GDCM does not, and runs
# in a separate process.
DECODER_PLUGINS = ("pydicom", "pillow", "pyjpegls", "pylibjpeg", "gdcm")
_J2K_START = re.compile(rb"\xff\x4f\xff\x51")
Frames = Iterator[tuple[int, "NDArray[Any]"]]


class FrameLayout(NamedTuple):
    """The checked layout of the values of a file."""

    rows: int
    columns: int
    samples_per_pixel: int
    n_frames: int
    bits_allocated: int
    bits_stored: int
    photometric: str
    signed: bool
    is_planar: bool


def read_layout(elements: DicomElements, name: str) -> FrameLayout:
    """The layout of a file's frames.

    Raises:
        NoPixelDataError: it has none.
        ImageError: an impossible layout.
    """
    if elements.keyword is None:
        raise NoPixelDataError(f"{name} holds no pixel data; leave it out.")
    default_bits = {"PixelData": 0, "FloatPixelData": 32}.get(elements.keyword, 64)
    bits_allocated = elements.uint16(0x00280100) or default_bits
    samples_per_pixel = elements.uint16(0x00280002) or 1
    default_photometric = "MONOCHROME2" if samples_per_pixel == 1 else "RGB"
    n_frames = frame_count(elements)
    layout = FrameLayout(
        rows=elements.uint16(0x00280010) or 0,
        columns=elements.uint16(0x00280011) or 0,
        samples_per_pixel=samples_per_pixel,
        n_frames=n_frames or 0,
        bits_allocated=bits_allocated,
        bits_stored=elements.uint16(0x00280101) or bits_allocated,
        photometric=elements.text(0x00280004).upper() or default_photometric,
        signed=bool(elements.uint16(0x00280103)),
        is_planar=bool(elements.uint16(0x00280006)),
    )
    problem = (
        "its number of frames is not a number" if n_frames is None else _layout_problem(layout)
    )
    if problem:
        raise ImageError(f"{name}: {problem}; export the file again, or leave it out.")
    return layout


def _layout_problem(layout: FrameLayout) -> str | None:
    rows, columns, bits = layout.rows, layout.columns, layout.bits_allocated
    if not rows or not columns:
        return "it states no rows and columns"
    if rows * columns > MAX_PIXELS:
        return f"{columns} x {rows} pixels are more than {MAX_PIXELS // 1_000_000} megapixels"
    if layout.samples_per_pixel not in (1, 3):
        return f"{layout.samples_per_pixel} samples per pixel are neither 1 nor 3"
    if bits not in (1, 8, 16, 32, 64) or not 1 <= layout.bits_stored <= bits:
        return f"{layout.bits_stored} of {bits} bits are impossible"
    if layout.photometric not in closed_terms("photometric"):
        return "its photometric interpretation is unknown"
    return None


def decode_frames(elements: DicomElements, name: str, requested: Sequence[int] | None) -> Frames:
    """The requested frames with their numbers from 0, decoded one by one.

    Raises:
        NoPixelDataError, ImageError: as `DicomFile.values`.
    """
    layout = read_layout(elements, name)
    indices = range(layout.n_frames) if requested is None else requested
    out_of_range = next((n for n in requested or () if not 0 <= n < layout.n_frames), None)
    if out_of_range is not None:
        problem = f"has no frame {out_of_range}: it has {layout.n_frames}, counted from 0"
        raise ImageError(f"{name} {problem}.")
    with wrap_parse_errors(name, "choosing a decoder"):
        decoder = _get_decoder(elements.transfer_syntax, name)
        options = {
            "transfer_syntax_uid": decoder.UID,
            "rows": layout.rows,
            "columns": layout.columns,
            "samples_per_pixel": layout.samples_per_pixel,
            "number_of_frames": layout.n_frames,
            "bits_allocated": layout.bits_allocated,
            "bits_stored": layout.bits_stored,
            "pixel_representation": int(layout.signed),
            "photometric_interpretation": layout.photometric,
            "planar_configuration": int(layout.is_planar),
            "pixel_keyword": elements.keyword,
            "pixel_vr": elements.pixel_vr,
        }
        if not decoder.is_encapsulated:
            _check_native(elements, layout, name)
    if decoder.is_encapsulated:
        yield from _decode_encapsulated(elements, layout, name, indices, decoder, options)
        return
    for index in indices:
        with wrap_parse_errors(name, "decoding"):
            elements.stream.seek(elements.offset)
            # One index at a time: the decoder then seeks to the frame and reads no other.
            arrays = decoder.iter_array(elements.stream, indices=[index], validate=False, **options)
            values, _ = next(arrays)
        yield index, values


def _get_decoder(transfer_syntax: str, name: str) -> Decoder:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(transfer_syntax))
    except NotImplementedError:
        label = UID(transfer_syntax).name
        raise ImageError(f"{name}: no decoder reads {label}; convert the file.") from None
    if not decoder.is_available:
        remedy = "pip install 'lingshu[dicom]'"
        raise ImageError(f"{name}: no installed decoder reads {decoder.UID.name}; {remedy}.")
    return decoder


def _check_native(elements: DicomElements, layout: FrameLayout, name: str) -> None:
    bits_per_frame = layout.rows * layout.columns * layout.samples_per_pixel * layout.bits_allocated
    if layout.photometric == "YBR_FULL_422":
        bits_per_frame = bits_per_frame // 3 * 2
    required = -(-bits_per_frame * layout.n_frames // 8)
    available = elements.size - elements.offset
    if elements.length != UNDEFINED_LENGTH:
        available = min(elements.length, available)
    if available < required:
        problem = f"its {layout.n_frames} frames need {required} bytes, it holds {available}"
        raise ImageError(f"{name} is truncated: {problem}; copy the file again.")


def _decode_encapsulated(
    elements: DicomElements,
    layout: FrameLayout,
    name: str,
    indices: Sequence[int],
    decoder: Decoder,
    options: dict[str, Any],
) -> Frames:
    from pydicom.encaps import generate_frames

    offsets = elements.raw_value(0x7FE00001), elements.raw_value(0x7FE00002)
    extended_offsets = offsets if all(offsets) else None
    elements.stream.seek(elements.offset)
    with wrap_parse_errors(name, "finding the frames"):
        frames = generate_frames(
            elements.stream, number_of_frames=layout.n_frames, extended_offsets=extended_offsets
        )
    position = 0
    for index in indices:
        with wrap_parse_errors(name, "finding the frames"):
            codestream = next(itertools.islice(frames, index - position, None), None)
        position = index + 1
        if codestream is None:
            problem = f"ends before frame {index} of the {layout.n_frames} that it states"
            raise ImageError(f"{name} {problem}; copy the file again.")
        _check_codestream(codestream, layout, name)
        values = _decode_frame(codestream, name, decoder, {**options, "number_of_frames": 1})
        if values.shape[:2] != (layout.rows, layout.columns):
            problem = f"frame {index} has another size than the file states"
            raise ImageError(f"{name}: {problem}; export the file again.")
        yield index, values


def _decode_frame(
    codestream: bytes, name: str, decoder: Decoder, options: dict[str, Any]
) -> NDArray[Any]:
    """The values of one compressed frame by the first decoder that reads it."""
    from pydicom.encaps import encapsulate

    problem = "no decoder"
    for plugin in (plugin for plugin in DECODER_PLUGINS if plugin in decoder.available_plugins):
        try:
            if plugin == "gdcm":
                return decode_in_subprocess(codestream, options)
            with silence_pydicom():
                stream = io.BytesIO(encapsulate([codestream], has_bot=False))
                # With an index: without one, the decoder corrects signs in read-only memory.
                arrays = decoder.iter_array(stream, indices=[0], decoding_plugin=plugin, **options)
                return next(iter(arrays))[0]
        except (DecoderCrashed, DecodeError) as error:
            problem = str(error)
        except Exception as error:
            # Decoders raise a dozen classes on damaged frames; the next one may read it.
            problem = type(error).__name__
    problem = f"decoding failed ({problem})"
    raise ImageError(f"{name}: {problem}; export the file again, or leave it out.")


def _check_codestream(codestream: bytes, layout: FrameLayout, name: str) -> None:
    """Refuse a code stream of another size than the file states: decoders would allocate it."""
    problem, size = None, None
    if len(codestream) > MAX_BYTES * 4:
        problem = f"of {len(codestream) >> 20} MB; export it with a better compression"
    elif codestream.startswith(b"\xff\xd8"):
        try:
            size = jpeg_frame(codestream)
        except (ValueError, struct.error, IndexError):
            problem = "with a damaged JPEG header; export the file again"
        else:
            if codestream.rfind(b"\xff\xd9") < 0:
                problem = "that is truncated (a JPEG without its end marker); copy the file again"
    else:
        start = _J2K_START.search(codestream, 0, 1 << 12)
        if start and len(codestream) >= start.start() + 42:
            width, height, left, top = struct.unpack_from(">IIII", codestream, start.start() + 8)
            (components,) = struct.unpack_from(">H", codestream, start.start() + 40)
            size = (width - left, height - top, components)
    if size is not None and (size[:2] != (layout.columns, layout.rows) or size[2] > 4):
        problem = problem or "of another size than it states; export the file again"
    if problem:
        raise ImageError(f"{name} holds a frame {problem}.")
