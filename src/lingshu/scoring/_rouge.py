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

from lingshu.scoring import _published_reports
from lingshu.scoring._porter import stem

_NOT_WORD = re.compile(r"[^a-z0-9]+")
_BETA_2 = 1.2 * 1.2
_SHORTEST_STEMMED = 4


def words(text: str, *, stemmed: bool = False) -> list[str]:
    """The tokens of rouge_score; `stemmed` takes the endings off words of more than three letters,
    as its stemmer does.
    """
    found = _NOT_WORD.sub(" ", text.lower()).split()
    return (
        [stem(word) if len(word) >= _SHORTEST_STEMMED else word for word in found]
        if stemmed
        else found
    )


def google(said: str, gold: str, *, stemmed: bool = False) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F only, as rouge_score 0.1.2; 0 where either text has no word."""
    mine, theirs = words(said, stemmed=stemmed), words(gold, stemmed=stemmed)
    return {
        "rouge1": _overlap(mine, theirs),
        "rouge2": _overlap(list(pairwise(mine)), list(pairwise(theirs))),
        "rougeL": _f(_common(mine, theirs), len(mine), len(theirs)),
    }


def google_l(said: str, gold: str, *, stemmed: bool = False) -> float:
    """ROUGE-L alone, F, as rouge_score 0.1.2."""
    mine, theirs = words(said, stemmed=stemmed), words(gold, stemmed=stemmed)
    return _f(_common(mine, theirs), len(mine), len(theirs))


def sets(said: str, gold: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F only, as rouge 1.0.1 on lower-cased text; 0 where either has no
    sentence, for which it raises.
    """
    try:
        return _published_reports.rouge(said.lower(), gold.lower())
    except ValueError:
        return {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}


def coco_l(said: str, gold: str) -> float:
    """ROUGE-L as pycocoevalcap 1.2, on tokens split at single blanks."""
    mine, theirs = said.split(" "), gold.split(" ")
    shared = _common(mine, theirs)
    precision, recall = shared / len(mine), shared / len(theirs)
    return (1 + _BETA_2) * precision * recall / (recall + _BETA_2 * precision) if shared else 0.0


def _overlap(mine: Sequence[object], theirs: Sequence[object]) -> float:
    left, shared = Counter(theirs), 0
    for gram in mine:
        if left.get(gram):
            left[gram] -= 1
            shared += 1
    return _f(shared, len(mine), len(theirs))


def _f(shared: int, mine: int, theirs: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / mine, shared / theirs
    return 2 * precision * recall / (precision + recall)


def _common(mine: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(mine, theirs)
