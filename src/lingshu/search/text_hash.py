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
BAND_ROWS = 8
SEED = 42
TEXT_BATCH = 64
# Bytes of text that are hashed at a time: what a processor's cache holds.
BLOCK_BYTES = 1 << 17
_ASCII = bytes(ord(chr(c).lower()) if chr(c).isalnum() and c < 128 else 32 for c in range(256))
_SINGLE_CHARACTER_WORDS = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_SINGLE_CHARACTER_WORDS}]|[^\W_{_SINGLE_CHARACTER_WORDS}]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_MULTIPLIER = 0x9E3779B97F4A7C15
_POWERS = tuple(np.uint64(pow(_MULTIPLIER, i, 1 << 64)) for i in range(16))


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: the one normalisation behind every
    comparison of texts.
    """
    if text.isascii():
        return text.encode().translate(_ASCII).decode().split()
    return _WORD.findall(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold())


def normalize_text(text: str) -> str:
    """The words of a text with single blanks between; texts that differ in case, spacing or
    punctuation alone are equal.
    """
    return " ".join(split_words(text))


class TokenHashes(NamedTuple):
    """The word hashes of several texts in one row, and where each text starts (one entry more than
    texts).
    """

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]


class Ngrams(NamedTuple):
    """Hashes of windows of n words, and the text that each is from; in order, repeats included."""

    hashes: NDArray[np.uint64]
    text_ids: NDArray[np.int64]


def hash_tokens(texts: Sequence[str]) -> TokenHashes:
    """Hash the words of several texts.

    No word becomes an object of its own: a word's hash is the difference of two prefix sums over
    the bytes of all texts, sum(byte * m^place), moved to place 0 by the inverse power of m. That is
    some ten times as fast as a look-up for each word.
    """
    blocks = [_word_bytes(text) for text in texts]
    hashes, counts = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    start = 0
    while start < len(blocks):
        size, end = len(blocks[start]) + 1, start + 1
        while end < len(blocks) and size + len(blocks[end]) < BLOCK_BYTES:
            size += len(blocks[end]) + 1
            end += 1
        block_hashes, block_counts = _hash_words(blocks[start:end])
        hashes.append(block_hashes)
        counts.append(block_counts)
        start = end
    return TokenHashes(np.concatenate(hashes), np.cumsum(np.concatenate(counts)))


def _word_bytes(text: str) -> bytes:
    """The words of a text with blanks between, as bytes; ASCII texts may keep several blanks in a
    row.
    """
    return (
        text.encode().translate(_ASCII)
        if text.isascii()
        else " ".join(split_words(text)).encode("utf-8", "surrogatepass")
    )


def _hash_words(blocks: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashes of all words of some texts, and the number of words of each."""
    buffer = np.frombuffer(b" ".join((*blocks, b"")), np.uint8)
    ends_of_texts = np.cumsum(np.fromiter(map(len, blocks), np.int64, len(blocks)) + 1)
    is_word = buffer != 32
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    if len(is_word) and is_word[0]:
        edges = np.concatenate([[0], edges])
    first, last = edges[::2], edges[1::2]  # the last byte is a blank, so every word ends
    powers, inverses = _powers(1 << max(12, len(buffer).bit_length()))
    sums = np.zeros(len(buffer) + 1, np.uint64)
    np.cumsum(buffer * powers[: len(buffer)], out=sums[1:])
    hashes = _mix((sums[last] - sums[first]) * inverses[first])
    return hashes, np.diff(np.searchsorted(first, ends_of_texts), prepend=0)


@functools.lru_cache(maxsize=4)
def _powers(n: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers 0 to count - 1 of the multiplier and of its inverse modulo 2^64; every odd number
    has one.
    """
    tables = []
    for base in (_MULTIPLIER, pow(_MULTIPLIER, -1, 1 << 64)):
        table = np.full(n, base, np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def text_hashes(tokens: TokenHashes) -> NDArray[np.uint64]:
    """One hash for each whole text, equal where the normalised texts are; 0 for a text without
    words.
    """
    counts = np.diff(tokens.offsets)
    position = np.arange(len(tokens.hashes)) - np.repeat(tokens.offsets[:-1], counts)
    powers, _ = _powers(1 << max(12, int(counts.max(initial=0)).bit_length()))
    sums = np.zeros(len(tokens.hashes) + 1, np.uint64)
    np.cumsum(tokens.hashes * powers[position], out=sums[1:])
    totals = sums[tokens.offsets[1:]] - sums[tokens.offsets[:-1]]
    return np.where(counts > 0, _mix(totals + counts.astype(np.uint64)), np.uint64(0))


def hash_ngrams(tokens: TokenHashes, n: int) -> Ngrams:
    """The windows of `n` words (at most 16) of each text; a text of fewer words has none.

    The hash is the sum of the word hashes times powers of an odd number modulo 2^64, put together
    from windows of 1, 2, 4 and 8 words.
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
    result: NDArray[np.uint64] | None = None
    window, width, covered = token_hashes, 1, 0
    while width <= n:
        if n & width:
            term = window[covered : covered + len(token_hashes) - n + 1]
            term = term * _POWERS[covered] if covered else term
            result = term.copy() if result is None else result + term
            covered += width
        if 2 * width <= n:
            window = window[: len(window) - width] + window[width:] * _POWERS[width]
        width *= 2
    assert result is not None
    return Ngrams(result[inside], text_ids)


def compute_minhashes(ngrams: Ngrams, *, n_texts: int) -> NDArray[np.uint32]:
    """MinHash signatures, texts x 256; a text without shingles has the signature of the empty set."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    offsets = np.zeros(n_texts + 1, np.int64)
    np.cumsum(np.bincount(ngrams.text_ids, minlength=n_texts), out=offsets[1:])
    signatures = np.empty((n_texts, PERMUTATIONS), np.uint32)
    # rensa hands values over as Python numbers; few at a time stay in the cache and are soon free
    # again.
    for start in range(0, n_texts, TEXT_BATCH):
        batch_offsets = offsets[start : start + TEXT_BATCH + 1]
        hashes = ngrams.hashes[batch_offsets[0] : batch_offsets[-1]]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, (batch_offsets - batch_offsets[0]).astype(np.uint64), PERMUTATIONS, SEED
        )
        values = np.fromiter(
            chain.from_iterable(matrix.to_rows()),
            np.uint32,
            (len(batch_offsets) - 1) * PERMUTATIONS,
        )
        signatures[start : start + TEXT_BATCH] = values.reshape(-1, PERMUTATIONS)
    return signatures


def band_keys(signatures: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One hash for each band of 8 rows of a signature, texts x 32."""
    bands = signatures.reshape(len(signatures), PERMUTATIONS // BAND_ROWS, BAND_ROWS)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(BAND_ROWS):
        keys += bands[:, :, row]
        keys *= np.uint64(_MULTIPLIER)
        keys ^= keys >> np.uint64(32)
    return keys * np.uint64(_MULTIPLIER)
