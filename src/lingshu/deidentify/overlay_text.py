"""Lines of text over an image, detected without reading them: glyph-like blobs of one brightness on
one baseline.

Text of an overlay differs from anatomy in that its strokes are thin, equally bright (or dark), and
in rows of equal height. Strokes are isolated by top-hat filters of either sign; blobs of a glyph's
size are chained to lines.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# Larger images are reduced, and smaller ones enlarged twice: glyphs of 6 pixels have no strokes.
MAX_SIDE, MIN_SIDE = 1024, 640
MIN_HEIGHT, MAX_HEIGHT = 8, 48
CONTRAST = 48
# More blobs than this are texture; the strongest are examined.
MAX_BLOBS = 1500


class TextLine(NamedTuple):
    """A line of text in the box (x, y, width, height), in pixels of the image."""

    n_glyphs: int
    box: tuple[int, int, int, int]


def find_text_lines(gray: NDArray[np.uint8], *, min_glyphs: int = 4) -> list[TextLine]:
    """The lines of at least `min_glyphs` glyphs in height x width gray values, top to bottom."""
    height, width = gray.shape
    longest = max(height, width)
    scale = 2.0 if longest < MIN_SIDE else min(1.0, MAX_SIDE / longest)
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        gray = cv2.resize(gray, size, interpolation=method)  # type: ignore[assignment]
    lines: list[TextLine] = []
    bright_and_dark = _find_lines(gray, 1, min_glyphs) + _find_lines(gray, -1, min_glyphs)
    for n_glyphs, (x, y, w, h) in bright_and_dark:
        box = (round(x / scale), round(y / scale), round(w / scale), round(h / scale))
        lines.append(TextLine(n_glyphs, box))
    return sorted(lines, key=lambda line: line.box[1])


def _find_lines(gray: NDArray[np.uint8], sign: int, min_glyphs: int) -> list[TextLine]:
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (13, 13))
    strokes = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT if sign > 0 else cv2.MORPH_BLACKHAT, kernel)
    mask = (strokes > CONTRAST).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < min_glyphs + 1:
        return []
    x, y, w, h, area = (stats[1:, i].astype(np.int64) for i in range(5))
    is_glyph = (
        (h >= MIN_HEIGHT)
        & (h <= MAX_HEIGHT)
        & (w <= 2.4 * h)
        & (area >= 0.18 * w * h)
        & (area <= 0.92 * w * h + 4 * h)
        & (area >= 10)
    )
    indices = np.flatnonzero(is_glyph)
    if len(indices) < min_glyphs:
        return []
    sums = np.bincount(labels.ravel(), weights=gray.ravel(), minlength=count)[1:]
    brightness = sums / np.maximum(area, 1)
    stroke_sums = np.bincount(labels.ravel(), weights=strokes.ravel(), minlength=count)[1:]
    contrast = stroke_sums / np.maximum(area, 1)
    indices = indices[np.argsort(-contrast[indices], kind="stable")][:MAX_BLOBS]
    blobs = np.stack([x, y, w, h, brightness], axis=1)[indices].astype(np.float64)
    return [
        TextLine(len(chain), _bounding_box(blobs[chain]))
        for chain in _chain_blobs(blobs)
        if len(chain) >= min_glyphs and _is_uniform(blobs[chain])
    ]


def _chain_blobs(blobs: NDArray[np.float64]) -> list[list[int]]:
    """Blobs joined from left to right, each to its nearest right neighbor of similar height,
    baseline and brightness.
    """
    order = np.argsort(blobs[:, 0], kind="stable")
    x, y, w, h, brightness = (blobs[order, i] for i in range(5))
    right, bottom = x + w, y + h
    next_blob: dict[int, int] = {}
    chained: set[int] = set()
    for i in range(len(order)):
        end = np.searchsorted(x, right[i] + 1.3 * h[i], side="right")
        neighbors = np.arange(i + 1, end)
        if not len(neighbors):
            continue
        is_similar = (
            (x[neighbors] >= right[i] - 0.25 * h[i])
            & (np.minimum(h[neighbors], h[i]) >= 0.55 * np.maximum(h[neighbors], h[i]))
            & (
                (np.abs(bottom[neighbors] - bottom[i]) <= 0.18 * h[i] + 1)
                | (np.abs(y[neighbors] - y[i]) <= 0.12 * h[i] + 1)
            )
            & (np.abs(brightness[neighbors] - brightness[i]) <= 44)
        )
        for j in neighbors[is_similar]:
            if int(j) not in chained:
                next_blob[i] = int(j)
                chained.add(int(j))
                break
    chains = []
    for i in range(len(order)):
        if i in chained:
            continue
        chain = [i]
        while chain[-1] in next_blob:
            chain.append(next_blob[chain[-1]])
        chains.append([int(order[k]) for k in chain])
    return chains


def _is_uniform(blobs: NDArray[np.float64]) -> bool:
    """Whether a chain is as regular as a line of type, in baseline, brightness and height."""
    h, brightness = blobs[:, 3], blobs[:, 4]
    bottom = blobs[:, 1] + h
    size = float(np.median(h))
    slope = np.polyfit(blobs[:, 0], bottom, 1)[0] if len(blobs) > 2 else 0.0
    return (
        float(np.median(np.abs(bottom - np.median(bottom)))) <= 0.12 * size + 0.5
        and abs(float(slope)) <= 0.06
        and float(np.std(brightness)) <= 27
        and float(np.std(h)) <= 0.28 * size
    )


def _bounding_box(blobs: NDArray[np.float64]) -> tuple[int, int, int, int]:
    left, top = blobs[:, 0].min(), blobs[:, 1].min()
    right, bottom = (blobs[:, 0] + blobs[:, 2]).max(), (blobs[:, 1] + blobs[:, 3]).max()
    return int(left), int(top), int(right - left), int(bottom - top)
