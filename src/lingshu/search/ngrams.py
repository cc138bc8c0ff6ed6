"""N-grams of words: their hashes, and a table of those of many texts to search other texts for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.search.bloom import BloomFilter
from lingshu.search.buckets import expand_ranges, pack_pairs, starts_run, unique_pairs
from lingshu.search.text_hash import MULTIPLIER, TokenHashes

# Texts that are remembered for one n-gram beyond what makes it frequent; with more it is
# boilerplate anyway.
MAX_POSTINGS = 64
_POWERS = tuple(np.uint64(pow(MULTIPLIER, i, 1 << 64)) for i in range(16))


class Ngrams(NamedTuple):
    """Hashes of windows of n words, and the text of each; in order, repeats included."""

    hashes: NDArray[np.uint64]
    text_ids: NDArray[np.int64]


def hash_ngrams(tokens: TokenHashes, n: int) -> Ngrams:
    """The windows of `n` words (at most 16) of each text; a text of fewer words has none.

    The hash is the sum of the word hashes times powers of an odd number modulo 2^64, assembled from
    windows of 1, 2, 4 and 8 words.
    """
    token_hashes = tokens.hashes
    if len(token_hashes) < n:
        return Ngrams(np.empty(0, np.uint64), np.empty(0, np.int64))
    counts = np.diff(tokens.offsets)
    text_ids = np.repeat(np.arange(len(counts)), np.maximum(counts - (n - 1), 0))
    # Windows that reach into the next text are computed with the rest and left out.
    inside = np.ones(len(token_hashes) - n + 1, np.bool_)
    for offset in range(1, n):
        ends = tokens.offsets[1:] - offset
        inside[ends[(ends >= tokens.offsets[:-1]) & (ends < len(inside))]] = False
    sums: NDArray[np.uint64] | None = None
    window, width, covered = token_hashes, 1, 0
    while width <= n:
        if n & width:
            term = window[covered : covered + len(token_hashes) - n + 1]
            term = term * _POWERS[covered] if covered else term
            sums = term.copy() if sums is None else sums + term
            covered += width
        if 2 * width <= n:
            window = window[: len(window) - width] + window[width:] * _POWERS[width]
        width *= 2
    assert sums is not None
    return Ngrams(sums[inside], text_ids)


class NgramHits(NamedTuple):
    """N-grams of query texts in the table: text and table entry, each pair once, in order."""

    query: NDArray[np.int64]
    entry: NDArray[np.int64]


class SharedNgrams(NamedTuple):
    """Pairs of texts with shared n-grams: all, not frequent, and neither frequent nor ignored."""

    query: NDArray[np.int64]
    text: NDArray[np.int64]
    total: NDArray[np.int64]
    distinctive: NDArray[np.int64]
    rare: NDArray[np.int64]


class NgramTable(NamedTuple):
    """Sorted hashes, the texts of each, and the number of its texts. It can be pickled.

    `frequent` marks n-grams of so many texts that they do not identify one of them.
    """

    hashes: NDArray[np.uint64]
    counts: NDArray[np.int64]
    frequent: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    texts: NDArray[np.int32]
    n_windows: NDArray[np.int64]  # different n-grams of each text that are not frequent
    filter: BloomFilter

    @classmethod
    def build(cls, ngrams: Ngrams, *, n_texts: int, min_frequent: int) -> NgramTable:
        """The table of some texts; an n-gram of `min_frequent` texts or more is marked."""
        order = np.lexsort((ngrams.text_ids, ngrams.hashes))
        hashes, owners = ngrams.hashes[order], ngrams.text_ids[order]
        is_new = starts_run(hashes, owners)
        hashes, owners = hashes[is_new], owners[is_new].astype(np.int32)
        unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        is_frequent = counts >= min_frequent
        n_windows = np.bincount(owners[~np.repeat(is_frequent, counts)], minlength=n_texts)
        # Of a frequent n-gram only some texts are kept.
        n_kept = np.minimum(counts, max(MAX_POSTINGS, min_frequent))
        offsets = np.concatenate([[0], np.cumsum(n_kept)]).astype(np.int64)
        texts, bloom_filter = owners[expand_ranges(first, n_kept)], BloomFilter.build(unique)
        return cls(unique, counts, is_frequent, offsets, texts, n_windows, bloom_filter)

    def find(self, query: Ngrams) -> NgramHits:
        """Which n-grams of the table occur in which query texts."""
        candidates = self.filter.candidate_indices(query.hashes)
        if not len(candidates) or not len(self.hashes):
            return NgramHits(np.empty(0, np.int64), np.empty(0, np.int64))
        hashes = query.hashes[candidates]
        entry = np.searchsorted(self.hashes, hashes)
        is_match = self.hashes[np.minimum(entry, len(self.hashes) - 1)] == hashes
        codes = pack_pairs(query.text_ids[candidates[is_match]], entry[is_match])
        return NgramHits(*unique_pairs([codes]))

    def n_omitted(self, hits: NgramHits) -> int:
        """A lower bound of the pairs that `shared` omits: their n-grams are in too many texts."""
        omitted = np.zeros(int(hits.query.max(initial=-1)) + 1, np.int64)
        n_dropped = self.counts[hits.entry] - np.diff(self.offsets)[hits.entry]
        np.maximum.at(omitted, hits.query, n_dropped)
        return int(omitted.sum())

    def shared(self, hits: NgramHits, *, ignored: NDArray[np.bool_]) -> SharedNgrams:
        """The pairs of a query text and a table text with hits, in order, and what they share."""
        starts = self.offsets[hits.entry]
        counts = self.offsets[hits.entry + 1] - starts
        texts = self.texts[expand_ranges(starts, counts)].astype(np.int64)
        codes = np.repeat(hits.query, counts) << np.int64(32) | texts
        pairs, inverse, total = np.unique(codes, return_inverse=True, return_counts=True)
        is_distinctive = ~self.frequent[hits.entry]
        distinctive, rare = (
            np.bincount(inverse, np.repeat(mask, counts), minlength=len(pairs)).astype(np.int64)
            for mask in (is_distinctive, is_distinctive & ~ignored[hits.entry])
        )
        return SharedNgrams(pairs >> 32, pairs & 0xFFFFFFFF, total, distinctive, rare)
