"""Pairs of packed hashes within a Hamming radius, among one set or between two, by bands of bits.

Hashes that differ in at most r bits agree in at least one of r + 1 bands, so r + 1 bands find every
such pair, and so do more. Bands narrower than 16 bits would put too much into one bucket; a search
that would need them uses bands of 16 bits, and its result states that it is not exact. Hashes are
rows of bytes (uint8), 8 for a 64-bit hash and 32 for a 256-bit one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.search.buckets import (
    CHUNK_PAIRS,
    Overflow,
    build_buckets,
    expand_ranges,
    find_ranges,
    pack_pairs,
    unique_pairs,
)

Hashes = NDArray[np.uint8]
MIN_BAND_BITS = 16
# Rows that one row of a bucket is compared with. Buckets of look-alike scans hold some hundreds;
# the cap bounds the cost of thousands of images that share a band, and what it skips is counted.
BUCKET_CAP = 512


class HashPairs(NamedTuple):
    """Pairs of rows and their distances in bits; `exact` means that the bands miss no pair."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    distance: NDArray[np.uint16]
    overflow: Overflow
    exact: bool


def pairs_within(hashes: Hashes, radius: int, *, cap: int = BUCKET_CAP) -> HashPairs:
    """Pairs of rows whose hashes differ in at most `radius` bits, smaller row first, in order.

    A hash that occurs several times is searched once, for its first row: its other rows are paired
    with that row alone (distance 0), which connects the same groups with far fewer pairs.
    """
    words = _as_words(hashes)
    first_rows = first_occurrence(hashes)
    rows = np.arange(len(words))
    duplicates = np.flatnonzero(first_rows != rows)
    codes, overflow, exact = [], Overflow(), True
    if radius:
        unique_rows = np.flatnonzero(first_rows == rows)
        spans, exact = band_spans(words.shape[1] * 64, radius)
        for span in spans:
            keys = _band_key(words, span, unique_rows if len(duplicates) else None)
            buckets = build_buckets(keys)
            overflow += buckets.overflow(cap)
            for left_index, right_index in buckets.pairs(cap):
                a, b = unique_rows[left_index], unique_rows[right_index]
                is_near = _hamming_distance(words, a, words, b) <= radius
                codes.append(pack_pairs(a[is_near], b[is_near]))
    a, b = unique_pairs(codes)
    distance = _hamming_distance(words, a, words, b)
    left, right = np.concatenate([first_rows[duplicates], a]), np.concatenate([duplicates, b])
    distance = np.concatenate([np.zeros(len(duplicates), np.uint16), distance])
    order = np.lexsort((right, left))
    return HashPairs(left[order], right[order], distance[order], overflow, exact)


def first_occurrence(hashes: Hashes) -> NDArray[np.int64]:
    """For each row the first row with an equal hash, for any number of bits."""
    words = _as_words(hashes)
    first_rows = np.arange(len(words), dtype=np.int64)
    if len(words) < 2:
        return first_rows
    buckets = build_buckets(_mix_words(words))
    starts, lengths = buckets.runs()
    heads = buckets.rows(np.repeat(starts, lengths))
    members = buckets.rows(expand_ranges(starts, lengths))
    equal = (words[members] == words[heads]).all(axis=1)
    first_rows[members[equal]] = heads[equal]
    # Different hashes in one bucket are a coincidence of the sorted bits: the few rows one by one.
    row_by_hash: dict[bytes, int] = {}
    for row in np.sort(members[~equal]).tolist():
        first_rows[row] = row_by_hash.setdefault(words[row].tobytes(), row)
    return first_rows


class HammingIndex(NamedTuple):
    """A set of hashes, sorted by each band, for repeated searches; it can be pickled."""

    words: NDArray[np.uint64]
    radius: int
    keys: list[NDArray[np.uint64]]
    order: list[NDArray[np.int64]]
    cap: int

    @classmethod
    def build(cls, hashes: Hashes, radius: int, *, cap: int = BUCKET_CAP) -> HammingIndex:
        words = _as_words(hashes)
        keys = [_band_key(words, span, None) for span in band_spans(words.shape[1] * 64, radius)[0]]
        order = [np.argsort(key, kind="stable") for key in keys]
        sorted_keys = [key[rows] for key, rows in zip(keys, order, strict=True)]
        return cls(words, radius, sorted_keys, order, cap)

    def search(self, hashes: Hashes) -> HashPairs:
        """Pairs (row of `hashes`, row of the set) within the radius, in order."""
        words = _as_words(hashes)
        spans, exact = band_spans(words.shape[1] * 64, self.radius)
        codes, overflow = [], Overflow()
        for span, keys, order in zip(spans, self.keys, self.order, strict=True):
            starts, counts, skipped = find_ranges(keys, _band_key(words, span, None), cap=self.cap)
            overflow += skipped
            left = np.repeat(np.arange(len(words)), counts)
            right = order[expand_ranges(starts, counts)]
            is_near = _hamming_distance(words, left, self.words, right) <= self.radius
            codes.append(pack_pairs(left[is_near], right[is_near]))
        left, right = unique_pairs(codes)
        distance = _hamming_distance(words, left, self.words, right)
        return HashPairs(left, right, distance, overflow, exact)


def band_spans(bits: int, radius: int) -> tuple[list[tuple[int, int]], bool]:
    """(first bit, number of bits) of each band, and whether they find every pair."""
    # The key of a band is one word of 64 bits.
    n_bands = min(max(radius + 1, bits // 64), bits // MIN_BAND_BITS)
    edges = [bits * i // n_bands for i in range(n_bands + 1)]
    return [(start, end - start) for start, end in pairwise(edges)], n_bands > radius


def _as_words(hashes: Hashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64)


def _band_key(
    words: NDArray[np.uint64], span: tuple[int, int], rows: NDArray[np.int64] | None
) -> NDArray[np.uint64]:
    """The bits of one band, at the top of a word, for all rows or the given ones."""
    start, width = span
    word_index, shift = divmod(start, 64)
    key = words[:, word_index] << np.uint64(shift)
    if shift + width > 64:
        key |= words[:, word_index + 1] >> np.uint64(64 - shift)
    key &= np.uint64(((1 << width) - 1) << (64 - width))
    return key if rows is None else key[rows]


def _mix_words(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One word for each row; odd multipliers and shifts spread every bit into the leading ones."""
    mixed = words[:, 0] * np.uint64(0x9E3779B97F4A7C15)
    for column in range(1, words.shape[1]):
        mixed ^= mixed >> np.uint64(29)
        mixed += words[:, column]
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return mixed * np.uint64(0x94D049BB133111EB)


def _hamming_distance(
    left_words: NDArray[np.uint64],
    left: NDArray[np.int64],
    right_words: NDArray[np.uint64],
    right: NDArray[np.int64],
) -> NDArray[np.uint16]:
    """The differing bits of each pair of rows; in chunks, to bound the memory."""
    distance = np.empty(len(left), np.uint16)
    for start in range(0, len(left), CHUNK_PAIRS // 4):
        chunk = slice(start, start + CHUNK_PAIRS // 4)
        distance[chunk] = np.bitwise_count(left_words[left[chunk]] ^ right_words[right[chunk]]).sum(
            axis=1, dtype=np.uint16
        )
    return distance
