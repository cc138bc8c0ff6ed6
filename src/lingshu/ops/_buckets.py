"""Rows with equal keys, found by one sort: what every search for near-duplicates here is built on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pairs that are handed on at a time, so that memory is bounded whatever the number of pairs.
CHUNK_PAIRS = 1 << 20


class Over(NamedTuple):
    """What a cap left out: buckets that hold more rows than the cap, and the pairs in them that
    were not compared.
    """

    buckets: int = 0
    pairs: int = 0

    def __add__(self, other: object) -> Over:
        if not isinstance(other, Over):
            return NotImplemented
        return Over(self.buckets + other.buckets, self.pairs + other.pairs)


class Buckets(NamedTuple):
    """Row numbers sorted by key: the leading bits of `packed` are the key's, the last `bits` the
    row.

    `same` says of each row whether the next one has its key, and `places` where that is so.
    """

    packed: NDArray[np.uint64]
    bits: int
    same: NDArray[np.bool_]
    places: NDArray[np.int64]

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return (self.packed[positions] & np.uint64((1 << self.bits) - 1)).astype(np.int64)

    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First position and length of every bucket of two rows or more."""
        first = np.flatnonzero(np.diff(self.places, prepend=-2) != 1)
        return self.places[first], np.diff(first, append=len(self.places)) + 1

    def pairs(self, cap: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs of rows (smaller first) with one key, in chunks; each row meets at most the `cap`
        rows after it.
        """
        same, active = self.same, self.places
        for offset in range(1, cap + 1):
            for start in range(0, len(active), CHUNK_PAIRS):
                part = active[start : start + CHUNK_PAIRS]
                yield self.rows(part), self.rows(part + offset)
            # A row goes on to the one after next where the chain of equal neighbours goes on.
            active = active[: np.searchsorted(active, len(same) - offset)]
            active = active[same[active + offset]]
            if not len(active):
                return

    def over(self, cap: int) -> Over:
        """What `pairs(cap)` leaves out."""
        _, lengths = self.runs()
        beyond = lengths[lengths > cap + 1] - (cap + 1)
        return Over(len(beyond), int((beyond * (beyond + 1) // 2).sum()))


def buckets(keys: NDArray[np.uint64]) -> Buckets:
    """Sort rows by key. Only the leading 64 - log2(rows) bits of a key are told apart, so equal
    keys are candidates.

    One sort of packed numbers is some four times as fast as an argsort.
    """
    bits = max(1, (len(keys) - 1).bit_length())
    packed = keys & np.uint64(0xFFFFFFFFFFFFFFFF << bits & 0xFFFFFFFFFFFFFFFF)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    # Keys are equal where two neighbours differ in the bits of the row alone.
    same = (packed[1:] ^ packed[:-1]) >> np.uint64(bits) == 0
    return Buckets(packed, bits, same, np.flatnonzero(same))


def distinct(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The different values in ascending order; `codes` is sorted in place. np.unique hashes, which
    takes many times as long.
    """
    codes.sort()
    fresh = np.ones(len(codes), np.bool_)
    fresh[1:] = codes[1:] != codes[:-1]
    return codes[fresh]


def groups(left: NDArray[np.int64], right: NDArray[np.int64], *, rows: int) -> NDArray[np.int64]:
    """The smallest row that each row is connected to through pairs; a row in no pair is its own
    group.
    """
    labels = np.arange(rows, dtype=np.int64)
    while True:
        ours, theirs = labels[left], labels[right]
        apart = ours != theirs
        if not apart.any():
            return labels
        left, right, ours, theirs = left[apart], right[apart], ours[apart], theirs[apart]
        # The larger label joins the smaller; what several pairs say about one label is settled by
        # the smallest.
        np.minimum.at(labels, np.maximum(ours, theirs), np.minimum(ours, theirs))
        while (jumped := labels[labels]).tobytes() != labels.tobytes():
            labels = jumped
