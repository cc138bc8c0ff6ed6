"""How the stored values of a DICOM frame are shown: modality LUT, window or VOI LUT, palette,
turned grey, 8 bits.
"""

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


class WindowedImage(NamedTuple):
    """A picture and the record of the window it is shown in."""

    pixels: NDArray[np.uint8]
    window: Window


def render_windows(
    elements: DicomElements, values: NDArray[Any], frame: int, window_names: Sequence[str] | None
) -> list[WindowedImage]:
    """One frame's stored values as pictures, one for each window; `names` as `DicomFile.render`
    takes them.
    """
    layout = read_layout(elements, "the file")
    if layout.photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        return [
            WindowedImage(
                _to_uint8(apply_color_lut(values, elements.dataset)[..., :3], 16), Window("palette")
            )
        ]
    if values.ndim == 3:
        return [WindowedImage(_to_uint8(values, layout.bits_stored), Window("color"))]
    modality_lut, has_rescale = _modality_lut(elements, frame)
    inverted = (layout.photometric == "MONOCHROME1") or elements.text(
        0x20500020
    ).upper() == "INVERSE"
    images = []
    for window, to_brightness in _select_windows(
        elements, values, frame, modality_lut, has_rescale, window_names
    ):

        def stored_to_brightness(
            stored: NDArray[np.float64], to_brightness: ValueTransform = to_brightness
        ) -> NDArray[np.float64]:
            return (
                1 - to_brightness(modality_lut(stored))
                if inverted
                else to_brightness(modality_lut(stored))
            )

        images.append(WindowedImage(to_gray(values, stored_to_brightness), window))
    return images


def _to_uint8(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    import numpy as np

    if values.dtype == np.uint8:
        return np.ascontiguousarray(values).astype(np.uint8, copy=False)
    if values.dtype.kind not in "iu":
        raise ValueError("colours that are no whole numbers")
    # Palettes of 16 bits often hold 8-bit colours; shifted, they would all be black.
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


def _lookup_table(item: Dataset, elements: DicomElements, *, normalize: bool) -> ValueTransform:
    """A lookup table (PS3.3 C.11.1.1): values below its first entry get the first, those beyond its
    last the last.
    """
    import numpy as np

    byte_order = "<" if elements.little_endian else ">"
    descriptor = raw_value(item, 0x00283002)
    n_entries, bits = (int(n) for n in np.frombuffer(descriptor[:6], byte_order + "u2")[[0, 2]])
    # The first mapped value is signed where the stored values are.
    first_mapped = int(
        np.frombuffer(
            descriptor[2:4], byte_order + ("i2" if elements.uint16(0x00280103) else "u2")
        )[0]
    )
    entries = np.frombuffer(raw_value(item, 0x00283006), byte_order + "u2")[
        : n_entries or 65536
    ].astype(np.float64)
    if not entries.size or not 1 <= bits <= 16:
        raise ValueError("a lookup table without entries")
    if normalize:
        entries = entries / max(float(2**bits - 1), float(entries.max()))
    return lambda values: entries[
        np.clip(np.rint(values) - first_mapped, 0, entries.size - 1).astype(np.int64)
    ]


def _select_windows(
    elements: DicomElements,
    values: NDArray[Any],
    frame: int,
    modality_lut: ValueTransform,
    has_rescale: bool,
    window_names: Sequence[str] | None,
) -> list[tuple[Window, ValueTransform]]:
    """The windows to show a frame in: those asked for that mean something here, else those of the
    file.
    """
    in_hounsfield = (
        elements.text(0x00080060).upper() == "CT"
        and has_rescale
        and elements.text(0x00281054).upper() in ("", "HU")
    )
    requested = [
        (window, window_function(window))
        for window in parse_windows(window_names or ())
        if in_hounsfield or not is_ct_preset(window)
    ]
    file_windows = (
        _file_windows(elements, values, frame, modality_lut, in_hounsfield)
        if not requested or FILE_WINDOW in (window_names or ())
        else []
    )
    if FILE_WINDOW not in (window_names or ()):
        return requested or file_windows
    # Of CT without a window of its own, the one of soft tissue stands for three.
    use_soft_tissue = in_hounsfield and file_windows[0][0].name == CT_DEFAULT_WINDOWS[0]
    return [file_windows[1] if use_soft_tissue else file_windows[0], *requested]


def _file_windows(
    elements: DicomElements,
    values: NDArray[Any],
    frame: int,
    modality_lut: ValueTransform,
    in_hounsfield: bool,
) -> list[tuple[Window, ValueTransform]]:
    """The windows of the file, CT's own where it has none, else the range of values."""
    tables = [
        item for item in sequence(elements.dataset, 0x00283010) if raw_value(item, 0x00283006)
    ]
    if tables:
        return [
            (
                Window("table" if i == 0 else f"table {i + 1}"),
                _lookup_table(item, elements, normalize=True),
            )
            for i, item in enumerate(tables)
        ]
    stated_windows = _stated_windows(elements, frame)
    if stated_windows:
        return [(window, window_function(window)) for window in stated_windows]
    if in_hounsfield:
        return [(window, window_function(window)) for window in parse_windows(CT_DEFAULT_WINDOWS)]
    return [_full_range_window(elements, values, modality_lut)]


def _stated_windows(elements: DicomElements, frame: int) -> list[Window]:
    group = elements.functional_group(0x00289132, frame)
    centers, widths = (
        numbers(_group_value(elements, group, tag)) for tag in (0x00281050, 0x00281051)
    )
    text = _group_value(elements, group, 0x00281056).decode("ascii", "replace").strip(" \0").upper()
    function = _VOI_LUT_FUNCTIONS.get(text or "LINEAR", "linear")
    windows = [
        Window("file" if i == 0 else f"file {i + 1}", center, width, function)
        for i, (center, width) in enumerate(zip(centers, widths, strict=False))
    ]
    return [
        window for window in windows if is_valid_window(window) and abs(window.center or 0) < 1e9
    ]


def _full_range_window(
    elements: DicomElements, values: NDArray[Any], modality_lut: ValueTransform
) -> tuple[Window, ValueTransform]:
    import numpy as np

    bounds = value_range(values, _padding_range(elements)) or value_range(values) or (0.0, 0.0)
    # A table need not rise: its extremes may lie anywhere between the ends.
    is_non_monotonic = (
        bool(sequence(elements.dataset, 0x00283000)) and bounds[1] - bounds[0] < 1 << 16
    )
    mapped = modality_lut(
        np.arange(bounds[0], bounds[1] + 1) if is_non_monotonic else np.array(bounds, np.float64)
    )
    window = full_range(float(mapped.min()), float(mapped.max()))
    return window, window_function(window)


def _padding_range(elements: DicomElements) -> tuple[float, float] | None:
    """The stored values that stand for no measurement (PS3.3 C.7.5.1.1.2)."""
    import numpy as np

    dtype = ("<" if elements.little_endian else ">") + (
        "i2" if elements.uint16(0x00280103) else "u2"
    )
    bounds = [
        float(np.frombuffer(elements.raw_value(tag)[:2], dtype)[0])
        for tag in (0x00280120, 0x00280121)
        if len(elements.raw_value(tag)) >= 2
    ]
    return (min(bounds), max(bounds)) if bounds else None
