"""Windows: modality values of CT, MR or X-ray to 8-bit gray, and the record of the window used.

Sources: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT; LINEAR, LINEAR_EXACT, SIGMOID).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lingshu.core.errors import InputError, suggest_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VoiLutFunction = Literal["linear", "linear_exact", "sigmoid", "range"]
ValueTransform = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]
_BLOCK_PIXELS = 1 << 20  # pixels whose values are held as floats at a time


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are shown from black to white; `center` and `width` are None for a table.

    `name` says where it comes from: a preset of CT (`lung`), numbers that were `requested`, the
    file (`file`, `file 2`), the file's own table (`table`), or the minimum and maximum value
    (`range`) if there is no window. The numbers are in the units of the modality, such as HU.
    """

    name: str
    center: float | None = None
    width: float | None = None
    function: VoiLutFunction = "linear"

    def __str__(self) -> str:
        if self.center is None or self.width is None:
            return self.name
        return f"{self.name} {self.center:g}/{self.width:g}"


# Center and width in HU as radiology teaches them (radiopaedia.org, "Windowing (CT)").
_CT_PRESETS = {
    "lung": (-600, 1500),
    "soft": (50, 400),
    "bone": (400, 1800),
    "brain": (40, 80),
    "liver": (30, 150),
    "abdomen": (50, 400),
    "mediastinum": (50, 350),
}
CT_WINDOWS = {name: Window(name, *values) for name, values in _CT_PRESETS.items()}
CT_DEFAULT_WINDOWS = ("lung", "soft", "bone")
FILE_WINDOW = "file"  # the file's own first window, or what replaces it
_NUMBER = r"[+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?"
_CENTER_WIDTH = re.compile(rf"({_NUMBER}),({_NUMBER})")


def parse_windows(names: Sequence[str]) -> list[Window]:
    """The windows of names: presets of CT, and "CENTER,WIDTH"; "file" is skipped.

    Raises:
        InputError: an unknown name, or an impossible width.
    """
    return [_parse_window(name) for name in names if name != FILE_WINDOW]


def _parse_window(name: str) -> Window:
    match = _CENTER_WIDTH.fullmatch(name.replace(" ", ""))
    if match:
        window = Window("requested", float(match[1]), float(match[2]))
        if not is_valid_window(window):
            remedy = "write CENTER,WIDTH with a width of 1 or more"
            raise InputError(f"a window of width {match[2]} shows nothing; {remedy}.")
        return window
    if name not in CT_WINDOWS:
        suggestion = suggest_name(name, (*CT_WINDOWS, FILE_WINDOW))
        remedy = "Or write CENTER,WIDTH, such as 40,400."
        raise InputError(f"no window is called {name!r}; {suggestion} {remedy}")
    return CT_WINDOWS[name]


def is_ct_preset(window: Window) -> bool:
    """Whether its numbers are in HU, and so apply to CT only."""
    return CT_WINDOWS.get(window.name) == window


def is_valid_window(window: Window) -> bool:
    """False for a width that the window's function cannot use (PS3.3 C.11.2.1.2)."""
    return window.width is None or window.width >= (1 if window.function == "linear" else 1e-12)


def window_function(window: Window) -> ValueTransform:
    """Modality values to brightness from 0 to 1; a full range of equal values is black."""
    import numpy as np

    center, width = window.center or 0.0, window.width or 0.0

    def apply(values: NDArray[np.float64]) -> NDArray[np.float64]:
        if window.function == "sigmoid":
            return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        if window.function == "linear":
            # A width of 1 is a threshold.
            return np.clip((values - (center - 0.5)) / max(width - 1, 1e-12) + 0.5, 0, 1)
        if width > 0:
            return np.clip((values - center) / width + 0.5, 0, 1)
        return np.zeros_like(values)

    return apply


def full_range(low: float, high: float) -> Window:
    """The window from the minimum to the maximum value."""
    return Window("range", (low + high) / 2, high - low, "range")


def to_gray(frame: NDArray[Any], to_brightness: ValueTransform) -> NDArray[np.uint8]:
    """Height x width stored values to gray; `to_brightness` maps them to 0..1.

    Values of up to 16 bits go through a table, others are computed block by block. NaN is black.
    """
    import numpy as np

    def to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
        brightness = np.nan_to_num(np.clip(to_brightness(values.astype(np.float64)), 0, 1))
        return np.rint(brightness * 255).astype(np.uint8)

    flat = np.ascontiguousarray(frame).reshape(-1)
    output = np.empty(flat.shape, np.uint8)
    lookup_table, unsigned = None, np.dtype(np.uint8)
    if flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2 and flat.size:
        unsigned = np.dtype(f"u{flat.dtype.itemsize}")
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        levels = np.arange(int(flat.min()), int(flat.max()) + 1, dtype=np.int64)
        lookup_table = np.zeros(1 << 8 * unsigned.itemsize, np.uint8)
        lookup_table[levels & (lookup_table.size - 1)] = to_uint8(levels)
    for start in range(0, flat.size, _BLOCK_PIXELS):
        part = slice(start, start + _BLOCK_PIXELS)
        if lookup_table is None:
            output[part] = to_uint8(flat[part])
        else:
            output[part] = lookup_table[flat[part].view(unsigned)]
    return output.reshape(frame.shape)


def value_range(
    frame: NDArray[Any], padding: tuple[float, float] | None = None
) -> tuple[float, float] | None:
    """The minimum and maximum finite value outside the padding range; None if there is none."""
    import numpy as np

    bounds: list[float] = []
    for block in np.array_split(frame.reshape(-1), max(1, frame.size // _BLOCK_PIXELS)):
        valid = block[np.isfinite(block)] if block.dtype.kind == "f" else block
        if padding is not None:
            valid = valid[(valid < padding[0]) | (valid > padding[1])]
        if valid.size:
            bounds += (float(valid.min()), float(valid.max()))
    return (min(bounds), max(bounds)) if bounds else None
