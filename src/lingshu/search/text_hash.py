"""What identifies a text: its normalized form, the hashes of its words, and one of the whole.

A word is a run of letters and digits, or a single Chinese or Japanese character. Hashes are the
same in every process and on every machine, so that they may be stored and compared.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Bytes of text that are hashed at a time, to fit the processor's cache.
BLOCK_BYTES = 1 << 17
_ASCII = bytes(ord(chr(c).lower()) if chr(c).isalnum() and c < 128 else 32 for c in range(256))
_SINGLE_CHARACTER_WORDS = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_SINGLE_CHARACTER_WORDS}]|[^\W_{_SINGLE_CHARACTER_WORDS}]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
MULTIPLIER = 0x9E3779B97F4A7C15


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: what every comparison is based on."""
    if text.isascii():
        return text.encode().translate(_ASCII).decode().split()
    return _WORD.findall(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold())


def normalize_text(text: str) -> str:
    """The words of a text joined by blanks: case, spacing and punctuation make no difference."""
    return " ".join(split_words(text))


class TokenHashes(NamedTuple):
    """The word hashes of several texts, concatenated; offsets has one entry more than texts."""

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]


def hash_tokens(texts: Sequence[str]) -> TokenHashes:
    """Hash the words of several texts.

    A word's hash is the difference of two prefix sums over the bytes of all texts, sum(byte *
    m^position), shifted to position 0 by the inverse power of m. Without an object for each word
    this is about ten times as fast as a look-up.
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
    """The words of a text joined by blanks, as bytes; in ASCII texts by one or more."""
    if text.isascii():
        return text.encode().translate(_ASCII)
    return normalize_text(text).encode("utf-8", "surrogatepass")


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
    """The powers 0 to n - 1 of the multiplier and of its inverse modulo 2^64."""
    tables = []
    for base in (MULTIPLIER, pow(MULTIPLIER, -1, 1 << 64)):
        table = np.full(n, base, np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def text_hashes(tokens: TokenHashes) -> NDArray[np.uint64]:
    """One hash for each whole text, equal where the normalized texts are; 0 for an empty text."""
    counts = np.diff(tokens.offsets)
    position = np.arange(len(tokens.hashes)) - np.repeat(tokens.offsets[:-1], counts)
    powers, _ = _powers(1 << max(12, int(counts.max(initial=0)).bit_length()))
    sums = np.zeros(len(tokens.hashes) + 1, np.uint64)
    np.cumsum(tokens.hashes * powers[position], out=sums[1:])
    totals = sums[tokens.offsets[1:]] - sums[tokens.offsets[:-1]]
    return np.where(counts > 0, _mix(totals + counts.astype(np.uint64)), np.uint64(0))
