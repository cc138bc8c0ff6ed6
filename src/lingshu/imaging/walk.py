"""The files below a folder in a fixed order, and an even choice among many."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path

from lingshu.core.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh", ".mnc", ".hdr", ".par", ".head")


def files_below(path: Path) -> Iterator[Path]:
    """Every file below a folder by its relative path, in order; folders that are links are not
    entered.

    Raises:
        InputError: no folder, or one that cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; give the folder with the files.")

    def refused(error: OSError) -> None:
        # Without the name of the folder below: it may be a patient's.
        raise InputError(
            f"a folder below {path} cannot be read ({error.strerror}); check its permissions."
        ) from None

    for folder, inner, names in os.walk(path, onerror=refused):
        inner.sort()
        base = Path(folder).relative_to(path)
        yield from (base / name for name in sorted(names))


def evenly(count: int, wanted: int | None) -> list[int]:
    """At most `wanted` of `count` places, spread evenly with the same margin at both ends; all
    without `wanted`.
    """
    if wanted is None or wanted >= count:
        return list(range(count))
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]


def frames_of_files(
    frames: Sequence[int], wanted: int | None
) -> Iterator[tuple[int, list[int] | None]]:
    """Which frames of a series of files to show, given how many frames each file has: the place of
    a file and its frames.

    `wanted` are taken evenly over all; without it every file comes with None, which means every
    frame. Counted, not listed: a number of frames may lie.
    """
    if wanted is None:
        yield from ((place, None) for place in range(len(frames)))
        return
    ends = list(accumulate(frames))
    places = evenly(ends[-1], wanted) if ends[-1] > wanted else range(ends[-1])
    for place, chosen in groupby(places, key=lambda at: bisect_right(ends, at)):
        start = ends[place] - frames[place]
        yield place, [at - start for at in chosen]
