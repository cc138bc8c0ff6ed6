"""How the stored values of a DICOM frame are shown: modality LUT, window or VOI LUT, palette,
turned grey, 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lingshu.imaging._dicom_pixels import layout_of
from lingshu.imaging._elements import Elements, numbers, raw, sequence
from lingshu.imaging.windows import (
    CT_DEFAULT,
    OWN,
    Shape,
    Values,
    Window,
    brightness,
    full_range,
    is_preset,
    possible,
    presets,
    to_grey,
    value_range,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_SHAPES: dict[str, Shape] = {
    "LINEAR": "linear",
    "LINEAR_EXACT": "linear_exact",
    "SIGMOID": "sigmoid",
}


class Shown(NamedTuple):
    """A picture and the record of the window it is shown in."""

    pixels: NDArray[np.uint8]
    window: Window


def show(
    found: Elements, values: NDArray[Any], frame: int, names: Sequence[str] | None
) -> list[Shown]:
    """One frame's stored values as pictures, one for each window; `names` as `DicomFile.render`
    takes them.
    """
    layout = layout_of(found, "the file")
    if layout.photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        return [
            Shown(_eight_bits(apply_color_lut(values, found.data)[..., :3], 16), Window("palette"))
        ]
    if values.ndim == 3:
        return [Shown(_eight_bits(values, layout.stored), Window("colour"))]
    modality, rescaled = _modality(found, frame)
    turned = (layout.photometric == "MONOCHROME1") or found.text(0x20500020).upper() == "INVERSE"
    shown = []
    for window, brightness_of in _windows(found, values, frame, modality, rescaled, names):

        def lit(stored: NDArray[np.float64], of: Values = brightness_of) -> NDArray[np.float64]:
            return 1 - of(modality(stored)) if turned else of(modality(stored))

        shown.append(Shown(to_grey(values, lit), window))
    return shown


def _eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    import numpy as np

    if values.dtype == np.uint8:
        return np.ascontiguousarray(values).astype(np.uint8, copy=False)
    if values.dtype.kind not in "iu":
        raise ValueError("colours that are no whole numbers")
    # Palettes of 16 bits often hold 8-bit colours; shifted, they would all be black.
    shift = 0 if int(values.max(initial=0)) <= 255 and bits == 16 else max(0, bits - 8)
    return (values >> shift).clip(0, 255).astype(np.uint8)


def _modality(found: Elements, frame: int) -> tuple[Values, bool]:
    """Stored to modality values, and whether the file states how."""
    tables = sequence(found.data, 0x00283000)
    if tables:
        return _table(tables[0], found, unit=False), True
    group = found.group(0x00289145, frame)
    slope, intercept = (numbers(_bytes(found, group, tag)) for tag in (0x00281053, 0x00281052))
    if len(slope) == 1 and len(intercept) == 1 and slope[0] != 0:
        return (lambda stored: stored * slope[0] + intercept[0]), True
    return (lambda stored: stored), False


def _bytes(found: Elements, group: Dataset | None, tag: int) -> bytes:
    return found.raw(tag) if group is None else raw(group, tag)


def _table(item: Dataset, found: Elements, *, unit: bool) -> Values:
    """A lookup table (PS3.3 C.11.1.1): values below its first entry get the first, those beyond its
    last the last.
    """
    import numpy as np

    order = "<" if found.little else ">"
    descriptor = raw(item, 0x00283002)
    count, bits = (int(n) for n in np.frombuffer(descriptor[:6], order + "u2")[[0, 2]])
    # The first mapped value is signed where the stored values are.
    first = int(
        np.frombuffer(descriptor[2:4], order + ("i2" if found.short(0x00280103) else "u2"))[0]
    )
    entries = np.frombuffer(raw(item, 0x00283006), order + "u2")[: count or 65536].astype(
        np.float64
    )
    if not entries.size or not 1 <= bits <= 16:
        raise ValueError("a lookup table without entries")
    if unit:
        entries = entries / max(float(2**bits - 1), float(entries.max()))
    return lambda values: entries[
        np.clip(np.rint(values) - first, 0, entries.size - 1).astype(np.int64)
    ]


def _windows(
    found: Elements,
    values: NDArray[Any],
    frame: int,
    modality: Values,
    rescaled: bool,
    names: Sequence[str] | None,
) -> list[tuple[Window, Values]]:
    """The windows to show a frame in: those asked for that mean something here, else those of the
    file.
    """
    computed = (
        found.text(0x00080060).upper() == "CT"
        and rescaled
        and found.text(0x00281054).upper() in ("", "HU")
    )
    asked = [
        (window, brightness(window))
        for window in presets(names or ())
        if computed or not is_preset(window)
    ]
    own = (
        _own(found, values, frame, modality, computed) if not asked or OWN in (names or ()) else []
    )
    if OWN not in (names or ()):
        return asked or own
    # Of CT without a window of its own, the one of soft tissue stands for three.
    soft = computed and own[0][0].name == CT_DEFAULT[0]
    return [own[1] if soft else own[0], *asked]


def _own(
    found: Elements, values: NDArray[Any], frame: int, modality: Values, computed: bool
) -> list[tuple[Window, Values]]:
    """The windows of the file, CT's own where it has none, else the range of values."""
    tables = [item for item in sequence(found.data, 0x00283010) if raw(item, 0x00283006)]
    if tables:
        return [
            (Window("table" if i == 0 else f"table {i + 1}"), _table(item, found, unit=True))
            for i, item in enumerate(tables)
        ]
    stated = _stated(found, frame)
    if stated:
        return [(window, brightness(window)) for window in stated]
    if computed:
        return [(window, brightness(window)) for window in presets(CT_DEFAULT)]
    return [_range(found, values, modality)]


def _stated(found: Elements, frame: int) -> list[Window]:
    group = found.group(0x00289132, frame)
    centers, widths = (numbers(_bytes(found, group, tag)) for tag in (0x00281050, 0x00281051))
    text = _bytes(found, group, 0x00281056).decode("ascii", "replace").strip(" \0").upper()
    shape = _SHAPES.get(text or "LINEAR", "linear")
    windows = [
        Window("file" if i == 0 else f"file {i + 1}", center, width, shape)
        for i, (center, width) in enumerate(zip(centers, widths, strict=False))
    ]
    return [window for window in windows if possible(window) and abs(window.center or 0) < 1e9]


def _range(found: Elements, values: NDArray[Any], modality: Values) -> tuple[Window, Values]:
    import numpy as np

    ends = value_range(values, _padding(found)) or value_range(values) or (0.0, 0.0)
    # A table need not rise: its extremes may lie anywhere between the ends.
    bends = bool(sequence(found.data, 0x00283000)) and ends[1] - ends[0] < 1 << 16
    shown = modality(np.arange(ends[0], ends[1] + 1) if bends else np.array(ends, np.float64))
    window = full_range(float(shown.min()), float(shown.max()))
    return window, brightness(window)


def _padding(found: Elements) -> tuple[float, float] | None:
    """The stored values that stand for no measurement (PS3.3 C.7.5.1.1.2)."""
    import numpy as np

    kind = ("<" if found.little else ">") + ("i2" if found.short(0x00280103) else "u2")
    ends = [
        float(np.frombuffer(found.raw(tag)[:2], kind)[0])
        for tag in (0x00280120, 0x00280121)
        if len(found.raw(tag)) >= 2
    ]
    return (min(ends), max(ends)) if ends else None
