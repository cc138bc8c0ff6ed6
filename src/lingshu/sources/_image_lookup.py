"""The images of a row: files below the folder of the rows, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingshu.core.rows import RowError
from lingshu.core.types import Image


def find_images(row: Mapping[str, Any], root: Path) -> list[Image]:
    """The files that a row names in `images` or `image`, below `root` (a resolved path).

    Raises:
        RowError: not names, or a file that is outside or missing.
    """
    value = row["images"] if row.get("images") is not None else row.get("image")
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise RowError("bad_image: image or images must name files relative to the folder.")
    return [_find_image(name, root) for name in names]


def _find_image(name: str, root: Path) -> Image:
    try:
        # Links are resolved before the comparison.
        target = Path(os.path.realpath(root / name))
        if not target.is_relative_to(root):
            detail = f"{name!r} is outside the folder of the rows; copy the image into it."
            raise RowError(f"image_outside_folder: {detail}")
        if target.is_file():
            return Image(path=str(target))
    except (OSError, ValueError):
        raise RowError("missing_image: the name of an image is not a valid file name.") from None
    raise RowError(f"missing_image: {name!r} is not a file in the folder of the rows.")
