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

from lingshu.core.errors import BadImage
from lingshu.imaging._dicom_facts import PHOTOMETRIC, frame_count
from lingshu.imaging._elements import Elements, NoPixels, parsing, quiet
from lingshu.imaging._gdcm_apart import Died, Refused, decode_apart
from lingshu.imaging.headers import EndsEarly, jpeg_frame
from lingshu.imaging.read import MAX_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.pixels.decoders.base import Decoder

UNDEFINED = 0xFFFFFFFF
_J2K_START = re.compile(rb"\xff\x4f\xff\x51")


class Layout(NamedTuple):
    """How the values of a file lie, checked to be possible."""

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    signed: int
    photometric: str
    planar: int


def layout_of(found: Elements, name: str) -> Layout:
    """The shape of a file's frames.

    Raises:
        NoPixels: it holds none.
        BadImage: an impossible shape.
    """
    if found.keyword is None:
        raise NoPixels(f"{name} holds no pixel data; leave it out.")
    rows, columns = found.short(0x00280010), found.short(0x00280011)
    samples = found.short(0x00280002) or 1
    frames = frame_count(found)
    allocated = found.short(0x00280100) or {"PixelData": 0, "FloatPixelData": 32}.get(
        found.keyword, 64
    )
    stored = found.short(0x00280101) or allocated
    photometric = found.text(0x00280004).upper() or ("MONOCHROME2" if samples == 1 else "RGB")
    problem = None
    if not rows or not columns:
        problem = "it states no rows and columns"
    elif rows * columns > MAX_PIXELS:
        problem = f"{columns} x {rows} pixels are more than {MAX_PIXELS // 1_000_000} megapixels"
    elif samples not in (1, 3):
        problem = f"{samples} samples per pixel are neither 1 nor 3"
    elif frames is None:
        problem = "its number of frames is no number"
    elif allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated:
        problem = f"{stored} of {allocated} bits are impossible"
    elif photometric not in PHOTOMETRIC:
        problem = "its photometric interpretation is unknown"
    if problem or not rows or not columns or frames is None:
        raise BadImage(f"{name}: {problem}; export the file again, or leave it out.")
    signed = found.short(0x00280103) or 0
    return Layout(
        rows,
        columns,
        samples,
        frames,
        allocated,
        stored,
        signed,
        photometric,
        found.short(0x00280006) or 0,
    )


