"""Lines of text drawn over an image, found without reading them: glyph-like spots of one brightness
on one baseline.

Text of an overlay differs from anatomy in that its strokes are thin, as bright (or dark) as each
other, and stand in rows of equal height. Strokes are isolated by top-hat filters of either sign;
spots of a glyph's size are chained to lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Longest side that is searched, and the side below which an image is enlarged twice: glyphs of 6
# pixels have no strokes.
MAX_SIDE, SMALL_SIDE = 1024, 640
MIN_HEIGHT, MAX_HEIGHT = 8, 48
CONTRAST = 48
# More spots than this are texture; the strongest are looked at.
MAX_SPOTS = 1500


class Line(NamedTuple):
    """A line of `glyphs` spots in the box (x, y, width, height), in pixels of the image."""

    glyphs: int
    box: tuple[int, int, int, int]


def lines(gray: NDArray[np.uint8], *, min_glyphs: int = 4) -> list[Line]:
    """The lines of at least `min_glyphs` glyphs in height x width grey values, from top to bottom."""
    import cv2

    height, width = gray.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    if max(height, width) < SMALL_SIDE:
        scale = 2.0
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        gray = cv2.resize(
            gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )  # type: ignore[assignment]
    found = [line for sign in (1, -1) for line in _lines(gray, sign, min_glyphs)]
    return sorted(
        (Line(n, tuple(round(v / scale) for v in box)) for n, box in found),  # type: ignore[arg-type]
        key=lambda line: line.box[1],
    )


def _lines(gray: NDArray[np.uint8], sign: int, min_glyphs: int) -> list[Line]:
    import cv2
    import numpy as np

    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (13, 13))
    strokes = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT if sign > 0 else cv2.MORPH_BLACKHAT, kernel)
    mask = (strokes > CONTRAST).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < min_glyphs + 1:
        return []
    x, y, w, h, area = (stats[1:, i].astype(np.int64) for i in range(5))
    fit = (
        (h >= MIN_HEIGHT)
        & (h <= MAX_HEIGHT)
        & (w <= 2.4 * h)
        & (area >= 0.18 * w * h)
        & (area <= 0.92 * w * h + 4 * h)
        & (area >= 10)
    )
    keep = np.flatnonzero(fit)
    if len(keep) < min_glyphs:
        return []
    sums = np.bincount(labels.ravel(), weights=gray.ravel(), minlength=count)[1:]
    level = sums / np.maximum(area, 1)
    contrast = np.bincount(labels.ravel(), weights=strokes.ravel(), minlength=count)[
        1:
    ] / np.maximum(area, 1)
    keep = keep[np.argsort(-contrast[keep], kind="stable")][:MAX_SPOTS]
    spots = np.stack(
        [x[keep], y[keep], w[keep], h[keep], level[keep], contrast[keep]], axis=1
    ).astype(np.float64)
    return [
        Line(len(chain), _box(spots[chain]))
        for chain in _chains(spots)
        if len(chain) >= min_glyphs and _even(spots[chain])
    ]


def _chains(spots: NDArray[np.float64]) -> list[list[int]]:
    """Spots joined from left to right: each to its nearest right neighbour of like height, baseline
    and brightness.
    """
    import numpy as np

    order = np.argsort(spots[:, 0], kind="stable")
    x, y, w, h, level = (spots[order, i] for i in range(5))
    right, bottom = x + w, y + h
    after: dict[int, int] = {}
    taken: set[int] = set()
    for i in range(len(order)):
        end = np.searchsorted(x, right[i] + 1.3 * h[i], side="right")
        near = np.arange(i + 1, end)
        if not len(near):
            continue
        alike = (
            (x[near] >= right[i] - 0.25 * h[i])
            & (np.minimum(h[near], h[i]) >= 0.55 * np.maximum(h[near], h[i]))
            & (
                (np.abs(bottom[near] - bottom[i]) <= 0.18 * h[i] + 1)
                | (np.abs(y[near] - y[i]) <= 0.12 * h[i] + 1)
            )
            & (np.abs(level[near] - level[i]) <= 44)
        )
        for j in near[alike]:
            if int(j) not in taken:
                after[i] = int(j)
                taken.add(int(j))
                break
    chains = []
    for i in range(len(order)):
        if i in taken:
            continue
        chain = [i]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        chains.append([int(order[k]) for k in chain])
    return chains


def _even(spots: NDArray[np.float64]) -> bool:
    """Whether a chain is as even as a line of type: one baseline, one brightness, glyphs of few
    heights.
    """
    import numpy as np

    h, level = spots[:, 3], spots[:, 4]
    bottom = spots[:, 1] + h
    size = float(np.median(h))
    slope = np.polyfit(spots[:, 0], bottom, 1)[0] if len(spots) > 2 else 0.0
    return (
        float(np.median(np.abs(bottom - np.median(bottom)))) <= 0.12 * size + 0.5
        and abs(float(slope)) <= 0.06
        and float(np.std(level)) <= 27
        and float(np.std(h)) <= 0.28 * size
    )


def _box(spots: NDArray[np.float64]) -> tuple[int, int, int, int]:
    left, top = spots[:, 0].min(), spots[:, 1].min()
    return (
        int(left),
        int(top),
        int((spots[:, 0] + spots[:, 2]).max() - left),
        int((spots[:, 1] + spots[:, 3]).max() - top),
    )
