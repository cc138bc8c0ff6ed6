"""Measures of a public toolkit that no grade uses, rebuilt from recorded behavior for the parity tests.

The commit, and what a `ValueError` means, are those of `lingshu.scoring.protocols.medevalkit`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence

from lingshu.scoring.metrics.rouge import sentence_set_rouge
from lingshu.scoring.protocols.medevalkit import extract_tag, parse_answer


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


def open_metrics(gold: str, reply: str | None) -> dict[str, float | bool]:
    """Exact match, BLEU, ROUGE and token F1 under the toolkit's names; F1, precision and recall
    are interchanged.

    Raises:
        ValueError: nothing is left of the reply, where the ROUGE package refuses.
    """
    gold, prediction = gold.lower(), parse_answer(reply).replace("\n", "")
    rouge = sentence_set_rouge(prediction, gold)
    f1 = set_f1(prediction, gold)
    f1, precision, recall = f1 if isinstance(f1, tuple) else (0.0, 0.0, 0.0)
    return {
        "em": prediction == gold,
        **{f"bleu{n}": bleu(tokenize(prediction), tokenize(gold), n) for n in (1, 2, 3, 4)},
        "rouge1": rouge["rouge-1"],
        "rouge2": rouge["rouge-2"],
        "rougel": rouge["rouge-l"],
        "precision": f1,
        "recall": precision,
        "f1": recall,
    }


def is_judged_correct(text: str | None) -> bool:
    """A judge's reply, 0 meaning right; anything else, silence included, means wrong."""
    return extract_tag(text, "judge") == "0"


def normalize_number_or_text(text: str) -> list[float | str]:
    """A number to two places, also nan and inf; else the text in lower case, a single letter with a
    blank at either side.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def extract_numbers_and_text(reply: str) -> list[float | str]:
    """The key phrases of a free answer and the numbers in them."""
    lines = re.split(r"\.\s(?=[A-Z])|\n", reply.strip().strip(".").lower())
    cues = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
    keys = []
    for index, line in enumerate(lines):
        tails = [
            line.split(cue)[-1].strip()
            for cue in (*cues, *(["="] if index == len(lines) - 1 else []))
            if cue in line
        ]
        if tails and (shortest := min(tails, key=len)) not in (":", ",", ".", "!", "?", ";", "'"):
            keys.append(shortest)
    keys = keys or [reply.strip().strip(".").lower()]
    numbers = [
        number
        for key in keys
        for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|-?\.\d+", key)
    ]
    return list(
        dict.fromkeys(
            value for phrase in (*keys, *numbers) for value in normalize_number_or_text(phrase)
        )
    )


def is_free_answer_correct(gold: str, predictions: Sequence[float | str]) -> bool:
    """Whether a gold text lies inside a text that was said, or a gold number equals one."""
    gold_values = normalize_number_or_text(gold)
    return any(
        (
            any(
                isinstance(gold_value, str) and gold_value in prediction
                for gold_value in gold_values
            )
            if isinstance(prediction, str)
            else prediction in gold_values
        )
        for prediction in predictions
    )


def report_metrics(prediction: str, gold: str) -> dict[str, float]:
    """BLEU-1 to -4 and ROUGE of one report."""
    pair = tokenize_report(prediction), tokenize_report(gold)
    return {f"bleu{n}": bleu(*pair, n) for n in (1, 2, 3, 4)} | sentence_set_rouge(
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
