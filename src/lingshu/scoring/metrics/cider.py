"""CIDEr and CIDEr-D of tokenized reports, one reference each (Vedantam et al. 2015, sections 3 and
5).

g_n(text) holds, for each n-gram, its count times log N - log(number of references that have it), N
references in all. Both depend on the corpus: one report alone scores 0, and a part of a test set
has other values than the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lingshu.core.types import MetricResult
from lingshu.scoring.metrics._base import Reports, tokenize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ORDER = 4
SIGMA = 6.0  # of CIDEr-D's penalty on a difference in length, in bigrams, as in the COCO code
SCALE = 10.0  # the COCO code's factor; equal texts score 10


class CiderScores(NamedTuple):
    """Both values of each report, 0 to 10."""

    cider: list[float]
    cider_d: list[float]


def cider(
    predictions: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    *,
    references: Sequence[Sequence[str]] | None = None,
) -> CiderScores:
    """CIDEr and CIDEr-D of each report against its reference.

    `references` are all references of the corpus, from which document frequencies are taken; `gold`
    where not given. CIDEr-D equals `Cider` of pycocoevalcap 1.2.

    Raises:
        ValueError: not one reference for each report.
    """
    import numpy as np

    if len(predictions) != len(gold):
        raise ValueError(f"{len(predictions)} reports have {len(gold)} references")
    if not predictions:
        return CiderScores([], [])
    vocabulary: dict[str, int] = {}
    prediction_texts = _encode_texts(predictions, vocabulary)
    gold_texts = _encode_texts(gold, vocabulary)
    corpus = gold_texts if references is None else _encode_texts(references, vocabulary)
    log_n = math.log(len(gold if references is None else references))
    scores, clipped_scores = np.zeros(len(predictions)), np.zeros(len(predictions))
    ngrams = [text.words for text in (prediction_texts, gold_texts, corpus)]
    for n in range(MAX_ORDER):
        if n:
            ngrams = _extend_ngrams(
                ngrams, (prediction_texts, gold_texts, corpus), n, len(vocabulary)
            )
        width = 1 + max((int(ids.max(initial=-1)) for ids in ngrams), default=0)
        document_counts = np.bincount(
            _count_ngrams(ngrams[2], corpus, n, width)[0] % width, minlength=width
        )
        idf = log_n - np.log(np.maximum(document_counts, 1))
        (keys_h, counts_h), (keys_r, counts_r) = (
            _count_ngrams(ids, text, n, width)
            for ids, text in zip(ngrams[:2], (prediction_texts, gold_texts), strict=True)
        )
        h, r = counts_h * idf[keys_h % width], counts_r * idf[keys_r % width]
        norm = np.sqrt(
            np.bincount(keys_h // width, h * h, len(predictions))
            * np.bincount(keys_r // width, r * r, len(predictions))
        )
        _, at_h, at_r = np.intersect1d(keys_h, keys_r, assume_unique=True, return_indices=True)
        text_ids, h, r = keys_h[at_h] // width, h[at_h], r[at_r]
        norm[norm == 0] = np.inf
        scores += np.bincount(text_ids, h * r, len(predictions)) / norm
        clipped_scores += np.bincount(text_ids, np.minimum(h, r) * r, len(predictions)) / norm
    length_difference = np.maximum(prediction_texts.lengths - 1, 0) - np.maximum(
        gold_texts.lengths - 1, 0
    )
    penalty = np.exp(-(length_difference.astype(float) ** 2) / (2 * SIGMA**2))
    return CiderScores(
        (scores * (SCALE / MAX_ORDER)).tolist(),
        (clipped_scores * penalty * (SCALE / MAX_ORDER)).tolist(),
    )


class _EncodedTexts(NamedTuple):
    """All words of some texts in a row: number, text, how many follow in it, and text lengths."""

    words: NDArray[np.int64]
    text_ids: NDArray[np.int64]
    n_remaining: NDArray[np.int64]
    lengths: NDArray[np.int64]


def _encode_texts(texts: Sequence[Sequence[str]], vocabulary: dict[str, int]) -> _EncodedTexts:
    import numpy as np

    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    words = np.fromiter(
        (vocabulary.setdefault(word, len(vocabulary)) for text in texts for word in text),
        np.int64,
        int(lengths.sum()),
    )
    text_ids = np.repeat(np.arange(len(texts)), lengths)
    return _EncodedTexts(
        words, text_ids, np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words)), lengths
    )


def _extend_ngrams(
    ngrams: list[NDArray[np.int64]], texts: tuple[_EncodedTexts, ...], n: int, vocab_size: int
) -> list[NDArray[np.int64]]:
    """Numbers of the n+1-grams at each word from those of n-grams, also across ends of texts."""
    import numpy as np

    extended = []
    for ngram, text in zip(ngrams, texts, strict=True):
        next_words = np.zeros_like(ngram)
        next_words[: max(0, len(ngram) - n)] = text.words[n:]
        extended.append(ngram * vocab_size + next_words)
    # Renumbered each time, or numbers would outgrow 64 bits.
    _, ids = np.unique(np.concatenate(extended), return_inverse=True)
    return np.split(ids, np.cumsum([len(part) for part in extended])[:-1])


def _count_ngrams(
    ngrams: NDArray[np.int64], text: _EncodedTexts, n: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Owner times `width` plus gram, sorted, and how often each occurs."""
    import numpy as np

    is_complete = text.n_remaining > n
    return np.unique(text.text_ids[is_complete] * width + ngrams[is_complete], return_counts=True)


def cider_metric(reports: Reports) -> list[MetricResult]:
    """CIDEr and CIDEr-D, 0 to 10; document frequencies are those of all references."""
    tokens_by_gold = {gold: tokenize(gold) for gold in reports.gold}
    scores = cider(
        [tokenize(prediction) for prediction, _ in reports.completed],
        [tokens_by_gold[gold] for _, gold in reports.completed],
        references=[tokens_by_gold[gold] for gold in reports.gold],
    )
    note = "one reference alone always gives 0" if len(reports.gold) == 1 else None
    return [
        reports.result("cider", scores.cider, note=note),
        reports.result("cider_d", scores.cider_d, note=note),
    ]


METRIC = cider_metric
