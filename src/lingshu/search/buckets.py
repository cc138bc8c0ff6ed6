"""Rows with equal keys, found by one sort: the basis of every near-duplicate search here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pairs that are yielded at a time, which bounds the memory.
CHUNK_PAIRS = 1 << 20


class Overflow(NamedTuple):
    """What a cap left out: buckets with more rows than it, and pairs that were not compared."""

    buckets: int = 0
    pairs: int = 0

    def __add__(self, other: object) -> Overflow:
        if not isinstance(other, Overflow):
            return NotImplemented
        return Overflow(self.buckets + other.buckets, self.pairs + other.pairs)


class Buckets(NamedTuple):
    """Row numbers sorted by key: the last `row_bits` of `packed` are the row, the others the key.

    `same_as_next` states for each row whether the next one has its key; `equal_positions` where.
    """

    packed: NDArray[np.uint64]
    row_bits: int
    same_as_next: NDArray[np.bool_]
    equal_positions: NDArray[np.int64]

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return (self.packed[positions] & np.uint64((1 << self.row_bits) - 1)).astype(np.int64)

    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First position and length of every bucket of two rows or more."""
        first = np.flatnonzero(np.diff(self.equal_positions, prepend=-2) != 1)
        return self.equal_positions[first], np.diff(first, append=len(self.equal_positions)) + 1

    def pairs(self, cap: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs of rows with one key, smaller first, in chunks; at most `cap` for each row."""
        same_as_next, active = self.same_as_next, self.equal_positions
        for offset in range(1, cap + 1):
            for start in range(0, len(active), CHUNK_PAIRS):
                chunk = active[start : start + CHUNK_PAIRS]
                yield self.rows(chunk), self.rows(chunk + offset)
            # Next, the row after that, where the chain of equal neighbors continues.
            active = active[: np.searchsorted(active, len(same_as_next) - offset)]
            active = active[same_as_next[active + offset]]
            if not len(active):
                return

    def overflow(self, cap: int) -> Overflow:
        """What `pairs(cap)` leaves out."""
        _, lengths = self.runs()
        excess = lengths[lengths > cap + 1] - (cap + 1)
        return Overflow(len(excess), int((excess * (excess + 1) // 2).sum()))


def build_buckets(keys: NDArray[np.uint64]) -> Buckets:
    """Sort rows by the leading 64 - log2(rows) bits of their keys: equal ones are candidates.

    Sorting packed numbers is about four times as fast as an argsort.
    """
    row_bits = max(1, (len(keys) - 1).bit_length())
    packed = keys & np.uint64(0xFFFFFFFFFFFFFFFF << row_bits & 0xFFFFFFFFFFFFFFFF)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    # Keys are equal where two neighbors differ only in the bits of the row.
    same_as_next = (packed[1:] ^ packed[:-1]) >> np.uint64(row_bits) == 0
    return Buckets(packed, row_bits, same_as_next, np.flatnonzero(same_as_next))


def pack_pairs(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One number for each pair of rows below 2^32, in the order of the pairs."""
    return left.astype(np.uint64) << np.uint64(32) | right.astype(np.uint64)


def unique_pairs(codes: list[NDArray[np.uint64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different packed pairs, unpacked and in order."""
    pairs = sorted_unique(np.concatenate([np.empty(0, np.uint64), *codes])).view(np.int64)
    return pairs >> 32, pairs & 0xFFFFFFFF


def expand_ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions start, start + 1, ... of several ranges, one range after the other."""
    return np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))


def find_ranges(
    keys: NDArray[np.uint64], query_keys: NDArray[np.uint64], *, cap: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Overflow]:
    """Start and length (at most `cap`) of each query's range in sorted keys, and what was cut."""
    starts = np.searchsorted(keys, query_keys, "left")
    lengths = np.searchsorted(keys, query_keys, "right") - starts
    counts = np.minimum(lengths, cap)
    return starts, counts, Overflow(int((lengths > cap).sum()), int((lengths - counts).sum()))


def sorted_unique(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The different values in ascending order, sorted in place; many times as fast as np.unique."""
    codes.sort()
    return codes[starts_run(codes)]


def starts_run(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each row of some columns, sorted together, differs from the row before it."""
    is_start = np.ones(len(columns[0]), np.bool_)
    is_start[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return is_start


def first_of_runs(order: NDArray[np.int64], is_start: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each row the first row of its run; `order` lists the rows run by run."""
    first = np.empty(len(order), np.int64)
    first[order] = order[is_start][np.cumsum(is_start) - 1]
    return first


def connected_components(
    left: NDArray[np.int64], right: NDArray[np.int64], *, n_rows: int
) -> NDArray[np.int64]:
    """For each row the smallest row that it is connected to through pairs, or itself."""
    labels = np.arange(n_rows, dtype=np.int64)
    while True:
        left_labels, right_labels = labels[left], labels[right]
        differs = left_labels != right_labels
        if not differs.any():
            return labels
        left, right = left[differs], right[differs]
        left_labels, right_labels = left_labels[differs], right_labels[differs]
        # The larger label joins the smallest of those that it is paired with.
        larger = np.maximum(left_labels, right_labels)
        np.minimum.at(labels, larger, np.minimum(left_labels, right_labels))
        while (compressed := labels[labels]).tobytes() != labels.tobytes():
            labels = compressed
