"""Texts that share most of their shingles: MinHash bands find the candidates, the true Jaccard
similarity decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.search.bloom import BloomFilter
from lingshu.search.buckets import Overflow, build_buckets, sorted_unique
from lingshu.search.text_hash import (
    SHINGLE,
    Ngrams,
    TokenHashes,
    band_keys,
    compute_minhashes,
    hash_ngrams,
    text_hashes,
)

THRESHOLD = 0.7
# Texts that one text of a bucket is compared with; what is left out is counted.
BUCKET_CAP = 512
# A pair's number, its side and a shingle's hash share one word, so that a plain sort does the
# counting.
_PAIR_CHUNK = 1 << 12
_RIGHT_SIDE, _HASH_SHIFT = np.uint64(1 << 51), np.uint64(13)


class SimilarPairs(NamedTuple):
    """Pairs of texts, smaller row first, with their Jaccard similarity; `over` counts what the cap
    left out.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    similarity: NDArray[np.float64]
    overflow: Overflow


class Shingles(NamedTuple):
    """The shingle hashes of several texts in one row, and where each text starts."""

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]


def find_similar_pairs(
    tokens: TokenHashes, *, threshold: float = THRESHOLD, cap: int = BUCKET_CAP
) -> SimilarPairs:
    """Pairs of texts whose sets of 5-word shingles have a Jaccard similarity of at least
    `threshold`.

    32 bands of 8 MinHash values: of the pairs at similarity 0.7 some 85% are found, at 0.8 99.7%,
    at 0.9 all but 1 in 10^7. A text that occurs several times is compared once, and its copies are
    paired with its first row alone. A text of fewer than five words has no shingle and is never
    found here.
    """
    ngrams, n_texts = hash_ngrams(tokens, SHINGLE), len(tokens.offsets) - 1
    text_shingles = group_shingles(ngrams, n_texts=n_texts)
    first_rows = _first_occurrence(text_hashes(tokens))
    has_shingles, rows = np.diff(text_shingles.offsets) > 0, np.arange(n_texts)
    duplicates = np.flatnonzero(has_shingles & (first_rows != rows))
    unique_rows = np.flatnonzero(has_shingles & (first_rows == rows))
    left_index, right_index, overflow = candidate_pairs(
        band_keys(compute_minhashes(ngrams, n_texts=n_texts)[unique_rows]), cap=cap
    )
    left, right = unique_rows[left_index], unique_rows[right_index]
    similarity = jaccard(text_shingles, left, text_shingles, right)
    is_similar = similarity >= threshold
    left, right = (
        np.concatenate([first_rows[duplicates], left[is_similar]]),
        np.concatenate([duplicates, right[is_similar]]),
    )
    similarity = np.concatenate([np.ones(len(duplicates)), similarity[is_similar]])
    order = np.lexsort((right, left))
    return SimilarPairs(left[order], right[order], similarity[order], overflow)


def candidate_pairs(
    keys: NDArray[np.uint64], *, cap: int = BUCKET_CAP
) -> tuple[NDArray[np.int64], NDArray[np.int64], Overflow]:
    """Pairs of rows that share the key of a band, smaller row first, and what the cap left out.

    For corpora that do not fit into memory: 256 bytes of keys a text are enough for this search,
    and only the texts it names are needed to verify.
    """
    codes, overflow = [np.empty(0, np.uint64)], Overflow()
    for band in range(keys.shape[1]):
        buckets = build_buckets(keys[:, band])
        overflow += buckets.overflow(cap)
        codes += [
            a.astype(np.uint64) << np.uint64(32) | b.astype(np.uint64)
            for a, b in buckets.pairs(cap)
        ]
    pair_codes = sorted_unique(np.concatenate(codes))
    return (
        (pair_codes >> np.uint64(32)).astype(np.int64),
        (pair_codes & np.uint64(0xFFFFFFFF)).astype(np.int64),
        overflow,
    )


