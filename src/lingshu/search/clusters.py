"""Which of several duplicates stays: groups from pairs, the series guard, and the preferences."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lingshu.core.types import Drop
from lingshu.search.buckets import connected_components, first_of_runs, starts_run
from lingshu.search.hamming import HashPairs
from lingshu.search.text_hash import normalize_text

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


class DuplicateGroups(NamedTuple):
    """The smallest row of each row's group, and how many merges the series guard refused."""

    group: NDArray[np.int64]
    n_protected: int


def protected_groups(
    pairs: HashPairs, series: Sequence[str | None], pixels: Sequence[bytes]
) -> DuplicateGroups:
    """Groups of near-duplicates without two images of one series, unless their pixels are equal.

    Neighboring slices of a volume look alike to every hash; only their series separates them. Pairs
    are taken nearest first, so an image joins the copy it is closest to.
    """
    n_rows = len(series)
    group = connected_components(pairs.left, pairs.right, n_rows=n_rows)
    conflicting = _conflicting_groups(group, series, pixels)
    if not len(conflicting):
        return DuplicateGroups(group, 0)
    inside = np.isin(group[pairs.left], conflicting)
    group[np.isin(group, conflicting)] = np.flatnonzero(np.isin(group, conflicting))
    order = np.lexsort((pairs.right[inside], pairs.left[inside], pairs.distance[inside]))
    left, right = pairs.left[inside][order].tolist(), pairs.right[inside][order].tolist()
    parent: dict[int, int] = {row: row for row in {*left, *right}}
    series_digests: dict[int, dict[str, bytes]] = {
        row: {name: pixels[row]} if (name := series[row]) is not None else {} for row in parent
    }
    n_refused = 0
    for left_row, right_row in zip(left, right, strict=True):
        a, b = sorted((_find_root(parent, left_row), _find_root(parent, right_row)))
        if a == b:
            continue
        others = series_digests[b]
        if any(others.get(name, digest) != digest for name, digest in series_digests[a].items()):
            n_refused += 1
            continue
        parent[b] = a
        series_digests[a] |= series_digests.pop(b)
    for row in parent:
        group[row] = _find_root(parent, row)
    return DuplicateGroups(group, n_refused)


def _find_root(parent: dict[int, int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _conflicting_groups(
    group: NDArray[np.int64], series: Sequence[str | None], pixels: Sequence[bytes]
) -> NDArray[np.int64]:
    """The groups that hold two images of one series with different pixels."""
    _, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    digest_by_series: dict[tuple[int, str], bytes] = {}
    conflicting: set[int] = set()
    for row in np.flatnonzero(counts[inverse] > 1).tolist():
        if (name := series[row]) is None:
            continue
        key = int(group[row]), name
        if digest_by_series.setdefault(key, pixels[row]) != pixels[row]:
            conflicting.add(key[0])
    return np.array(sorted(conflicting), np.int64)


def representatives(
    group: NDArray[np.int64],
    *,
    area: Sequence[int],
    captions: Sequence[str],
    rank: Sequence[int],
    ids: Sequence[str],
) -> NDArray[np.int64]:
    """For each row the row of its group to keep: by largest area, longest caption, rank, id."""
    id_rank = np.empty(len(ids), np.int64)
    id_rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    lengths = np.fromiter(map(len, captions), np.int64, len(captions))
    areas = np.asarray(area, dtype=np.int64)
    order = np.lexsort((id_rank, np.asarray(rank), -lengths, -areas, group))
    return first_of_runs(order, starts_run(group[order]))


def alternative_captions(
    representative: NDArray[np.int64], captions: Sequence[str]
) -> dict[int, tuple[str, ...]]:
    """Kept row -> the different captions of its dropped duplicates, in the order of their rows."""
    captions_by_row: dict[int, dict[str, str]] = {}
    for row in np.flatnonzero(representative != np.arange(len(representative))).tolist():
        kept_row, normalized = int(representative[row]), normalize_text(captions[row])
        if normalized and normalized != normalize_text(captions[kept_row]):
            captions_by_row.setdefault(kept_row, {}).setdefault(normalized, captions[row])
    return {row: tuple(texts.values()) for row, texts in sorted(captions_by_row.items())}


def column(table: pa.Table, name: str, default: T) -> list[T]:
    """A column's values; the default for every row where the table has no such column."""
    return table[name].to_pylist() if name in table.column_names else [default] * table.num_rows


def split_groups(
    groups: Sequence[int] | NDArray[np.int64], keys: Sequence[Hashable]
) -> NDArray[np.int64]:
    """Groups split by a property of their rows: for each row the smallest row of its part."""
    first: dict[tuple[int, Hashable], int] = {}
    first_rows = [
        first.setdefault((int(group), key), row)
        for row, (group, key) in enumerate(zip(groups, keys, strict=True))
    ]
    return np.array(first_rows, np.int64)


class DuplicateMap:
    """For each row of a signature table the row that is kept: itself unless it is a duplicate."""

    def __init__(self, n_rows: int) -> None:
        self.representative: NDArray[np.int64] = np.arange(n_rows)

    def drops(
        self, ids: Sequence[str], kind: str, is_exact: Callable[[int, int], bool]
    ) -> dict[int, Drop]:
        """The drops of all duplicates, as KIND_exact or KIND_near."""
        drops: dict[int, Drop] = {}
        for row, kept in enumerate(self.representative.tolist()):
            if row != kept:
                reason = f"{kind}_exact" if is_exact(row, kept) else f"{kind}_near"
                drops[row] = Drop(ids[row], reason, f"kept: {ids[kept]}")
        return drops

    def add(self, table: pa.Table, rows: Sequence[int], groups: NDArray[np.int64]) -> None:
        """Keep one row of each group, by the columns `area`, `caption`, `rank` and `id`."""
        if not rows:
            return
        selected = table.take(list(rows))
        kept = representatives(
            groups,
            area=[value or 0 for value in selected["area"].to_pylist()],
            captions=[value or "" for value in selected["caption"].to_pylist()],
            rank=column(selected, "rank", 0),
            ids=selected["id"].to_pylist(),
        )
        self.representative[list(rows)] = np.asarray(rows)[kept]
