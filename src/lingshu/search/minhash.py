"""Texts that share most of their shingles: MinHash finds candidates, Jaccard similarity decides."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.search.bloom import BloomFilter
from lingshu.search.buckets import (
    Overflow,
    build_buckets,
    expand_ranges,
    find_ranges,
    first_of_runs,
    pack_pairs,
    starts_run,
    unique_pairs,
)
from lingshu.search.ngrams import hash_ngrams
from lingshu.search.text_hash import MULTIPLIER, TokenHashes, text_hashes

SHINGLE = 5
PERMUTATIONS = 256
# 32 bands of 8 rows: of the pairs of Jaccard similarity 0.7 85% share a band, at 0.8 99.7%. Half as
# many would miss 39% and 5%; candidates are verified, so more bands only cost time.
BAND_ROWS = 8
SEED = 42
TEXT_BATCH = 64
THRESHOLD = 0.7
# Texts that one text of a bucket is compared with; what is skipped is counted.
BUCKET_CAP = 512
# A pair's number, its side and a shingle's hash share one word, so that a sort does the counting.
_PAIR_CHUNK = 1 << 12
_RIGHT_SIDE, _HASH_SHIFT = np.uint64(1 << 51), np.uint64(13)


class SimilarPairs(NamedTuple):
    """Pairs of texts, smaller row first, with their Jaccard similarity."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    similarity: NDArray[np.float64]
    overflow: Overflow


# The shingle hashes of several texts, concatenated, and where each text starts.
Shingles = TokenHashes


def find_similar_pairs(tokens: TokenHashes, *, threshold: float = THRESHOLD) -> SimilarPairs:
    """Pairs of texts whose 5-word shingles have a Jaccard similarity of at least `threshold`.

    Of the pairs at similarity 0.7 about 85% are found, at 0.8 99.7%, at 0.9 all but 1 in 10^7. The
    copies of a text are only paired with its first row. A text under five words is never found.
    """
    text_shingles, first_rows = hash_shingles(tokens), _first_occurrence(text_hashes(tokens))
    has_shingles, rows = np.diff(text_shingles.offsets) > 0, np.arange(len(first_rows))
    duplicates = np.flatnonzero(has_shingles & (first_rows != rows))
    unique_rows = np.flatnonzero(has_shingles & (first_rows == rows))
    keys = band_keys(compute_minhashes(text_shingles)[unique_rows])
    left_index, right_index, overflow = candidate_pairs(keys)
    left, right = unique_rows[left_index], unique_rows[right_index]
    similarity = jaccard(text_shingles, left, text_shingles, right)
    is_similar = similarity >= threshold
    left = np.concatenate([first_rows[duplicates], left[is_similar]])
    right = np.concatenate([duplicates, right[is_similar]])
    similarity = np.concatenate([np.ones(len(duplicates)), similarity[is_similar]])
    order = np.lexsort((right, left))
    return SimilarPairs(left[order], right[order], similarity[order], overflow)


def candidate_pairs(
    keys: NDArray[np.uint64], *, cap: int = BUCKET_CAP
) -> tuple[NDArray[np.int64], NDArray[np.int64], Overflow]:
    """Pairs of rows that share the key of a band, smaller row first, and what the cap left out.

    For corpora that do not fit into memory: the search needs 256 bytes of keys a text, and
    verification only the texts that it returns.
    """
    codes, overflow = [], Overflow()
    for band in range(keys.shape[1]):
        buckets = build_buckets(keys[:, band])
        overflow += buckets.overflow(cap)
        codes += [pack_pairs(left, right) for left, right in buckets.pairs(cap)]
    return *unique_pairs(codes), overflow


