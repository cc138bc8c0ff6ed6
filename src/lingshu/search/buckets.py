"""Rows with equal keys, found by one sort: what every search for near-duplicates here is built on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pairs that are handed on at a time, so that memory is bounded whatever the number of pairs.
CHUNK_PAIRS = 1 << 20


class Overflow(NamedTuple):
    """What a cap left out: buckets that hold more rows than the cap, and the pairs in them that
    were not compared.
    """

    build_buckets: int = 0
    pairs: int = 0

    def __add__(self, other: object) -> Overflow:
        if not isinstance(other, Overflow):
            return NotImplemented
        return Overflow(self.build_buckets + other.build_buckets, self.pairs + other.pairs)


class Buckets(NamedTuple):
    """Row numbers sorted by key: the leading bits of `packed` are the key's, the last `bits` the
    row.

    `same` says of each row whether the next one has its key, and `places` where that is so.
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
        """Pairs of rows (smaller first) with one key, in chunks; each row meets at most the `cap`
        rows after it.
        """
        same_as_next, active = self.same_as_next, self.equal_positions
        for offset in range(1, cap + 1):
            for start in range(0, len(active), CHUNK_PAIRS):
                chunk = active[start : start + CHUNK_PAIRS]
                yield self.rows(chunk), self.rows(chunk + offset)
            # A row goes on to the one after next where the chain of equal neighbours goes on.
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
    """Sort rows by key. Only the leading 64 - log2(rows) bits of a key are told apart, so equal
    keys are candidates.

    One sort of packed numbers is some four times as fast as an argsort.
    """
    row_bits = max(1, (len(keys) - 1).bit_length())
    packed = keys & np.uint64(0xFFFFFFFFFFFFFFFF << row_bits & 0xFFFFFFFFFFFFFFFF)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    # Keys are equal where two neighbours differ in the bits of the row alone.
    same_as_next = (packed[1:] ^ packed[:-1]) >> np.uint64(row_bits) == 0
    return Buckets(packed, row_bits, same_as_next, np.flatnonzero(same_as_next))


def sorted_unique(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The different values in ascending order; `codes` is sorted in place. np.unique hashes, which
    takes many times as long.
    """
    codes.sort()
    is_new = np.ones(len(codes), np.bool_)
    is_new[1:] = codes[1:] != codes[:-1]
    return codes[is_new]


def connected_components(
    left: NDArray[np.int64], right: NDArray[np.int64], *, n_rows: int
) -> NDArray[np.int64]:
    """The smallest row that each row is connected to through pairs; a row in no pair is its own
    group.
    """
    labels = np.arange(n_rows, dtype=np.int64)
    while True:
        left_labels, right_labels = labels[left], labels[right]
        differs = left_labels != right_labels
        if not differs.any():
            return labels
        left, right, left_labels, right_labels = (
            left[differs],
            right[differs],
            left_labels[differs],
            right_labels[differs],
        )
        # The larger label joins the smaller; what several pairs say about one label is settled by
        # the smallest.
        np.minimum.at(
            labels, np.maximum(left_labels, right_labels), np.minimum(left_labels, right_labels)
        )
        while (compressed := labels[labels]).tobytes() != labels.tobytes():
            labels = compressed
