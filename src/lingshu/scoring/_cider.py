"""CIDEr and CIDEr-D of tokenised reports, one reference each (Vedantam et al. 2015, sections 3 and
5).

g_n(text) holds, for each n-gram, its count times log N - log(number of references that have it), N
references in all. Both depend on the corpus: one report alone scores 0, and a part of a test set
has other values than the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDERS = 4
SIGMA = 6.0  # of CIDEr-D's penalty on a difference in length, in bigrams, as in the COCO code
SCALE = 10.0  # the COCO code's factor; equal texts score 10


class Cider(NamedTuple):
    """Both values of each report, 0 to 10."""

    cider: list[float]
    cider_d: list[float]


def cider(
    said: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    *,
    references: Sequence[Sequence[str]] | None = None,
) -> Cider:
    """CIDEr and CIDEr-D of each report against its reference.

    `references` are all references of the corpus, from which document frequencies are taken; `gold`
    where not given. CIDEr-D equals `Cider` of pycocoevalcap 1.2.

    Raises:
        ValueError: not one reference for each report.
    """
    import numpy as np

    if len(said) != len(gold):
        raise ValueError(f"{len(said)} reports have {len(gold)} references")
    if not said:
        return Cider([], [])
    known: dict[str, int] = {}
    mine, theirs = _numbered(said, known), _numbered(gold, known)
    corpus = theirs if references is None else _numbered(references, known)
    log_n = math.log(len(gold if references is None else references))
    plain, clipped = np.zeros(len(said)), np.zeros(len(said))
    grams = [text.words for text in (mine, theirs, corpus)]
    for n in range(ORDERS):
        if n:
            grams = _longer(grams, (mine, theirs, corpus), n, len(known))
        width = 1 + max((int(one.max(initial=-1)) for one in grams), default=0)
        documents = np.bincount(_counts(grams[2], corpus, n, width)[0] % width, minlength=width)
        weight = log_n - np.log(np.maximum(documents, 1))
        (keys_h, h), (keys_r, r) = (
            _weighted(_counts(one, text, n, width), weight)
            for one, text in zip(grams[:2], (mine, theirs), strict=True)
        )
        norm = np.sqrt(
            np.bincount(keys_h // width, h * h, len(said))
            * np.bincount(keys_r // width, r * r, len(said))
        )
        _, at_h, at_r = np.intersect1d(keys_h, keys_r, assume_unique=True, return_indices=True)
        whose, h, r = keys_h[at_h] // width, h[at_h], r[at_r]
        norm[norm == 0] = np.inf
        plain += np.bincount(whose, h * r, len(said)) / norm
        clipped += np.bincount(whose, np.minimum(h, r) * r, len(said)) / norm
    apart = np.maximum(mine.lengths - 1, 0) - np.maximum(theirs.lengths - 1, 0)
    penalty = np.exp(-(apart.astype(float) ** 2) / (2 * SIGMA**2))
    return Cider(
        (plain * (SCALE / ORDERS)).tolist(), (clipped * penalty * (SCALE / ORDERS)).tolist()
    )


class _Texts(NamedTuple):
    """All words of some texts in one row: their numbers, whose they are, how many follow in the
    same text, and lengths.
    """

    words: NDArray[np.int64]
    owner: NDArray[np.int64]
    left: NDArray[np.int64]
    lengths: NDArray[np.int64]


def _numbered(texts: Sequence[Sequence[str]], known: dict[str, int]) -> _Texts:
    import numpy as np

    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    words = np.fromiter(
        (known.setdefault(word, len(known)) for text in texts for word in text),
        np.int64,
        int(lengths.sum()),
    )
    owner = np.repeat(np.arange(len(texts)), lengths)
    return _Texts(
        words, owner, np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words)), lengths
    )


def _longer(
    grams: list[NDArray[np.int64]], texts: tuple[_Texts, ...], n: int, words: int
) -> list[NDArray[np.int64]]:
    """Numbers of the n+1-grams that start at each word, from those of the n-grams; grams that leave
    their text are left in.
    """
    import numpy as np

    joined = []
    for gram, text in zip(grams, texts, strict=True):
        after = np.zeros_like(gram)
        after[: max(0, len(gram) - n)] = text.words[n:]
        joined.append(gram * words + after)
    # Renumbered each time, or numbers would outgrow 64 bits.
    _, numbers = np.unique(np.concatenate(joined), return_inverse=True)
    return np.split(numbers, np.cumsum([len(one) for one in joined])[:-1])


def _counts(
    grams: NDArray[np.int64], text: _Texts, n: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Owner times `width` plus gram, sorted, and how often each occurs."""
    import numpy as np

    inside = text.left > n
    return np.unique(text.owner[inside] * width + grams[inside], return_counts=True)


def _weighted(
    counts: tuple[NDArray[np.int64], NDArray[np.int64]], weight: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    keys, times = counts
    return keys, times * weight[keys % len(weight)]