def decoded(
    found: Elements, name: str, wanted: Sequence[int] | None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The wanted frames with their numbers from 0, decoded one after the other.

    Raises:
        NoPixels, BadImage: as DicomFile.values.
    """
    layout = layout_of(found, name)
    numbers = range(layout.frames) if wanted is None else wanted
    bad = next((n for n in wanted or () if not 0 <= n < layout.frames), None)
    if bad is not None:
        raise BadImage(f"{name} has no frame {bad}: it has {layout.frames}, counted from 0.")
    with parsing(name, "choosing a decoder"):
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.uid import UID

        try:
            decoder = get_decoder(UID(found.syntax))
        except NotImplementedError:
            label = UID(found.syntax).name
            raise BadImage(f"{name}: no decoder reads {label}; convert the file.") from None
        if not decoder.is_available:
            raise BadImage(
                f"{name}: no installed decoder reads {decoder.UID.name}; pip install"
                " 'lingshu[dicom]'."
            )
        options = _options(found, layout)
        encapsulated = decoder.is_encapsulated
        if not encapsulated:
            _check_native(found, layout, name)
    if encapsulated:
        yield from _encapsulated(found, layout, name, numbers, decoder, options)
        return
    for number in numbers:
        with parsing(name, "decoding"):
            found.body.seek(found.offset)
            # One index at a time: the decoder then seeks to the frame and reads no other.
            values, _ = next(
                decoder.iter_array(found.body, indices=[number], validate=False, **options)
            )
        yield number, values


def _options(found: Elements, layout: Layout) -> dict[str, Any]:
    from pydicom.uid import UID

    photometric = layout.photometric
    return {
        "transfer_syntax_uid": UID(found.syntax), "rows": layout.rows, "columns": layout.columns, "samples_per_pixel": layout.samples,
        "number_of_frames": layout.frames, "bits_allocated": layout.allocated, "bits_stored": layout.stored,
        "pixel_representation": 1 if layout.signed else 0, "photometric_interpretation": photometric,
        "planar_configuration": 1 if layout.planar else 0, "pixel_keyword": found.keyword, "pixel_vr": found.pixel_vr,
    }  # fmt: skip


def _check_native(found: Elements, layout: Layout, name: str) -> None:
    per_frame = layout.rows * layout.columns * layout.samples * layout.allocated
    if layout.photometric == "YBR_FULL_422":
        per_frame = per_frame // 3 * 2
    needed = -(-per_frame * layout.frames // 8)
    left = found.size - found.offset
    held = left if found.length == UNDEFINED else min(found.length, left)
    if held < needed:
        raise BadImage(
            f"{name} is truncated: its {layout.frames} frames need {needed} bytes, it holds {held};"
            " copy the file again."
        )


def _encapsulated(
    found: Elements,
    layout: Layout,
    name: str,
    numbers: Sequence[int],
    decoder: Decoder,
    options: dict[str, Any],
) -> Iterator[tuple[int, NDArray[Any]]]:
    from pydicom.encaps import generate_frames

    tables = found.raw(0x7FE00001), found.raw(0x7FE00002)
    found.body.seek(found.offset)
    with parsing(name, "finding the frames"):
        fragments = generate_frames(
            found.body,
            number_of_frames=layout.frames,
            extended_offsets=tables if all(tables) else None,
        )
    place, wanted = 0, iter(numbers)
    for number in wanted:
        with parsing(name, "finding the frames"):
            code = next(itertools.islice(fragments, number - place, None), None)
        place = number + 1
        if code is None:
            raise BadImage(
                f"{name} ends before frame {number} of the {layout.frames} that it states; copy the"
                " file again."
            )
        _check_code(code, layout, name)
        values = _frame(code, name, decoder, {**options, "number_of_frames": 1})
        if values.shape[:2] != (layout.rows, layout.columns):
            raise BadImage(
                f"{name}: frame {number} has another size than the file states; export the file"
                " again."
            )
        yield number, values


# pydicom's names of the decoders, those that survive damaged frames first. GDCM does not, and works
# in a process of its own.
PLUGINS = ("pydicom", "pillow", "pyjpegls", "pylibjpeg", "gdcm")


def _frame(code: bytes, name: str, decoder: Decoder, options: dict[str, Any]) -> NDArray[Any]:
    """One compressed frame's values by the first decoder that reads it."""
    from pydicom.encaps import encapsulate

    problem = "no decoder"
    for plugin in (plugin for plugin in PLUGINS if plugin in decoder.available_plugins):
        try:
            if plugin == "gdcm":
                return decode_apart(code, options)
            with quiet():
                # With an index: without one, the decoder corrects signs in memory that it may not
                # write to.
                found = decoder.iter_array(
                    io.BytesIO(encapsulate([code], has_bot=False)),
                    indices=[0],
                    decoding_plugin=plugin,
                    **options,
                )
                return next(iter(found))[0]
        except (Died, Refused) as error:
            problem = str(error)
        except Exception as error:
            # Decoders raise a dozen classes on damaged frames; the next one may read it.
            problem = type(error).__name__
    raise BadImage(f"{name}: decoding failed ({problem}); export the file again, or leave it out.")


def _check_code(code: bytes, layout: Layout, name: str) -> None:
    """Refuse a code stream that states another size than the file: the decoder would believe it and
    claim the memory.
    """
    if len(code) > MAX_BYTES * 4:
        raise BadImage(
            f"{name} holds a frame of {len(code) >> 20} MB; export it with a better compression."
        )
    size = None
    if code.startswith(b"\xff\xd8"):
        try:
            size = jpeg_frame(code)
        except (EndsEarly, ValueError, struct.error, IndexError):
            raise BadImage(
                f"{name} holds a frame with a damaged JPEG header; export the file again."
            ) from None
        if code.rfind(b"\xff\xd9") < 0:
            raise BadImage(
                f"{name} holds a truncated frame (a JPEG without its end marker); copy the file"
                " again."
            )
    else:
        start = _J2K_START.search(code, 0, 1 << 12)
        if start and len(code) >= start.start() + 42:
            width, height, left, top = struct.unpack_from(">IIII", code, start.start() + 8)
            (components,) = struct.unpack_from(">H", code, start.start() + 40)
            size = (width - left, height - top, components)
    if size is not None and (size[:2] != (layout.columns, layout.rows) or size[2] > 4):
        raise BadImage(
            f"{name} holds a frame of another size than it states; export the file again."
        )
