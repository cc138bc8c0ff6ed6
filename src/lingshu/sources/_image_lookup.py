"""How a row's images are found beside it, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingshu.core.rows import RowError
from lingshu.core.types import Image


def image_names(row: Mapping[str, Any]) -> list[str]:
    """The file names in a row's `images` or `image`.

    Raises:
        BadRow: they are no names.
    """
    value = row["images"] if row.get("images") is not None else row.get("image")
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise RowError("bad_image", "image or images must name files relative to the folder.")
    return names


def find_image(name: str, root: Path) -> Image:
    """The file that a row names, which must lie below `root` (a resolved path), links followed.

    Raises:
        BadRow: it lies elsewhere, or is no file.
    """
    # Links are followed before the comparison, and whole components are compared, not beginnings of
    # strings.
    try:
        target = Path(os.path.realpath(root / name))
    except (OSError, ValueError) as error:
        raise RowError("missing_image", "the name of an image is no possible file name.") from error
    if not target.is_relative_to(root):
        raise RowError(
            "image_outside_folder",
            f"{name!r} lies outside the folder of the rows; copy the image into it.",
        )
    try:
        is_file = target.is_file()
    except OSError:
        is_file = False
    if not is_file:
        raise RowError("missing_image", f"{name!r} is no file in the folder of the rows.")
    return Image(path=str(target))
