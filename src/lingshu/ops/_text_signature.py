"""What identifies a text: its normalised form, hashed n-grams of its words, and MinHash signatures
of its shingles.

A word is a run of letters and digits, and each Chinese or Japanese character is one of its own.
Hashes are the same in every process and on every machine, so that they may be stored and compared.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
PERMUTATIONS = 256
# 32 bands of 8 rows: of the pairs of Jaccard similarity 0.7 85% share a band, of those at 0.8
# 99.7%. Half as many would miss 39% and 5%; the candidates are verified anyway, so more bands cost
# time alone.
ROWS_OF_BAND = 8
SEED = 42
TEXTS_AT_ONCE = 64
# Bytes of text that are hashed at a time: what a processor's cache holds.
BLOCK_BYTES = 1 << 17
_ASCII = bytes(ord(chr(c).lower()) if chr(c).isalnum() and c < 128 else 32 for c in range(256))
_ONE_BY_ONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_ONE_BY_ONE}]|[^\W_{_ONE_BY_ONE}]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_MULTIPLIER = 0x9E3779B97F4A7C15
_POWERS = tuple(np.uint64(pow(_MULTIPLIER, i, 1 << 64)) for i in range(16))


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: the one normalisation behind every
    comparison of texts.
    """
    if text.isascii():
        return text.encode().translate(_ASCII).decode().split()
    return _WORD.findall(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold())


def normalised(text: str) -> str:
    """The words of a text with single blanks between; texts that differ in case, spacing or
    punctuation alone are equal.
    """
    return " ".join(words(text))


class Tokens(NamedTuple):
    """The word hashes of several texts in one row, and where each text starts (one entry more than
    texts).
    """

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]


class Grams(NamedTuple):
    """Hashes of windows of n words, and the text that each is from; in order, repeats included."""

    hashes: NDArray[np.uint64]
    owners: NDArray[np.int64]


def tokens(texts: Sequence[str]) -> Tokens:
    """Hash the words of several texts.

    No word becomes an object of its own: a word's hash is the difference of two prefix sums over
    the bytes of all texts, sum(byte * m^place), moved to place 0 by the inverse power of m. That is
    some ten times as fast as a look-up for each word.
    """
    blocks = [_plain(text) for text in texts]
    hashes, counts = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    start = 0
    while start < len(blocks):
        size, end = len(blocks[start]) + 1, start + 1
        while end < len(blocks) and size + len(blocks[end]) < BLOCK_BYTES:
            size += len(blocks[end]) + 1
            end += 1
        found, several = _hash_words(blocks[start:end])
        hashes.append(found)
        counts.append(several)
        start = end
    return Tokens(np.concatenate(hashes), np.cumsum(np.concatenate(counts)))


def _plain(text: str) -> bytes:
    """The words of a text with blanks between, as bytes; ASCII texts may keep several blanks in a
    row.
    """
    return (
        text.encode().translate(_ASCII)
        if text.isascii()
        else " ".join(words(text)).encode("utf-8", "surrogatepass")
    )


