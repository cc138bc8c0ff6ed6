"""Pairs of packed hashes within a Hamming radius, among one set or between two, by bands of bits.

Hashes that differ in at most r bits agree in at least one of r + 1 bands, so r + 1 bands find every
such pair. Bands narrower than 16 bits would put too much into one bucket; a search that would need
them uses bands of 16 bits, and its result says that it is not exact. Hashes are rows of bytes
(uint8), 8 to a 64-bit hash and 32 to a 256-bit one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.ops._buckets import CHUNK_PAIRS, Over, buckets, distinct

Hashes = NDArray[np.uint8]
LEAST_BAND_BITS = 16
# Rows that one row of a bucket is compared with. Buckets of look-alike scans hold some hundreds;
# the cap bounds what thousands of pictures with one band in common can cost, and what it leaves out
# is counted.
CAP = 512


class Pairs(NamedTuple):
    """Pairs of rows and their distances in bits; `over` counts what the cap left out, `exact` that
    bands miss nothing.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    distance: NDArray[np.uint16]
    over: Over
    exact: bool


def pairs_within(hashes: Hashes, radius: int, *, cap: int = CAP) -> Pairs:
    """Pairs of rows whose hashes differ in at most `radius` bits, smaller row first, in order.

    A hash that occurs several times is searched once, for its first row: its other rows are paired
    with that row alone (distance 0), which connects the same groups with far fewer pairs.
    """
    words = _words(hashes)
    first = first_equal(hashes)
    rows = np.arange(len(words))
    copies = np.flatnonzero(first != rows)
    left, right, distance = [first[copies]], [copies], [np.zeros(len(copies), np.uint16)]
    over, exact = Over(), True
    if radius:
        single = np.flatnonzero(first == rows)
        spans, exact = bands(words.shape[1] * 64, radius)
        seen: list[NDArray[np.uint64]] = []
        for span in spans:
            found = buckets(_key(words, span, None if not len(copies) else single))
            over += found.over(cap)
            for one, other in found.pairs(cap):
                a, b = single[one], single[other]
                near = _distance(words, a, words, b) <= radius
                seen.append(a[near].astype(np.uint64) << np.uint64(32) | b[near].astype(np.uint64))
        codes = distinct(np.concatenate(seen)) if seen else np.empty(0, np.uint64)
        a, b = (
            (codes >> np.uint64(32)).astype(np.int64),
            (codes & np.uint64(0xFFFFFFFF)).astype(np.int64),
        )
        left.append(a)
        right.append(b)
        distance.append(_distance(words, a, words, b))
    a, b, d = np.concatenate(left), np.concatenate(right), np.concatenate(distance)
    order = np.lexsort((b, a))
    return Pairs(a[order], b[order], d[order], over, exact)


def first_equal(hashes: Hashes) -> NDArray[np.int64]:
    """For each row the first row with an equal hash: grouping by equal hash, whatever the number of
    bits.
    """
    words = _words(hashes)
    first = np.arange(len(words), dtype=np.int64)
    if len(words) < 2:
        return first
    found = buckets(_folded(words))
    starts, lengths = found.runs()
    heads = found.rows(np.repeat(starts, lengths))
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    members = found.rows(np.repeat(starts, lengths) + within)
    equal = (words[members] == words[heads]).all(axis=1)
    first[members[equal]] = heads[equal]
    # Different hashes in one bucket are a coincidence of the sorted bits; the few rows are settled
    # one by one.
    known: dict[bytes, int] = {}
    for row in np.sort(members[~equal]).tolist():
        first[row] = known.setdefault(words[row].tobytes(), row)
    return first


class Lookup(NamedTuple):
    """A set of hashes, sorted by each band, to be searched again and again; it pickles."""

    words: NDArray[np.uint64]
    radius: int
    keys: list[NDArray[np.uint64]]
    order: list[NDArray[np.int64]]
    cap: int

    @classmethod
    def build(cls, hashes: Hashes, radius: int, *, cap: int = CAP) -> Lookup:
        words = _words(hashes)
        keys = [_key(words, span, None) for span in bands(words.shape[1] * 64, radius)[0]]
        order = [np.argsort(key, kind="stable") for key in keys]
        return cls(
            words, radius, [key[place] for key, place in zip(keys, order, strict=True)], order, cap
        )

    def within(self, hashes: Hashes) -> Pairs:
        """Pairs (row of `hashes`, row of the set) within the radius, in order."""
        words = _words(hashes)
        spans, exact = bands(words.shape[1] * 64, self.radius)
        seen, over = [np.empty(0, np.uint64)], Over()
        for span, keys, order in zip(spans, self.keys, self.order, strict=True):
            asked = _key(words, span, None)
            low, high = np.searchsorted(keys, asked, "left"), np.searchsorted(keys, asked, "right")
            counts = np.minimum(high - low, self.cap)
            over += Over(int((high - low > self.cap).sum()), int((high - low - counts).sum()))
            left = np.repeat(np.arange(len(words)), counts)
            right = order[
                np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(len(left))
            ]
            near = _distance(words, left, self.words, right) <= self.radius
            seen.append(
                left[near].astype(np.uint64) << np.uint64(32) | right[near].astype(np.uint64)
            )
        codes = distinct(np.concatenate(seen)).view(np.int64)
        left, right = codes >> 32, codes & 0xFFFFFFFF
        return Pairs(left, right, _distance(words, left, self.words, right), over, exact)


def bands(bits: int, radius: int) -> tuple[list[tuple[int, int]], bool]:
    """(first bit, number of bits) of each band, and whether they find every pair within the radius."""
    count = min(radius + 1, bits // LEAST_BAND_BITS)
    edges = [bits * i // count for i in range(count + 1)]
    return [(start, end - start) for start, end in pairwise(edges)], count == radius + 1


def _words(hashes: Hashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64)


def _key(
    words: NDArray[np.uint64], span: tuple[int, int], rows: NDArray[np.int64] | None
) -> NDArray[np.uint64]:
    """The bits of one band, at the top of a word, for all rows or those named."""
    start, width = span
    place, shift = divmod(start, 64)
    key = words[:, place] << np.uint64(shift)
    if shift + width > 64:
        key |= words[:, place + 1] >> np.uint64(64 - shift)
    key &= np.uint64(((1 << width) - 1) << (64 - width))
    return key if rows is None else key[rows]


def _folded(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One word for each row.

    Odd multipliers and a final shift spread every bit into the leading ones.
    """
    folded = words[:, 0] * np.uint64(0x9E3779B97F4A7C15)
    for column in range(1, words.shape[1]):
        folded ^= folded >> np.uint64(29)
        folded += words[:, column]
        folded *= np.uint64(0xBF58476D1CE4E5B9)
    folded ^= folded >> np.uint64(32)
    return folded * np.uint64(0x94D049BB133111EB)


def _distance(
    words: NDArray[np.uint64],
    left: NDArray[np.int64],
    others: NDArray[np.uint64],
    right: NDArray[np.int64],
) -> NDArray[np.uint16]:
    """Differing bits of each pair of rows; in chunks, so that no large copy of the hashes is made."""
    found = np.empty(len(left), np.uint16)
    for start in range(0, len(left), CHUNK_PAIRS // 4):
        part = slice(start, start + CHUNK_PAIRS // 4)
        found[part] = np.bitwise_count(words[left[part]] ^ others[right[part]]).sum(
            axis=1, dtype=np.uint16
        )
    return found