def _first_occurrence(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row the first row with an equal hash."""
    order = np.argsort(hashes, kind="stable")
    is_head = np.ones(len(hashes), np.bool_)
    is_head[1:] = hashes[order[1:]] != hashes[order[:-1]]
    first_rows = np.empty(len(hashes), np.int64)
    first_rows[order] = order[is_head][np.cumsum(is_head) - 1]
    return first_rows


class MinHashIndex(NamedTuple):
    """Texts to be searched again and again by MinHash: the keys of all bands in one sorted table.

    It pickles.
    """

    shingles: Shingles
    keys: NDArray[np.uint64]
    rows: NDArray[np.int64]
    filter: BloomFilter
    threshold: float
    cap: int

    @classmethod
    def build(
        cls, tokens: TokenHashes, *, threshold: float = THRESHOLD, cap: int = BUCKET_CAP
    ) -> MinHashIndex:
        text_shingles, keys, rows = _shingles_and_keys(tokens)
        order = np.argsort(keys, kind="stable")
        return cls(text_shingles, keys[order], rows[order], BloomFilter.build(keys), threshold, cap)

    def search(self, tokens: TokenHashes) -> SimilarPairs:
        """Pairs (row of `found`, row of the index) that are at least as similar as the threshold."""
        text_shingles, keys, rows = _shingles_and_keys(tokens)
        candidates = self.filter.candidate_indices(keys)
        query_keys, rows = keys[candidates], rows[candidates]
        low, high = (
            np.searchsorted(self.keys, query_keys, "left"),
            np.searchsorted(self.keys, query_keys, "right"),
        )
        counts = np.minimum(high - low, self.cap)
        overflow = Overflow(int((high - low > self.cap).sum()), int((high - low - counts).sum()))
        positions = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(
            int(counts.sum())
        )
        codes = sorted_unique(
            (np.repeat(rows, counts) << np.int64(32) | self.rows[positions]).view(np.uint64)
        ).view(np.int64)
        left, right = codes >> 32, codes & 0xFFFFFFFF
        similarity = jaccard(text_shingles, left, self.shingles, right)
        is_similar = similarity >= self.threshold
        return SimilarPairs(left[is_similar], right[is_similar], similarity[is_similar], overflow)


def _shingles_and_keys(
    tokens: TokenHashes,
) -> tuple[Shingles, NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles of some texts, and the keys of all their bands with the text that each belongs
    to.
    """
    ngrams, n_texts = hash_ngrams(tokens, SHINGLE), len(tokens.offsets) - 1
    text_shingles = group_shingles(ngrams, n_texts=n_texts)
    rows = np.flatnonzero(np.diff(text_shingles.offsets))
    keys = band_keys(compute_minhashes(ngrams, n_texts=n_texts)[rows])
    # A key says which band it is of.
    keys ^= np.arange(keys.shape[1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return text_shingles, keys.ravel(), np.repeat(rows, keys.shape[1])


def group_shingles(ngrams: Ngrams, *, n_texts: int) -> Shingles:
    offsets = np.zeros(n_texts + 1, np.int64)
    np.cumsum(np.bincount(ngrams.text_ids, minlength=n_texts), out=offsets[1:])
    return Shingles(ngrams.hashes, offsets)


def jaccard(
    left_shingles: Shingles,
    left: NDArray[np.int64],
    right_shingles: Shingles,
    right: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Size of the intersection over size of the union of two texts' sets of shingles, for each
    pair.
    """
    similarity = np.empty(len(left))
    for start in range(0, len(left), _PAIR_CHUNK):
        chunk = slice(start, start + _PAIR_CHUNK)
        n_pairs = len(left[chunk])
        marked_hashes = np.concatenate(
            [
                _pair_shingles(left_shingles, left[chunk]),
                _pair_shingles(right_shingles, right[chunk]) | _RIGHT_SIDE,
            ]
        )
        n_total, n_union = (
            _count_distinct(marked_hashes, n_pairs),
            _count_distinct(marked_hashes & ~_RIGHT_SIDE, n_pairs),
        )
        similarity[chunk] = (n_total - n_union) / np.maximum(n_union, 1)
    return similarity


def _count_distinct(hashes: NDArray[np.uint64], n_pairs: int) -> NDArray[np.int64]:
    """How many different values each of `count` pairs has."""
    hashes.sort()
    distinct = hashes[np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))]
    return np.bincount((distinct >> np.uint64(52)).astype(np.int64), minlength=n_pairs)


def _pair_shingles(shingles: Shingles, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The shingles of each row, marked with the number of its pair in the leading 12 bits and
    shortened to the last 51.
    """
    counts = shingles.offsets[rows + 1] - shingles.offsets[rows]
    pair_index = np.repeat(np.arange(len(rows)), counts)
    positions = np.arange(int(counts.sum())) + np.repeat(
        shingles.offsets[rows] - np.cumsum(counts) + counts, counts
    )
    return pair_index.astype(np.uint64) << np.uint64(52) | shingles.hashes[positions] >> _HASH_SHIFT