def _hash_words(blocks: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashes of all words of some texts, and the number of words of each."""
    joined = np.frombuffer(b" ".join((*blocks, b"")), np.uint8)
    ends_of_texts = np.cumsum(np.fromiter(map(len, blocks), np.int64, len(blocks)) + 1)
    solid = joined != 32
    edges = np.flatnonzero(solid[1:] != solid[:-1]) + 1
    if len(solid) and solid[0]:
        edges = np.concatenate([[0], edges])
    first, last = edges[::2], edges[1::2]  # the last byte is a blank, so every word ends
    powers, inverses = _powers(1 << max(12, len(joined).bit_length()))
    sums = np.zeros(len(joined) + 1, np.uint64)
    np.cumsum(joined * powers[: len(joined)], out=sums[1:])
    hashes = _mixed((sums[last] - sums[first]) * inverses[first])
    return hashes, np.diff(np.searchsorted(first, ends_of_texts), prepend=0)


@functools.lru_cache(maxsize=4)
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers 0 to count - 1 of the multiplier and of its inverse modulo 2^64; every odd number
    has one.
    """
    tables = []
    for base in (_MULTIPLIER, pow(_MULTIPLIER, -1, 1 << 64)):
        table = np.full(count, base, np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def text_hashes(found: Tokens) -> NDArray[np.uint64]:
    """One hash for each whole text, equal where the normalised texts are; 0 for a text without
    words.
    """
    counts = np.diff(found.starts)
    place = np.arange(len(found.hashes)) - np.repeat(found.starts[:-1], counts)
    powers, _ = _powers(1 << max(12, int(counts.max(initial=0)).bit_length()))
    sums = np.zeros(len(found.hashes) + 1, np.uint64)
    np.cumsum(found.hashes * powers[place], out=sums[1:])
    totals = sums[found.starts[1:]] - sums[found.starts[:-1]]
    return np.where(counts > 0, _mixed(totals + counts.astype(np.uint64)), np.uint64(0))


def grams(found: Tokens, n: int) -> Grams:
    """The windows of `n` words (at most 16) of each text; a text of fewer words has none.

    The hash is the sum of the word hashes times powers of an odd number modulo 2^64, put together
    from windows of 1, 2, 4 and 8 words.
    """
    whole = found.hashes
    if len(whole) < n:
        return Grams(np.empty(0, np.uint64), np.empty(0, np.int64))
    counts = np.diff(found.starts)
    owners = np.repeat(np.arange(len(counts)), np.maximum(counts - (n - 1), 0))
    # Windows that reach into the next text are computed with the rest and left out.
    inside = np.ones(len(whole) - n + 1, np.bool_)
    for offset in range(1, n):
        ends = found.starts[1:] - offset
        inside[ends[(ends >= found.starts[:-1]) & (ends < len(inside))]] = False
    result: NDArray[np.uint64] | None = None
    window, width, done = whole, 1, 0
    while width <= n:
        if n & width:
            part = window[done : done + len(whole) - n + 1]
            part = part * _POWERS[done] if done else part
            result = part.copy() if result is None else result + part
            done += width
        if 2 * width <= n:
            window = window[: len(window) - width] + window[width:] * _POWERS[width]
        width *= 2
    assert result is not None
    return Grams(result[inside], owners)


def minhashes(shingles: Grams, *, texts: int) -> NDArray[np.uint32]:
    """MinHash signatures, texts x 256; a text without shingles has the signature of the empty set."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    offsets = np.zeros(texts + 1, np.int64)
    np.cumsum(np.bincount(shingles.owners, minlength=texts), out=offsets[1:])
    found = np.empty((texts, PERMUTATIONS), np.uint32)
    # rensa hands values over as Python numbers; few at a time stay in the cache and are soon free
    # again.
    for start in range(0, texts, TEXTS_AT_ONCE):
        several = offsets[start : start + TEXTS_AT_ONCE + 1]
        hashes = shingles.hashes[several[0] : several[-1]]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, (several - several[0]).astype(np.uint64), PERMUTATIONS, SEED
        )
        values = np.fromiter(
            chain.from_iterable(matrix.to_rows()), np.uint32, (len(several) - 1) * PERMUTATIONS
        )
        found[start : start + TEXTS_AT_ONCE] = values.reshape(-1, PERMUTATIONS)
    return found


def band_keys(signatures: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One hash for each band of 8 rows of a signature, texts x 32."""
    bands = signatures.reshape(len(signatures), PERMUTATIONS // ROWS_OF_BAND, ROWS_OF_BAND)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(ROWS_OF_BAND):
        keys += bands[:, :, row]
        keys *= np.uint64(_MULTIPLIER)
        keys ^= keys >> np.uint64(32)
    return keys * np.uint64(_MULTIPLIER)
