"""Windows by the formulas of DICOM PS3.3 C.11.2.1, and gray that does not depend on how values are
stored.
"""

from __future__ import annotations

import numpy as np
import pytest

from lingshu.core.errors import InputError
from lingshu.core.pseudonyms import check_key, new_key, pseudonym
from lingshu.imaging.windows import (
    Window,
    full_range,
    is_valid_window,
    parse_windows,
    to_gray,
    value_range,
    window_function,
)


def apply_window(window: Window, *values: float) -> list[float]:
    return [round(v, 4) for v in window_function(window)(np.array(values)).tolist()]


def test_the_linear_window_of_the_standard() -> None:
    # The example of C.11.2.1.2.1: center 2048, width 4096 over 0 to 4095.
    assert apply_window(Window("w", 2048, 4096), 0, 4095, 2047.5) == [0, 1, 0.5]
    # Center 2048, width 1 is a threshold at 2048.
    assert apply_window(Window("w", 2048, 1), 2047, 2048) == [0, 1]


def test_exact_and_sigmoid_windows() -> None:
    assert apply_window(Window("w", 0, 100, "linear_exact"), -50, 0, 50) == [0, 0.5, 1]
    assert apply_window(Window("w", 0, 100, "sigmoid"), -1e9, 0, 25, 1e9) == [0, 0.5, 0.7311, 1]


def test_invalid_windows_are_refused() -> None:
    assert is_valid_window(Window("w", 0, 1)) and not is_valid_window(Window("w", 0, 0.5))
    assert is_valid_window(Window("w", 0, 0.5, "linear_exact")) and not is_valid_window(
        Window("w", 0, 0, "sigmoid")
    )
    with pytest.raises(InputError, match="no window is called"):
        parse_windows(["soft", "x"])


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", ">u2", "i4", "u4", "f4", "f8"])
def test_gray_is_the_same_for_every_kind_of_value(kind: str) -> None:
    values = np.array([[0, 50], [100, 120]], kind)
    assert to_gray(values, window_function(full_range(0, 100))).tolist() == [[0, 128], [255, 255]]


def test_large_frames_are_computed_in_blocks() -> None:
    values = np.arange(3 << 20, dtype=np.int32).reshape(3, -1)
    gray = to_gray(values, window_function(full_range(0, float(values.max()))))
    assert (
        gray.shape == values.shape
        and gray[0, 0] == 0
        and gray[-1, -1] == 255
        and (np.diff(gray.reshape(-1).astype(int)) >= 0).all()
    )


def test_nan_is_black_and_outside_the_range() -> None:
    values = np.array([[np.nan, 1.0, 3.0, np.inf]])
    assert value_range(values) == (1.0, 3.0) and value_range(np.array([np.nan])) is None
    assert to_gray(values, window_function(full_range(1, 3)))[0, :3].tolist() == [0, 0, 255]
    assert value_range(np.array([-2000, 5, 9]), (-2000, -2000)) == (5.0, 9.0)


def test_equal_ids_share_a_hash_under_one_key_alone() -> None:
    key = new_key()
    assert (
        pseudonym(key, "patient", "17")
        == pseudonym(key, "patient", b" 17 \0")
        != pseudonym(key, "study", "17")
    )
    assert pseudonym(key, "patient", "17") != pseudonym(new_key(), "patient", "17")
    assert pseudonym(key, "patient", " ") is None
    with pytest.raises(InputError, match="at least 16"):
        check_key(b"short")
    assert check_key(None) != check_key(None)
