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


def tokens(text: str) -> list[str]:
    """Lower case, every full stop detached (in "1.5" too), split at single blanks: other signs stay
    glued.
    """
    return text.lower().replace(".", " .").split(" ")


def report_tokens(text: str) -> list[str]:
    """Tokens of a report: as `tokens`, without empty ones."""
    return [token for token in tokens(text) if token]


def bleu(said: Sequence[str], gold: Sequence[str], most: int) -> float:
    """Sentence BLEU up to `most`-grams, without smoothing: a missing n-gram counts as the smallest
    float, not as zero.
    """
    logs = []
    for n in range(1, most + 1):
        mine = Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1))
        theirs = Counter(tuple(gold[i : i + n]) for i in range(len(gold) - n + 1))
        shared = sum((mine & theirs).values())
        if n == 1 and not shared:
            return 0.0
        logs.append(math.log(shared / max(1, sum(mine.values())) or sys.float_info.min) / most)
    brevity = 1.0 if len(said) > len(gold) else math.exp(1 - len(gold) / len(said))
    return brevity * math.exp(math.fsum(logs))


def set_f1(said: str, gold: str) -> tuple[float, float, float] | int:
    """F1, precision and recall over sets of words, in this order; the bare number 0 where either
    side is empty.
    """
    mine, theirs = set(said.split()), set(gold.split())
    if not mine or not theirs:
        return 0
    shared = len(mine & theirs)
    if not shared:
        return 0.0, 0.0, 0.0
    precision, recall = shared / len(mine), shared / len(theirs)
    return 2 * precision * recall / (precision + recall), precision, recall


def rouge(said: str, gold: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F only: sentences end at full stops, n-grams are sets, L unites the words
    of all sentence pairs.

    Raises:
        ValueError: either side has no sentence.
    """
    mine, theirs = _sentences(said, "Hypothesis"), _sentences(gold, "Reference")
    words_of = [[word for sentence in side for word in sentence] for side in (mine, theirs)]
    found = {}
    for n in (1, 2):
        grams, right = (
            {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in words_of
        )
        found[f"rouge-{n}"] = _f(len(grams & right), len(grams), len(right))
    covered = {word for right in theirs for sentence in mine for word in _common(right, sentence)}
    found["rouge-l"] = _f(len(covered), len(set(words_of[0])), len(set(words_of[1])))
    return found


def _sentences(text: str, side: str) -> list[list[str]]:
    found = [" ".join(part.split()).split(" ") for part in text.split(".") if part]
    if not found:
        raise ValueError(f"{side} is empty.")
    return found


def _f(shared: int, mine: int, theirs: int) -> float:
    precision, recall = shared / mine if mine else 0.0, shared / theirs if theirs else 0.0
    return 2 * (precision * recall) / (precision + recall + 1e-8)


def _common(right: Sequence[str], said: Sequence[str]) -> list[str]:
    """One longest common subsequence; among equals the one that leaves the end of `said` first."""
    lengths = [[0] * (len(said) + 1) for _ in range(len(right) + 1)]
    for i, word in enumerate(right, 1):
        for j, other in enumerate(said, 1):
            lengths[i][j] = (
                lengths[i - 1][j - 1] + 1
                if word == other
                else max(lengths[i - 1][j], lengths[i][j - 1])
            )
    found, i, j = [], len(right), len(said)
    while i and j:
        if right[i - 1] == said[j - 1]:
            found.append(right[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def report_measures(said: str, gold: str) -> dict[str, float]:
    """BLEU-1 to -4 and ROUGE of one report."""
    pair = report_tokens(said), report_tokens(gold)
    return {f"bleu{n}": bleu(*pair, n) for n in (1, 2, 3, 4)} | rouge(said.lower(), gold.lower())


def report_reference(findings: str, impression: str) -> str:
    """The reference of a report; a full stop follows whatever is there, nothing included."""
    return f"Findings: {findings} Impression: {impression}."


def rubric_score(points: Sequence[float], met: Sequence[bool]) -> float | None:
    """Points of the met criteria over all positive points; None where no criterion has positive
    points.
    """
    most = sum(point for point in points if point > 0)
    return (
        sum(point for point, is_met in zip(points, met, strict=True) if is_met) / most
        if most
        else None
    )


def clipped_mean(values: Sequence[float]) -> float:
    """The mean, clipped to 0..1 after averaging."""
    return min(1.0, max(0.0, sum(values) / len(values)))


def rubric_verdict(text: str) -> dict[str, object]:
    """A judge's JSON, alone or in a fence marked json; {} for anything else."""
    bare = re.sub(r"^```json\s*|\s*```$", "", text.strip())
    try:
        found = json.loads(bare)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