def _first_occurrence(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row the first row with an equal hash."""
    order = np.argsort(hashes, kind="stable")
    return first_of_runs(order, starts_run(hashes[order]))


class MinHashIndex(NamedTuple):
    """Texts for repeated searches: the keys of all bands in one sorted table. It can be pickled."""

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
        """Pairs (row of `tokens`, row of the index) at least as similar as the threshold."""
        text_shingles, keys, rows = _shingles_and_keys(tokens)
        candidates = self.filter.candidate_indices(keys)
        starts, counts, overflow = find_ranges(self.keys, keys[candidates], cap=self.cap)
        found = self.rows[expand_ranges(starts, counts)]
        left, right = unique_pairs([pack_pairs(np.repeat(rows[candidates], counts), found)])
        similarity = jaccard(text_shingles, left, self.shingles, right)
        is_similar = similarity >= self.threshold
        return SimilarPairs(left[is_similar], right[is_similar], similarity[is_similar], overflow)


def _shingles_and_keys(
    tokens: TokenHashes,
) -> tuple[Shingles, NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles of some texts, and the keys of all their bands with the text of each."""
    text_shingles = hash_shingles(tokens)
    rows = np.flatnonzero(np.diff(text_shingles.offsets))
    keys = band_keys(compute_minhashes(text_shingles)[rows])
    # Keys of different bands must differ.
    keys ^= np.arange(keys.shape[1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return text_shingles, keys.ravel(), np.repeat(rows, keys.shape[1])


def hash_shingles(tokens: TokenHashes) -> Shingles:
    ngrams = hash_ngrams(tokens, SHINGLE)
    counts = np.bincount(ngrams.text_ids, minlength=len(tokens.offsets) - 1)
    return Shingles(ngrams.hashes, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def jaccard(
    left_shingles: Shingles,
    left: NDArray[np.int64],
    right_shingles: Shingles,
    right: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The Jaccard similarity of the shingle sets of each pair of texts."""
    similarity = np.empty(len(left))
    for start in range(0, len(left), _PAIR_CHUNK):
        chunk = slice(start, start + _PAIR_CHUNK)
        n_pairs = len(left[chunk])
        left_hashes = _pair_shingles(left_shingles, left[chunk])
        right_hashes = _pair_shingles(right_shingles, right[chunk]) | _RIGHT_SIDE
        hashes = np.concatenate([left_hashes, right_hashes])
        n_total = _count_distinct(hashes, n_pairs)
        n_union = _count_distinct(hashes & ~_RIGHT_SIDE, n_pairs)
        similarity[chunk] = (n_total - n_union) / np.maximum(n_union, 1)
    return similarity


def _count_distinct(hashes: NDArray[np.uint64], n_pairs: int) -> NDArray[np.int64]:
    """How many different values each pair has."""
    hashes.sort()
    distinct = hashes[np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))]
    return np.bincount((distinct >> np.uint64(52)).astype(np.int64), minlength=n_pairs)


def _pair_shingles(shingles: Shingles, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The shingles of each row, cut to 51 bits, the pair's number in the leading 12 bits."""
    counts = shingles.offsets[rows + 1] - shingles.offsets[rows]
    pair_index = np.repeat(np.arange(len(rows)), counts)
    positions = expand_ranges(shingles.offsets[rows], counts)
    return pair_index.astype(np.uint64) << np.uint64(52) | shingles.hashes[positions] >> _HASH_SHIFT


def compute_minhashes(shingles: Shingles) -> NDArray[np.uint32]:
    """MinHash signatures, texts x 256; without shingles that of the empty set."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    offsets, n_texts = shingles.offsets, len(shingles.offsets) - 1
    signatures = np.empty((n_texts, PERMUTATIONS), np.uint32)
    # rensa returns Python numbers; few at a time stay in the cache and are soon freed.
    for start in range(0, n_texts, TEXT_BATCH):
        batch_offsets = offsets[start : start + TEXT_BATCH + 1]
        hashes = shingles.hashes[batch_offsets[0] : batch_offsets[-1]]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, (batch_offsets - batch_offsets[0]).astype(np.uint64), PERMUTATIONS, SEED
        )
        n_values = (len(batch_offsets) - 1) * PERMUTATIONS
        values = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, n_values)
        signatures[start : start + TEXT_BATCH] = values.reshape(-1, PERMUTATIONS)
    return signatures


def band_keys(signatures: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One hash for each band of 8 rows of a signature, texts x 32."""
    bands = signatures.reshape(len(signatures), PERMUTATIONS // BAND_ROWS, BAND_ROWS)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(BAND_ROWS):
        keys += bands[:, :, row]
        keys *= np.uint64(MULTIPLIER)
        keys ^= keys >> np.uint64(32)
    return keys * np.uint64(MULTIPLIER)
