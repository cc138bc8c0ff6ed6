"""Windows: how stored values of CT, MR or X-ray become 8-bit grey, and the record of which window
was used.

Sources: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and the LINEAR, LINEAR_EXACT and SIGMOID
functions).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lingshu.core.errors import InputError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape = Literal["linear", "linear_exact", "sigmoid", "range"]
# Block of pixels whose values are held as floats at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are shown from black to white. `name` says where it comes from.

    A preset of CT (`lung`), one that was asked for in numbers (`asked`), one the file states
    (`file`, `file 2`), the file's own table (`table`), or the least and the greatest value
    (`range`) for want of anything better. `center` and `width` are in the units of the modality,
    such as HU; None for a table.
    """

    name: str
    center: float | None = None
    width: float | None = None
    shape: Shape = "linear"

    def __str__(self) -> str:
        return (
            self.name
            if self.center is None or self.width is None
            else f"{self.name} {self.center:g}/{self.width:g}"
        )


# Center and width in HU as radiology teaches them (radiopaedia.org, "Windowing (CT)").
CT_WINDOWS = {
    "lung": Window("lung", -600, 1500),
    "soft": Window("soft", 50, 400),
    "bone": Window("bone", 400, 1800),
    "brain": Window("brain", 40, 80),
    "liver": Window("liver", 30, 150),
    "abdomen": Window("abdomen", 50, 400),
    "mediastinum": Window("mediastinum", 50, 350),
}
CT_DEFAULT = ("lung", "soft", "bone")
# The one window that a file is shown in when it is to be shown in one: its own first one, or what
# stands in for it.
OWN = "file"
_NUMBER = r"[+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?"
_CENTER_WIDTH = re.compile(rf"({_NUMBER}),({_NUMBER})")


def presets(names: Sequence[str]) -> list[Window]:
    """The windows that names stand for: those of CT, and "CENTER,WIDTH" in the units of the
    modality. "file" has none here.

    Raises:
        InputError: a name that none has, or a width that is none.
    """
    return [window for name in names if name != OWN and (window := _named(name))]


def _named(name: str) -> Window:
    numbers = _CENTER_WIDTH.fullmatch(name.replace(" ", ""))
    if numbers:
        window = Window("asked", float(numbers[1]), float(numbers[2]))
        if not possible(window):
            raise InputError(
                f"a window of width {numbers[2]} shows nothing; write CENTER,WIDTH with a width of"
                " 1 or more."
            )
        return window
    if name not in CT_WINDOWS:
        known = nearest(name, (*CT_WINDOWS, OWN))
        raise InputError(
            f"no window is called {name!r}; {known} Or write CENTER,WIDTH, such as 40,400."
        )
    return CT_WINDOWS[name]


def is_preset(window: Window) -> bool:
    """True for one of CT, whose numbers mean HU and nothing else."""
    return CT_WINDOWS.get(window.name) == window


Values = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]


def possible(window: Window) -> bool:
    """False for a width that the window's function cannot use (PS3.3 C.11.2.1.2)."""
    return window.width is None or window.width >= (1 if window.shape == "linear" else 1e-12)


def brightness(window: Window) -> Values:
    """Modality values to brightness from 0 to 1.

    The window of a full range of equal values is black.
    """
    import numpy as np

    center, width = window.center or 0.0, window.width or 0.0

    def show(values: NDArray[np.float64]) -> NDArray[np.float64]:
        if window.shape == "sigmoid":
            return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        if window.shape == "linear":
            # A width of 1 is a threshold.
            return np.clip((values - (center - 0.5)) / max(width - 1, 1e-12) + 0.5, 0, 1)
        return (
            np.clip((values - center) / width + 0.5, 0, 1) if width > 0 else np.zeros_like(values)
        )

    return show


def full_range(low: float, high: float) -> Window:
    """The window from the least to the greatest value."""
    return Window("range", (low + high) / 2, high - low, "range")


def to_grey(frame: NDArray[Any], show: Values) -> NDArray[np.uint8]:
    """Height x width stored values to grey, where `show` says the brightness (0 to 1) of a stored
    value.

    Values of up to 16 bits go through a table of the values that occur; others are computed block
    by block. What is no number is black.
    """
    import numpy as np

    def grey(values: NDArray[Any]) -> NDArray[np.uint8]:
        return np.rint(np.nan_to_num(np.clip(show(values.astype(np.float64)), 0, 1)) * 255).astype(
            np.uint8
        )

    flat = np.ascontiguousarray(frame).reshape(-1)
    out = np.empty(flat.shape, np.uint8)
    table, unsigned = None, np.dtype(np.uint8)
    if flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2 and flat.size:
        unsigned = np.dtype(f"u{flat.dtype.itemsize}")
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        occurring = np.arange(int(flat.min()), int(flat.max()) + 1, dtype=np.int64)
        table = np.zeros(1 << 8 * unsigned.itemsize, np.uint8)
        table[occurring & (table.size - 1)] = grey(occurring)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        out[start : start + _BLOCK] = grey(block) if table is None else table[block.view(unsigned)]
    return out.reshape(frame.shape)


def value_range(
    frame: NDArray[Any], padding: tuple[float, float] | None = None
) -> tuple[float, float] | None:
    """The least and the greatest finite value, those of the padding range left out; None where
    nothing is left.
    """
    import numpy as np

    low = high = None
    for block in np.array_split(frame.reshape(-1), max(1, frame.size // _BLOCK)):
        valid = block[np.isfinite(block)] if block.dtype.kind == "f" else block
        if padding is not None:
            valid = valid[(valid < padding[0]) | (valid > padding[1])]
        if valid.size:
            least, most = float(valid.min()), float(valid.max())
            low, high = (
                least if low is None else min(low, least),
                most if high is None else max(high, most),
            )
    return None if low is None or high is None else (low, high)
