"""Texts that share most of their shingles: MinHash bands find the candidates, the true Jaccard
similarity decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.ops._buckets import Over, buckets, distinct
from lingshu.ops._filter import Filter
from lingshu.ops._text_signature import (
    SHINGLE,
    Grams,
    Tokens,
    band_keys,
    grams,
    minhashes,
    text_hashes,
)

THRESHOLD = 0.7
# Texts that one text of a bucket is compared with; what is left out is counted.
CAP = 512
# A pair's number, its side and a shingle's hash share one word, so that a plain sort does the
# counting.
_PAIRS_AT_ONCE = 1 << 12
_SIDE, _HASH_BITS = np.uint64(1 << 51), np.uint64(13)


class NearPairs(NamedTuple):
    """Pairs of texts, smaller row first, with their Jaccard similarity; `over` counts what the cap
    left out.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    similarity: NDArray[np.float64]
    over: Over


class Shingles(NamedTuple):
    """The shingle hashes of several texts in one row, and where each text starts."""

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]


def near_pairs(found: Tokens, *, threshold: float = THRESHOLD, cap: int = CAP) -> NearPairs:
    """Pairs of texts whose sets of 5-word shingles have a Jaccard similarity of at least
    `threshold`.

    32 bands of 8 MinHash values: of the pairs at similarity 0.7 some 85% are found, at 0.8 99.7%,
    at 0.9 all but 1 in 10^7. A text that occurs several times is compared once, and its copies are
    paired with its first row alone. A text of fewer than five words has no shingle and is never
    found here.
    """
    shingled, texts = grams(found, SHINGLE), len(found.starts) - 1
    own = shingles(shingled, texts=texts)
    first = _first(text_hashes(found))
    worded, rows = np.diff(own.starts) > 0, np.arange(texts)
    copies = np.flatnonzero(worded & (first != rows))
    keyed = np.flatnonzero(worded & (first == rows))
    one, other, over = candidates(band_keys(minhashes(shingled, texts=texts)[keyed]), cap=cap)
    left, right = keyed[one], keyed[other]
    similarity = jaccard(own, left, own, right)
    near = similarity >= threshold
    left, right = np.concatenate([first[copies], left[near]]), np.concatenate([copies, right[near]])
    similarity = np.concatenate([np.ones(len(copies)), similarity[near]])
    order = np.lexsort((right, left))
    return NearPairs(left[order], right[order], similarity[order], over)


def candidates(
    keys: NDArray[np.uint64], *, cap: int = CAP
) -> tuple[NDArray[np.int64], NDArray[np.int64], Over]:
    """Pairs of rows that share the key of a band, smaller row first, and what the cap left out.

    For corpora that do not fit into memory: 256 bytes of keys a text are enough for this search,
    and only the texts it names are needed to verify.
    """
    codes, over = [np.empty(0, np.uint64)], Over()
    for band in range(keys.shape[1]):
        found = buckets(keys[:, band])
        over += found.over(cap)
        codes += [
            a.astype(np.uint64) << np.uint64(32) | b.astype(np.uint64) for a, b in found.pairs(cap)
        ]
    every = distinct(np.concatenate(codes))
    return (
        (every >> np.uint64(32)).astype(np.int64),
        (every & np.uint64(0xFFFFFFFF)).astype(np.int64),
        over,
    )


def _first(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row the first row with an equal hash."""
    order = np.argsort(hashes, kind="stable")
    heads = np.ones(len(hashes), np.bool_)
    heads[1:] = hashes[order[1:]] != hashes[order[:-1]]
    first = np.empty(len(hashes), np.int64)
    first[order] = order[heads][np.cumsum(heads) - 1]
    return first


class NearIndex(NamedTuple):
    """Texts to be searched again and again by MinHash: the keys of all bands in one sorted table.

    It pickles.
    """

    shingles: Shingles
    keys: NDArray[np.uint64]
    rows: NDArray[np.int64]
    filter: Filter
    threshold: float
    cap: int

    @classmethod
    def build(cls, found: Tokens, *, threshold: float = THRESHOLD, cap: int = CAP) -> NearIndex:
        own, keys, rows = _keyed(found)
        order = np.argsort(keys, kind="stable")
        return cls(own, keys[order], rows[order], Filter.build(keys), threshold, cap)

    def near(self, found: Tokens) -> NearPairs:
        """Pairs (row of `found`, row of the index) that are at least as similar as the threshold."""
        own, keys, rows = _keyed(found)
        passed = self.filter.passed(keys)
        asked, rows = keys[passed], rows[passed]
        low, high = (
            np.searchsorted(self.keys, asked, "left"),
            np.searchsorted(self.keys, asked, "right"),
        )
        counts = np.minimum(high - low, self.cap)
        over = Over(int((high - low > self.cap).sum()), int((high - low - counts).sum()))
        place = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
        codes = distinct(
            (np.repeat(rows, counts) << np.int64(32) | self.rows[place]).view(np.uint64)
        ).view(np.int64)
        left, right = codes >> 32, codes & 0xFFFFFFFF
        similarity = jaccard(own, left, self.shingles, right)
        near = similarity >= self.threshold
        return NearPairs(left[near], right[near], similarity[near], over)


def _keyed(found: Tokens) -> tuple[Shingles, NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles of some texts, and the keys of all their bands with the text that each belongs
    to.
    """
    shingled, texts = grams(found, SHINGLE), len(found.starts) - 1
    own = shingles(shingled, texts=texts)
    rows = np.flatnonzero(np.diff(own.starts))
    keys = band_keys(minhashes(shingled, texts=texts)[rows])
    # A key says which band it is of.
    keys ^= np.arange(keys.shape[1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return own, keys.ravel(), np.repeat(rows, keys.shape[1])


def shingles(shingled: Grams, *, texts: int) -> Shingles:
    starts = np.zeros(texts + 1, np.int64)
    np.cumsum(np.bincount(shingled.owners, minlength=texts), out=starts[1:])
    return Shingles(shingled.hashes, starts)


def jaccard(
    ours: Shingles, left: NDArray[np.int64], theirs: Shingles, right: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Size of the intersection over size of the union of two texts' sets of shingles, for each
    pair.
    """
    found = np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        count = len(left[part])
        sides = np.concatenate(
            [_of_pairs(ours, left[part]), _of_pairs(theirs, right[part]) | _SIDE]
        )
        both, either = _different(sides, count), _different(sides & ~_SIDE, count)
        found[part] = (both - either) / np.maximum(either, 1)
    return found


def _different(marked: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """How many different values each of `count` pairs has."""
    marked.sort()
    fresh = marked[np.flatnonzero(np.diff(marked, prepend=~marked[:1]))]
    return np.bincount((fresh >> np.uint64(52)).astype(np.int64), minlength=count)


def _of_pairs(texts: Shingles, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The shingles of each row, marked with the number of its pair in the leading 12 bits and
    shortened to the last 51.
    """
    counts = texts.starts[rows + 1] - texts.starts[rows]
    number = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(int(counts.sum())) + np.repeat(
        texts.starts[rows] - np.cumsum(counts) + counts, counts
    )
    return number.astype(np.uint64) << np.uint64(52) | texts.hashes[place] >> _HASH_BITS
