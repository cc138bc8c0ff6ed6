"""Which of several near-duplicate images stays: groups from pairs, the series guard, and the order
of preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.ops._buckets import groups
from lingshu.ops._hamming import Pairs
from lingshu.ops._text_signature import normalised


class Grouped(NamedTuple):
    """The smallest row of each row's group, and how many pairs the series guard kept from being
    merged.
    """

    group: NDArray[np.int64]
    guarded: int


def guarded_groups(pairs: Pairs, series: Sequence[str | None], pixels: Sequence[bytes]) -> Grouped:
    """Groups of near-duplicates in which no two images of one series stand together, unless their
    pixels are equal.

    Neighbouring slices of a volume look alike to every hash; only where they come from tells them
    apart. Pairs are taken nearest first, so an image joins the copy it is closest to.
    """
    rows = len(series)
    group = groups(pairs.left, pairs.right, rows=rows)
    torn = _conflicts(group, series, pixels)
    if not len(torn):
        return Grouped(group, 0)
    inside = np.isin(group[pairs.left], torn)
    group[np.isin(group, torn)] = np.flatnonzero(np.isin(group, torn))
    order = np.lexsort((pairs.right[inside], pairs.left[inside], pairs.distance[inside]))
    left, right = pairs.left[inside][order].tolist(), pairs.right[inside][order].tolist()
    parent: dict[int, int] = {row: row for row in {*left, *right}}
    held: dict[int, dict[str, bytes]] = {
        row: {name: pixels[row]} if (name := series[row]) is not None else {} for row in parent
    }
    refused = 0
    for one, other in zip(left, right, strict=True):
        a, b = sorted((_root(parent, one), _root(parent, other)))
        if a == b:
            continue
        if any(held[b].get(name, content) != content for name, content in held[a].items()):
            refused += 1
            continue
        parent[b] = a
        held[a] |= held.pop(b)
    for row in parent:
        group[row] = _root(parent, row)
    return Grouped(group, refused)


def _root(parent: dict[int, int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _conflicts(
    group: NDArray[np.int64], series: Sequence[str | None], pixels: Sequence[bytes]
) -> NDArray[np.int64]:
    """The groups that hold two images of one series with different pixels."""
    _, place, counts = np.unique(group, return_inverse=True, return_counts=True)
    held: dict[tuple[int, str], bytes] = {}
    torn: set[int] = set()
    for row in np.flatnonzero(counts[place] > 1).tolist():
        name = series[row]
        if (
            name is not None
            and held.setdefault((int(group[row]), name), pixels[row]) != pixels[row]
        ):
            torn.add(int(group[row]))
    return np.array(sorted(torn), np.int64)


def keepers(
    group: NDArray[np.int64],
    *,
    area: Sequence[int],
    captions: Sequence[str],
    rank: Sequence[int],
    ids: Sequence[str],
) -> NDArray[np.int64]:
    """For each row the row of its group that is kept: largest area, then longest caption, then
    lowest source rank, then id.
    """
    by_id = np.empty(len(ids), np.int64)
    by_id[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    lengths = np.fromiter(map(len, captions), np.int64, len(captions))
    order = np.lexsort(
        (by_id, np.asarray(rank), -lengths, -np.asarray(area, dtype=np.int64), group)
    )
    heads = np.empty(len(order), np.bool_)
    heads[:1] = True
    heads[1:] = group[order[1:]] != group[order[:-1]]
    kept = np.empty(len(order), np.int64)
    kept[order] = order[heads][np.cumsum(heads) - 1]
    return kept


def alternatives(kept: NDArray[np.int64], captions: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Kept row -> captions of its dropped duplicates that say something else, each once, in the
    order of their rows.
    """
    told: dict[int, dict[str, str]] = {}
    for row in np.flatnonzero(kept != np.arange(len(kept))).tolist():
        keeper, form = int(kept[row]), normalised(captions[row])
        if form and form != normalised(captions[keeper]):
            told.setdefault(keeper, {}).setdefault(form, captions[row])
    return {keeper: tuple(forms.values()) for keeper, forms in sorted(told.items())}
