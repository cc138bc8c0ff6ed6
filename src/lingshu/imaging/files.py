"""The files below a folder in a fixed order, and an even selection among many."""

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
    """The relative paths of all files below a folder, sorted; links to folders are not followed.

    Raises:
        InputError: not a folder, or one that cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give the folder with the files.")

    def on_error(error: OSError) -> None:
        # Without the name of the folder below: it may be a patient's.
        problem = f"a folder below {path} cannot be read ({error.strerror})"
        raise InputError(f"{problem}; check its permissions.") from None

    for folder, dirnames, filenames in os.walk(path, onerror=on_error):
        dirnames.sort()
        base = Path(folder).relative_to(path)
        yield from (base / name for name in sorted(filenames))


def evenly_spaced(total: int, n: int | None) -> list[int]:
    """At most `n` of `total` indices, evenly spaced with equal margins; all if `n` is None."""
    if n is None or n >= total:
        return list(range(total))
    return [int((i + 0.5) * total / n) for i in range(n)]


def select_frames(
    frame_counts: Sequence[int], n: int | None
) -> Iterator[tuple[int, list[int] | None]]:
    """At most `n` frames, evenly over a series of files: the index of a file and its frames.

    Without `n` every file comes with None, which means all frames. Frames are computed from the
    counts, not listed: a file may state any number.
    """
    if n is None:
        yield from ((file_index, None) for file_index in range(len(frame_counts)))
        return
    ends = list(accumulate(frame_counts))
    selected = evenly_spaced(ends[-1], n) if ends[-1] > n else range(ends[-1])
    for file_index, group in groupby(selected, key=lambda index: bisect_right(ends, index)):
        offset = ends[file_index] - frame_counts[file_index]
        yield file_index, [index - offset for index in group]
