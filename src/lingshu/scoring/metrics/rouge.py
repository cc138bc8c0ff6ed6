"""ROUGE of two texts by the two definitions in common use, and ROUGE-L of the COCO code.

`google`   rouge_score 0.1.2: words of [a-z0-9], n-grams counted as often as they occur, L over the whole text
`sets`     rouge 1.0.1: n-grams are sets, sentences end at full stops, L unites the words of all pairs of sentences
`coco_l`   pycocoevalcap 1.2: L with recall weighing 1.2 squared, on tokens split at single blanks
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from lingshu.scoring.metrics._porter import stem
from lingshu.scoring.protocols import reports

_NOT_WORD = re.compile(r"[^a-z0-9]+")
_BETA_SQUARED = 1.2 * 1.2
_MIN_STEM_LENGTH = 4


def tokenize(text: str, *, use_stemmer: bool = False) -> list[str]:
    """The tokens of rouge_score; `stemmed` takes the endings off words of more than three letters,
    as its stemmer does.
    """
    tokens = _NOT_WORD.sub(" ", text.lower()).split()
    return (
        [stem(word) if len(word) >= _MIN_STEM_LENGTH else word for word in tokens]
        if use_stemmer
        else tokens
    )


def google_rouge(prediction: str, gold: str, *, use_stemmer: bool = False) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F only, as rouge_score 0.1.2; 0 where either text has no word."""
    prediction_tokens, gold_tokens = (
        tokenize(prediction, use_stemmer=use_stemmer),
        tokenize(gold, use_stemmer=use_stemmer),
    )
    return {
        "rouge1": _overlap(prediction_tokens, gold_tokens),
        "rouge2": _overlap(list(pairwise(prediction_tokens)), list(pairwise(gold_tokens))),
        "rougeL": _f_score(
            _lcs_length(prediction_tokens, gold_tokens), len(prediction_tokens), len(gold_tokens)
        ),
    }


def google_rouge_l(prediction: str, gold: str, *, use_stemmer: bool = False) -> float:
    """ROUGE-L alone, F, as rouge_score 0.1.2."""
    prediction_tokens, gold_tokens = (
        tokenize(prediction, use_stemmer=use_stemmer),
        tokenize(gold, use_stemmer=use_stemmer),
    )
    return _f_score(
        _lcs_length(prediction_tokens, gold_tokens), len(prediction_tokens), len(gold_tokens)
    )


def set_rouge(prediction: str, gold: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F only, as rouge 1.0.1 on lower-cased text; 0 where either has no
    sentence, for which it raises.
    """
    try:
        return reports.rouge(prediction.lower(), gold.lower())
    except ValueError:
        return {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}


def coco_rouge_l(prediction: str, gold: str) -> float:
    """ROUGE-L as pycocoevalcap 1.2, on tokens split at single blanks."""
    prediction_tokens, gold_tokens = prediction.split(" "), gold.split(" ")
    n_shared = _lcs_length(prediction_tokens, gold_tokens)
    precision, recall = n_shared / len(prediction_tokens), n_shared / len(gold_tokens)
    return (
        (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)
        if n_shared
        else 0.0
    )


def _overlap(prediction_ngrams: Sequence[object], gold_ngrams: Sequence[object]) -> float:
    remaining, n_shared = Counter(gold_ngrams), 0
    for ngram in prediction_ngrams:
        if remaining.get(ngram):
            remaining[ngram] -= 1
            n_shared += 1
    return _f_score(n_shared, len(prediction_ngrams), len(gold_ngrams))


def _f_score(n_shared: int, n_predicted: int, n_gold: int) -> float:
    if not n_shared:
        return 0.0
    precision, recall = n_shared / n_predicted, n_shared / n_gold
    return 2 * precision * recall / (precision + recall)


def _lcs_length(prediction_tokens: Sequence[str], gold_tokens: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(prediction_tokens, gold_tokens)
