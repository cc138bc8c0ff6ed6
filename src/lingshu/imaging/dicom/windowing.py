"""Stored values of a DICOM frame to 8-bit images: modality LUT, window or VOI LUT, palette."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lingshu.imaging.dicom.elements import DicomElements, numbers, raw_value, sequence
from lingshu.imaging.dicom.pixels import read_layout
from lingshu.imaging.windows import (
    CT_DEFAULT_WINDOWS,
    FILE_WINDOW,
    ValueTransform,
    VoiLutFunction,
    Window,
    full_range,
    is_ct_preset,
    is_valid_window,
    parse_windows,
    to_gray,
    value_range,
    window_function,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_VOI_LUT_FUNCTIONS: dict[str, VoiLutFunction] = {
    "LINEAR": "linear",
    "LINEAR_EXACT": "linear_exact",
    "SIGMOID": "sigmoid",
}
WindowFunction = tuple[Window, ValueTransform]


class WindowedImage(NamedTuple):
    """An 8-bit image and the window it is rendered in."""

    pixels: NDArray[np.uint8]
    window: Window


class _GrayFrame(NamedTuple):
    elements: DicomElements
    values: NDArray[Any]
    frame_index: int
    modality_lut: ValueTransform
    in_hounsfield: bool


def render_windows(
    elements: DicomElements, values: NDArray[Any], frame: int, window_names: Sequence[str] | None
) -> list[WindowedImage]:
    """One frame's stored values in each window; `window_names` as `DicomFile.render` takes them."""
    layout = read_layout(elements, "the file")
    if layout.photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        colors = apply_color_lut(values, elements.dataset)[..., :3]
        return [WindowedImage(_to_uint8(colors, 16), Window("palette"))]
    if values.ndim == 3:
        return [WindowedImage(_to_uint8(values, layout.bits_stored), Window("color"))]
    modality_lut, has_rescale = _modality_lut(elements, frame)
    is_ct = elements.text(0x00080060).upper() == "CT"
    in_hounsfield = is_ct and has_rescale and elements.text(0x00281054).upper() in ("", "HU")
    gray_frame = _GrayFrame(elements, values, frame, modality_lut, in_hounsfield)
    is_inverse = elements.text(0x20500020).upper() == "INVERSE"
    inverted = layout.photometric == "MONOCHROME1" or is_inverse

    def render(window_lut: ValueTransform) -> NDArray[np.uint8]:
        def brightness(stored: NDArray[np.float64]) -> NDArray[np.float64]:
            shown = window_lut(modality_lut(stored))
            return 1 - shown if inverted else shown

        return to_gray(values, brightness)

    windows = _select_windows(gray_frame, window_names or ())
    return [WindowedImage(render(window_lut), window) for window, window_lut in windows]


