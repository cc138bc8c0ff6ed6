"""BLEU of token lists: the COCO code's, over a sentence or a corpus, and sacrebleu's with its own
tokens and smoothing (Papineni et al. 2002, one reference per text).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from lingshu.core.types import MetricResult
from lingshu.scoring.metrics._base import Reports, tokenize

MAX_ORDER = 4
# What the COCO code adds to the shared and to the possible n-grams, so that nothing is divided by
# 0.
_MATCH_EPSILON, _TOTAL_EPSILON = 1e-15, 1e-9
# One after the other: what the first has read is not looked at again, so ",,5" keeps its last
# comma.
_13A_RULES = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_13A_REPLACEMENTS = (
    ("<skipped>", ""), ("-\n", ""), ("\n", " "), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"),
    ("&gt;", ">"),
)  # fmt: skip


class NgramCounts(NamedTuple):
    """N-grams shared with the reference and those there are, by order, and both lengths."""

    matches: tuple[int, ...]
    totals: tuple[int, ...]
    prediction_length: int
    gold_length: int


def count_ngrams(prediction: Sequence[str], gold: Sequence[str]) -> NgramCounts:
    """The counts of one pair of token lists."""
    matches = []
    prediction_ngrams, gold_ngrams = list(prediction), list(gold)
    for n in range(MAX_ORDER):
        if n:
            # Pairs of the grams one shorter and a word are as good as tuples of n words, and made
            # faster.
            prediction_ngrams, gold_ngrams = (
                list(zip(prediction_ngrams, prediction[n:], strict=False)),
                list(zip(gold_ngrams, gold[n:], strict=False)),
            )
        gold_counts = Counter(gold_ngrams)
        n_matches = 0
        for ngram, count in Counter(prediction_ngrams).items():
            gold_count = gold_counts.get(ngram)
            if gold_count:
                n_matches += count if count < gold_count else gold_count
        matches.append(n_matches)
    return NgramCounts(
        tuple(matches),
        tuple(max(0, len(prediction) - n) for n in range(MAX_ORDER)),
        len(prediction),
        len(gold),
    )


def sum_counts(counts: Sequence[NgramCounts]) -> NgramCounts:
    """The counts of a corpus."""
    by_order = [
        tuple(map(sum, zip(*(getattr(count, field) for count in counts), strict=True)))
        for field in ("matches", "totals")
    ]
    return NgramCounts(
        by_order[0],
        by_order[1],
        sum(count.prediction_length for count in counts),
        sum(count.gold_length for count in counts),
    )


def coco_bleu(counts: NgramCounts) -> list[float]:
    """BLEU-1 to BLEU-4 as pycocoevalcap 1.2 computes them, of a pair or of a corpus."""
    scores, product = [], 1.0
    ratio = (counts.prediction_length + _MATCH_EPSILON) / (counts.gold_length + _TOTAL_EPSILON)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    for n, (n_matches, n_total) in enumerate(zip(counts.matches, counts.totals, strict=True), 1):
        product *= (n_matches + _MATCH_EPSILON) / (n_total + _TOTAL_EPSILON)
        scores.append(product ** (1 / n) * brevity)
    return scores


def sacre_bleu(counts: NgramCounts, *, effective: bool = True) -> float:
    """BLEU-4 as sacrebleu 2.6, 0 to 100: each missing order counts half of the one before.

    `effective` leaves out orders longer than the text, as sacrebleu does for a sentence and not for
    a corpus.
    """
    if not counts.prediction_length or not any(counts.matches):
        return 0.0
    logs, smoothing = [], 1.0
    for n_matches, n_total in zip(counts.matches, counts.totals, strict=True):
        if not n_total:
            break
        if not n_matches:
            smoothing *= 2
        logs.append(
            math.log(100 * n_matches / n_total if n_matches else 100 / (smoothing * n_total))
        )
    if len(logs) < MAX_ORDER and not effective:
        return 0.0
    brevity = min(0.0, 1 - counts.gold_length / counts.prediction_length)
    return math.exp(brevity + math.fsum(logs) / len(logs))


def tokenize_13a(text: str) -> list[str]:
    """The tokens of sacrebleu's default, the mteval-v13a rules: signs apart, not inside numbers."""
    for old, new in _13A_REPLACEMENTS:
        text = text.replace(old, new)
    text = f" {text} "
    for rule, replacement in _13A_RULES:
        text = rule.sub(replacement, text)
    return text.split()


def bleu_metric(reports: Reports) -> list[MetricResult]:
    """BLEU-1 to -4 of the corpus as the COCO code; one report's score is its sentence BLEU."""
    counts = [count_ngrams(tokenize(text), tokenize(gold)) for text, gold in reports.completed]
    scores = [coco_bleu(count) for count in counts]
    corpus, corpus_non_empty = (
        coco_bleu(sum_counts(subset)) if subset else [None] * MAX_ORDER
        for subset in (counts, [count for count in counts if count.prediction_length])
    )
    return [
        reports.result(
            f"bleu_{n + 1}",
            [score[n] for score in scores],
            corpus=(corpus[n], corpus_non_empty[n]),
        )
        for n in range(MAX_ORDER)
    ]


METRIC = bleu_metric
