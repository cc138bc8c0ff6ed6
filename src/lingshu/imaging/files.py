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


def iter_files(path: Path) -> Iterator[Path]:
    """Every file below a folder by its relative path, in order; folders that are links are not
    entered.

    Raises:
        InputError: no folder, or one that cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; give the folder with the files.")

    def on_error(error: OSError) -> None:
        # Without the name of the folder below: it may be a patient's.
        raise InputError(
            f"a folder below {path} cannot be read ({error.strerror}); check its permissions."
        ) from None

    for folder, dirnames, filenames in os.walk(path, onerror=on_error):
        dirnames.sort()
        base = Path(folder).relative_to(path)
        yield from (base / name for name in sorted(filenames))


def evenly_spaced(total: int, n: int | None) -> list[int]:
    """At most `wanted` of `count` places, spread evenly with the same margin at both ends; all
    without `wanted`.
    """
    if n is None or n >= total:
        return list(range(total))
    return [int((i + 0.5) * total / n) for i in range(n)]


def select_frames(
    frame_counts: Sequence[int], n: int | None
) -> Iterator[tuple[int, list[int] | None]]:
    """Which frames of a series of files to show, given how many frames each file has: the place of
    a file and its frames.

    `wanted` are taken evenly over all; without it every file comes with None, which means every
    frame. Counted, not listed: a number of frames may lie.
    """
    if n is None:
        yield from ((file_index, None) for file_index in range(len(frame_counts)))
        return
    cumulative = list(accumulate(frame_counts))
    selected = evenly_spaced(cumulative[-1], n) if cumulative[-1] > n else range(cumulative[-1])
    for file_index, group in groupby(
        selected, key=lambda frame_index: bisect_right(cumulative, frame_index)
    ):
        offset = cumulative[file_index] - frame_counts[file_index]
        yield file_index, [frame_index - offset for frame_index in group]
