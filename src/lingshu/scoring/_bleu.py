"""BLEU of token lists: the COCO code's, over a sentence or a corpus, and sacrebleu's with its own
tokens and smoothing.

Papineni et al. 2002, one reference a text. The unsmoothed BLEU of nltk is
`_published_reports.bleu`; `token_f1.bleu` is ours for short answers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

ORDERS = 4
# What the COCO code adds to the shared and to the possible n-grams, so that nothing is divided by
# 0.
_SHARED, _POSSIBLE = 1e-15, 1e-9
# One after the other: what the first has read is not looked at again, so ",,5" keeps its last
# comma.
_13A_RULES = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_13A_SAME = (
    ("<skipped>", ""),
    ("-\n", ""),
    ("\n", " "),
    ("&quot;", '"'),
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
)


class Grams(NamedTuple):
    """N-grams that a text shares with its reference and those it has, by order, and the tokens of
    both.
    """

    shared: tuple[int, ...]
    possible: tuple[int, ...]
    said: int
    gold: int


def grams(said: Sequence[str], gold: Sequence[str]) -> Grams:
    """The counts of one pair of token lists."""
    shared = []
    mine, theirs = list(said), list(gold)
    for n in range(ORDERS):
        if n:
            # Pairs of the grams one shorter and a word are as good as tuples of n words, and made
            # faster.
            mine, theirs = (
                list(zip(mine, said[n:], strict=False)),
                list(zip(theirs, gold[n:], strict=False)),
            )
        counts = Counter(theirs)
        found = 0
        for gram, count in Counter(mine).items():
            other = counts.get(gram)
            if other:
                found += count if count < other else other
        shared.append(found)
    return Grams(
        tuple(shared), tuple(max(0, len(said) - n) for n in range(ORDERS)), len(said), len(gold)
    )


def total(counts: Sequence[Grams]) -> Grams:
    """The counts of a corpus."""
    by_order = [
        tuple(map(sum, zip(*(getattr(one, part) for one in counts), strict=True)))
        for part in ("shared", "possible")
    ]
    return Grams(
        by_order[0], by_order[1], sum(one.said for one in counts), sum(one.gold for one in counts)
    )


def coco(counts: Grams) -> list[float]:
    """BLEU-1 to BLEU-4 as pycocoevalcap 1.2 computes them, of a pair or of a corpus."""
    found, product = [], 1.0
    ratio = (counts.said + _SHARED) / (counts.gold + _POSSIBLE)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    for n, (shared, possible) in enumerate(zip(counts.shared, counts.possible, strict=True), 1):
        product *= (shared + _SHARED) / (possible + _POSSIBLE)
        found.append(product ** (1 / n) * brevity)
    return found


def sacre(counts: Grams, *, effective: bool = True) -> float:
    """BLEU-4 as sacrebleu 2.6 computes it, 0 to 100: each missing order counts half of the one
    before it.

    `effective` leaves out orders longer than the text, as sacrebleu does for a sentence and not for
    a corpus.
    """
    if not counts.said or not any(counts.shared):
        return 0.0
    logs, halves = [], 1.0
    for shared, possible in zip(counts.shared, counts.possible, strict=True):
        if not possible:
            break
        if not shared:
            halves *= 2
        logs.append(math.log(100 * shared / possible if shared else 100 / (halves * possible)))
    if len(logs) < ORDERS and not effective:
        return 0.0
    brevity = min(0.0, 1 - counts.gold / counts.said)
    return math.exp(brevity + math.fsum(logs) / len(logs))


def tokens_13a(text: str) -> list[str]:
    """The tokens of sacrebleu's default, the mteval-v13a rules: signs stand alone, stops and commas
    unless between digits.
    """
    for sign, meaning in _13A_SAME:
        text = text.replace(sign, meaning)
    text = f" {text} "
    for rule, written in _13A_RULES:
        text = rule.sub(written, text)
    return text.split()