def _to_uint8(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    import numpy as np

    if values.dtype == np.uint8:
        return np.ascontiguousarray(values).astype(np.uint8, copy=False)
    if values.dtype.kind not in "iu":
        raise ValueError("colors that are not integers")
    # Palettes of 16 bits often hold 8-bit colors; shifted, they would all be black.
    shift = 0 if int(values.max(initial=0)) <= 255 and bits == 16 else max(0, bits - 8)
    return (values >> shift).clip(0, 255).astype(np.uint8)


def _modality_lut(elements: DicomElements, frame: int) -> tuple[ValueTransform, bool]:
    """Stored to modality values, and whether the file states how."""
    tables = sequence(elements.dataset, 0x00283000)
    if tables:
        return _lookup_table(tables[0], elements, normalize=False), True
    group = elements.functional_group(0x00289145, frame)
    slope, intercept = (
        numbers(_group_value(elements, group, tag)) for tag in (0x00281053, 0x00281052)
    )
    if len(slope) == 1 and len(intercept) == 1 and slope[0] != 0:
        return (lambda stored: stored * slope[0] + intercept[0]), True
    return (lambda stored: stored), False


def _group_value(elements: DicomElements, group: Dataset | None, tag: int) -> bytes:
    return elements.raw_value(tag) if group is None else raw_value(group, tag)


def _signed_dtype(elements: DicomElements) -> str:
    """The 16-bit type of padding and mapped values, signed where the stored values are."""
    return elements.byte_order + ("i2" if elements.uint16(0x00280103) else "u2")


def _lookup_table(item: Dataset, elements: DicomElements, *, normalize: bool) -> ValueTransform:
    """A lookup table (PS3.3 C.11.1.1): values outside its range get its first or last entry."""
    import numpy as np

    dtype, descriptor = elements.byte_order + "u2", raw_value(item, 0x00283002)
    n_entries, bits = (int(n) for n in np.frombuffer(descriptor[:6], dtype)[[0, 2]])
    first_mapped = int(np.frombuffer(descriptor[2:4], _signed_dtype(elements))[0])
    entries = np.frombuffer(raw_value(item, 0x00283006), dtype)[: n_entries or 65536]
    entries = entries.astype(np.float64)
    if not entries.size or not 1 <= bits <= 16:
        raise ValueError("a lookup table without entries")
    if normalize:
        entries = entries / max(float(2**bits - 1), float(entries.max()))

    def apply(values: NDArray[np.float64]) -> NDArray[np.float64]:
        indices = np.clip(np.rint(values) - first_mapped, 0, entries.size - 1)
        return entries[indices.astype(np.int64)]

    return apply


def _select_windows(frame: _GrayFrame, names: Sequence[str]) -> list[WindowFunction]:
    """The requested windows that apply to a frame, else those of its file."""
    requested = [
        (window, window_function(window))
        for window in parse_windows(names)
        if frame.in_hounsfield or not is_ct_preset(window)
    ]
    if FILE_WINDOW not in names:
        return requested or _file_windows(frame)
    first, *others = _file_windows(frame)
    # For CT without a window of its own, the soft tissue window replaces the three.
    use_soft_tissue = frame.in_hounsfield and first[0].name == CT_DEFAULT_WINDOWS[0]
    return [others[0] if use_soft_tissue else first, *requested]


def _file_windows(frame: _GrayFrame) -> list[WindowFunction]:
    """The windows of the file, those of CT if it has none, else the range of values."""
    elements = frame.elements
    tables = [
        item for item in sequence(elements.dataset, 0x00283010) if raw_value(item, 0x00283006)
    ]
    if tables:
        luts = [_lookup_table(item, elements, normalize=True) for item in tables]
        return [(Window(_numbered("table", index)), lut) for index, lut in enumerate(luts)]
    windows = _stated_windows(elements, frame.frame_index)
    if not windows and frame.in_hounsfield:
        windows = parse_windows(CT_DEFAULT_WINDOWS)
    windows = windows or [_full_range_window(frame)]
    return [(window, window_function(window)) for window in windows]


def _numbered(name: str, index: int) -> str:
    return name if index == 0 else f"{name} {index + 1}"


def _stated_windows(elements: DicomElements, frame: int) -> list[Window]:
    group = elements.functional_group(0x00289132, frame)
    centers, widths = (
        numbers(_group_value(elements, group, tag)) for tag in (0x00281050, 0x00281051)
    )
    text = _group_value(elements, group, 0x00281056).decode("ascii", "replace").strip(" \0").upper()
    function = _VOI_LUT_FUNCTIONS.get(text, "linear")
    windows = [
        Window(_numbered("file", index), center, width, function)
        for index, (center, width) in enumerate(zip(centers, widths, strict=False))
    ]
    return [
        window for window in windows if is_valid_window(window) and abs(window.center or 0) < 1e9
    ]


def _full_range_window(frame: _GrayFrame) -> Window:
    import numpy as np

    values, elements = frame.values, frame.elements
    low, high = value_range(values, _padding_range(elements)) or value_range(values) or (0.0, 0.0)
    stored = np.array((low, high), np.float64)
    if sequence(elements.dataset, 0x00283000) and high - low < 1 << 16:
        # A table need not be monotonic: its extremes may be anywhere between the ends.
        stored = np.arange(low, high + 1)
    mapped = frame.modality_lut(stored)
    return full_range(float(mapped.min()), float(mapped.max()))


def _padding_range(elements: DicomElements) -> tuple[float, float] | None:
    """The stored values that represent no measurement (PS3.3 C.7.5.1.1.2)."""
    import numpy as np

    padding = [elements.raw_value(tag)[:2] for tag in (0x00280120, 0x00280121)]
    dtype = _signed_dtype(elements)
    bounds = [float(np.frombuffer(value, dtype)[0]) for value in padding if len(value) == 2]
    return (min(bounds), max(bounds)) if bounds else None
