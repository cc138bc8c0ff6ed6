"""The files below a folder in a fixed order, and an even choice among many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lingshu.core.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def files_below(path: Path) -> Iterator[Path]:
    """Every file below a folder by its relative path, in order; folders that are links are not entered.

    Raises:
        InputError: no folder, or one that cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; give the folder with the files.")

    def refused(error: OSError) -> None:
        # Without the name of the folder below: it may be a patient's.
        raise InputError(f"a folder below {path} cannot be read ({error.strerror}); check its permissions.") from None

    for folder, inner, names in os.walk(path, onerror=refused):
        inner.sort()
        base = Path(folder).relative_to(path)
        yield from (base / name for name in sorted(names))


def evenly(count: int, wanted: int | None) -> list[int]:
    """At most `wanted` of `count` places, spread evenly with the same margin at both ends; all without `wanted`."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]
