"""A table of the n-grams of many texts, asked which of them occur in another text and in which of
its texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.ops._buckets import distinct
from lingshu.ops._filter import Filter
from lingshu.ops._text_signature import Grams

# Texts that are remembered for one n-gram beyond what makes it frequent; whoever has more is
# boilerplate anyway.
POSTINGS = 64


class Hits(NamedTuple):
    """Windows of asked texts that the table knows: the asked text and the entry of the table, each
    pair once, in order.
    """

    asked: NDArray[np.int64]
    entry: NDArray[np.int64]


class Shared(NamedTuple):
    """Pairs of texts with the n-grams they share: all, those not frequent in the table, those not
    ignored either.
    """

    asked: NDArray[np.int64]
    text: NDArray[np.int64]
    total: NDArray[np.int64]
    telling: NDArray[np.int64]
    rare: NDArray[np.int64]


class GramTable(NamedTuple):
    """Sorted hashes, the texts that hold each, and in how many they are. It pickles.

    `frequent` marks n-grams that so many of the table's own texts hold that they say nothing about
    one of them.
    """

    hashes: NDArray[np.uint64]
    counts: NDArray[np.int64]
    frequent: NDArray[np.bool_]
    starts: NDArray[np.int64]
    texts: NDArray[np.int32]
    windows: NDArray[np.int64]  # different n-grams of each text that are not frequent
    filter: Filter

    @classmethod
    def build(cls, found: Grams, *, texts: int, frequent: int) -> GramTable:
        """The table of some texts; an n-gram that `frequent` texts or more hold is marked."""
        order = np.lexsort((found.owners, found.hashes))
        hashes, owners = found.hashes[order], found.owners[order]
        fresh = np.ones(len(hashes), np.bool_)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[fresh], owners[fresh].astype(np.int32)
        unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        often = counts >= frequent
        windows = np.bincount(owners[~np.repeat(often, counts)], minlength=texts)
        # Of a frequent n-gram only some texts are kept.
        place = np.arange(len(owners)) - np.repeat(first, counts)
        kept = place < max(POSTINGS, frequent)
        starts = np.zeros(len(unique) + 1, np.int64)
        np.cumsum(np.minimum(counts, max(POSTINGS, frequent)), out=starts[1:])
        return cls(unique, counts, often, starts, owners[kept], windows, Filter.build(unique))

    def find(self, asked: Grams) -> Hits:
        """Which n-grams of the table occur in which asked texts."""
        passed = self.filter.passed(asked.hashes)
        if not len(passed) or not len(self.hashes):
            return Hits(np.empty(0, np.int64), np.empty(0, np.int64))
        hashes = asked.hashes[passed]
        entry = np.searchsorted(self.hashes, hashes)
        known = self.hashes[np.minimum(entry, len(self.hashes) - 1)] == hashes
        codes = distinct(
            (asked.owners[passed[known]] << np.int64(32) | entry[known]).view(np.uint64)
        ).view(np.int64)
        return Hits(codes >> 32, codes & 0xFFFFFFFF)

    def unlisted(self, hits: Hits) -> int:
        """At least how many pairs `shared` does not tell of, because their n-grams are in too many
        texts.
        """
        beyond = np.zeros(int(hits.asked.max(initial=-1)) + 1, np.int64)
        np.maximum.at(
            beyond, hits.asked, self.counts[hits.entry] - np.diff(self.starts)[hits.entry]
        )
        return int(beyond.sum())

    def shared(self, hits: Hits, *, ignored: NDArray[np.bool_]) -> Shared:
        """The pairs of an asked text and an own one that hits belong to, in order, and how many
        n-grams each shares.
        """
        counts = self.starts[hits.entry + 1] - self.starts[hits.entry]
        place = np.arange(int(counts.sum())) + np.repeat(
            self.starts[hits.entry] - np.cumsum(counts) + counts, counts
        )
        codes = np.repeat(hits.asked, counts) << np.int64(32) | self.texts[place].astype(np.int64)
        pairs, inverse, total = np.unique(codes, return_inverse=True, return_counts=True)
        own = ~self.frequent[hits.entry]
        telling = np.bincount(inverse, np.repeat(own, counts), minlength=len(pairs)).astype(
            np.int64
        )
        rare = np.bincount(
            inverse, np.repeat(own & ~ignored[hits.entry], counts), minlength=len(pairs)
        ).astype(np.int64)
        return Shared(pairs >> 32, pairs & 0xFFFFFFFF, total, telling, rare)
