"""Text metrics as the published toolkit computes them: unsmoothed BLEU, set-based ROUGE and F1,
rubric means.

A file beside `_published.py` because grading and metrics together pass 400 lines; same sources,
same warning.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence


def tokenize(text: str) -> list[str]:
    """Lower case, every full stop detached (in "1.5" too), split at single blanks: other signs stay
    glued.
    """
    return text.lower().replace(".", " .").split(" ")


def tokenize_report(text: str) -> list[str]:
    """Tokens of a report: as `tokens`, without empty ones."""
    return [token for token in tokenize(text) if token]


def bleu(prediction: Sequence[str], gold: Sequence[str], max_order: int) -> float:
    """Sentence BLEU up to `most`-grams, without smoothing: a missing n-gram counts as the smallest
    float, not as zero.
    """
    logs = []
    for n in range(1, max_order + 1):
        prediction_ngrams = Counter(
            tuple(prediction[i : i + n]) for i in range(len(prediction) - n + 1)
        )
        gold_ngrams = Counter(tuple(gold[i : i + n]) for i in range(len(gold) - n + 1))
        n_shared = sum((prediction_ngrams & gold_ngrams).values())
        if n == 1 and not n_shared:
            return 0.0
        logs.append(
            math.log(n_shared / max(1, sum(prediction_ngrams.values())) or sys.float_info.min)
            / max_order
        )
    brevity = 1.0 if len(prediction) > len(gold) else math.exp(1 - len(gold) / len(prediction))
    return brevity * math.exp(math.fsum(logs))


def set_f1(prediction: str, gold: str) -> tuple[float, float, float] | int:
    """F1, precision and recall over sets of words, in this order; the bare number 0 where either
    side is empty.
    """
    prediction_words, gold_words = set(prediction.split()), set(gold.split())
    if not prediction_words or not gold_words:
        return 0
    n_shared = len(prediction_words & gold_words)
    if not n_shared:
        return 0.0, 0.0, 0.0
    precision, recall = n_shared / len(prediction_words), n_shared / len(gold_words)
    return 2 * precision * recall / (precision + recall), precision, recall


def rouge(prediction: str, gold: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F only: sentences end at full stops, n-grams are sets, L unites the words
    of all sentence pairs.

    Raises:
        ValueError: either side has no sentence.
    """
    prediction_sentences, gold_sentences = (
        _sentences(prediction, "Hypothesis"),
        _sentences(gold, "Reference"),
    )
    words_by_side = [
        [word for sentence in side for word in sentence]
        for side in (prediction_sentences, gold_sentences)
    ]
    scores = {}
    for n in (1, 2):
        ngrams, reference = (
            {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in words_by_side
        )
        scores[f"rouge-{n}"] = _f_score(len(ngrams & reference), len(ngrams), len(reference))
    covered_words = {
        word
        for reference in gold_sentences
        for sentence in prediction_sentences
        for word in _longest_common_subsequence(reference, sentence)
    }
    scores["rouge-l"] = _f_score(
        len(covered_words), len(set(words_by_side[0])), len(set(words_by_side[1]))
    )
    return scores


def _sentences(text: str, side: str) -> list[list[str]]:
    sentences = [" ".join(part.split()).split(" ") for part in text.split(".") if part]
    if not sentences:
        raise ValueError(f"{side} is empty.")
    return sentences


def _f_score(n_shared: int, n_predicted: int, n_gold: int) -> float:
    precision, recall = (
        n_shared / n_predicted if n_predicted else 0.0,
        n_shared / n_gold if n_gold else 0.0,
    )
    return 2 * (precision * recall) / (precision + recall + 1e-8)


def _longest_common_subsequence(reference: Sequence[str], prediction: Sequence[str]) -> list[str]:
    """One longest common subsequence; among equals the one that leaves the end of `said` first."""
    lengths = [[0] * (len(prediction) + 1) for _ in range(len(reference) + 1)]
    for i, word in enumerate(reference, 1):
        for j, prediction_word in enumerate(prediction, 1):
            lengths[i][j] = (
                lengths[i - 1][j - 1] + 1
                if word == prediction_word
                else max(lengths[i - 1][j], lengths[i][j - 1])
            )
    subsequence, i, j = [], len(reference), len(prediction)
    while i and j:
        if reference[i - 1] == prediction[j - 1]:
            subsequence.append(reference[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return subsequence


def report_metrics(prediction: str, gold: str) -> dict[str, float]:
    """BLEU-1 to -4 and ROUGE of one report."""
    pair = tokenize_report(prediction), tokenize_report(gold)
    return {f"bleu{n}": bleu(*pair, n) for n in (1, 2, 3, 4)} | rouge(
        prediction.lower(), gold.lower()
    )


def report_reference(findings: str, impression: str) -> str:
    """The reference of a report; a full stop follows whatever is there, nothing included."""
    return f"Findings: {findings} Impression: {impression}."


def rubric_score(points: Sequence[float], met: Sequence[bool]) -> float | None:
    """Points of the met criteria over all positive points; None where no criterion has positive
    points.
    """
    max_points = sum(point for point in points if point > 0)
    return (
        sum(point for point, is_met in zip(points, met, strict=True) if is_met) / max_points
        if max_points
        else None
    )


def clipped_mean(values: Sequence[float]) -> float:
    """The mean, clipped to 0..1 after averaging."""
    return min(1.0, max(0.0, sum(values) / len(values)))


def parse_rubric_verdict(text: str) -> dict[str, object]:
    """A judge's JSON, alone or in a fence marked json; {} for anything else."""
    body = re.sub(r"^```json\s*|\s*```$", "", text.strip())
    try:
        verdict = json.loads(body)
    except ValueError:
        return {}
    return verdict if isinstance(verdict, dict) else {}
