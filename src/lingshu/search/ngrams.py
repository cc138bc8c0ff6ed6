"""A table of the n-grams of many texts, asked which of them occur in another text and in which of
its texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.search.bloom import BloomFilter
from lingshu.search.buckets import sorted_unique
from lingshu.search.text_hash import Ngrams

# Texts that are remembered for one n-gram beyond what makes it frequent; whoever has more is
# boilerplate anyway.
MAX_POSTINGS = 64


class NgramHits(NamedTuple):
    """Windows of asked texts that the table knows: the asked text and the entry of the table, each
    pair once, in order.
    """

    query: NDArray[np.int64]
    entry: NDArray[np.int64]


class SharedNgrams(NamedTuple):
    """Pairs of texts with the n-grams they share: all, those not frequent in the table, those not
    ignored either.
    """

    query: NDArray[np.int64]
    text: NDArray[np.int64]
    total: NDArray[np.int64]
    distinctive: NDArray[np.int64]
    rare: NDArray[np.int64]


class NgramTable(NamedTuple):
    """Sorted hashes, the texts that hold each, and in how many they are. It pickles.

    `frequent` marks n-grams that so many of the table's own texts hold that they say nothing about
    one of them.
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
        """The table of some texts; an n-gram that `frequent` texts or more hold is marked."""
        order = np.lexsort((ngrams.text_ids, ngrams.hashes))
        hashes, owners = ngrams.hashes[order], ngrams.text_ids[order]
        is_new = np.ones(len(hashes), np.bool_)
        is_new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[is_new], owners[is_new].astype(np.int32)
        unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        is_frequent = counts >= min_frequent
        n_windows = np.bincount(owners[~np.repeat(is_frequent, counts)], minlength=n_texts)
        # Of a frequent n-gram only some texts are kept.
        rank = np.arange(len(owners)) - np.repeat(first, counts)
        is_kept = rank < max(MAX_POSTINGS, min_frequent)
        offsets = np.zeros(len(unique) + 1, np.int64)
        np.cumsum(np.minimum(counts, max(MAX_POSTINGS, min_frequent)), out=offsets[1:])
        return cls(
            unique,
            counts,
            is_frequent,
            offsets,
            owners[is_kept],
            n_windows,
            BloomFilter.build(unique),
        )

    def find(self, query: Ngrams) -> NgramHits:
        """Which n-grams of the table occur in which asked texts."""
        candidates = self.filter.candidate_indices(query.hashes)
        if not len(candidates) or not len(self.hashes):
            return NgramHits(np.empty(0, np.int64), np.empty(0, np.int64))
        hashes = query.hashes[candidates]
        entry = np.searchsorted(self.hashes, hashes)
        is_match = self.hashes[np.minimum(entry, len(self.hashes) - 1)] == hashes
        codes = sorted_unique(
            (query.text_ids[candidates[is_match]] << np.int64(32) | entry[is_match]).view(np.uint64)
        ).view(np.int64)
        return NgramHits(codes >> 32, codes & 0xFFFFFFFF)

    def n_omitted(self, hits: NgramHits) -> int:
        """At least how many pairs `shared` does not tell of, because their n-grams are in too many
        texts.
        """
        omitted = np.zeros(int(hits.query.max(initial=-1)) + 1, np.int64)
        np.maximum.at(
            omitted, hits.query, self.counts[hits.entry] - np.diff(self.offsets)[hits.entry]
        )
        return int(omitted.sum())

    def shared(self, hits: NgramHits, *, ignored: NDArray[np.bool_]) -> SharedNgrams:
        """The pairs of an asked text and an own one that hits belong to, in order, and how many
        n-grams each shares.
        """
        counts = self.offsets[hits.entry + 1] - self.offsets[hits.entry]
        positions = np.arange(int(counts.sum())) + np.repeat(
            self.offsets[hits.entry] - np.cumsum(counts) + counts, counts
        )
        codes = np.repeat(hits.query, counts) << np.int64(32) | self.texts[positions].astype(
            np.int64
        )
        pairs, inverse, total = np.unique(codes, return_inverse=True, return_counts=True)
        is_distinctive = ~self.frequent[hits.entry]
        distinctive = np.bincount(
            inverse, np.repeat(is_distinctive, counts), minlength=len(pairs)
        ).astype(np.int64)
        rare = np.bincount(
            inverse, np.repeat(is_distinctive & ~ignored[hits.entry], counts), minlength=len(pairs)
        ).astype(np.int64)
        return SharedNgrams(pairs >> 32, pairs & 0xFFFFFFFF, total, distinctive, rare)
