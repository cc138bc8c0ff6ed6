"""RadCliQ-v1 of a report from its four sub-scores: lower is better, about 2.45 at worst, below 0
for good reports.

Yu et al. 2023 ("Evaluating progress in automatic chest X-ray radiology report generation"); means,
scales and coefficients are the parameters of the CXR-Report-Metric release. The weight of BLEU-2 is
next to nothing.
"""

from dataclasses import replace
from typing import NamedTuple

from lingshu.core.types import MetricResult
from lingshu.scoring.metrics import bleu
from lingshu.scoring.metrics._base import Reports, tokenize, unavailable


class SubScores(NamedTuple):
    """RadGraph F1 (mean of entities and relations), BERTScore F1 (rescaled, no IDF), CheXbert
    similarity, sentence BLEU-2.
    """

    radgraph: float
    bert_score: float
    semb_score: float
    bleu_2: float


MEAN = SubScores(0.53792312, 0.61757256, 0.76479421, 0.44738335)
SCALE = SubScores(0.30282584, 0.22430938, 0.25394391, 0.29892717)
COEFFICIENT = SubScores(-3.77083683e-01, -3.70300100e-01, -2.52616218e-01, 4.31504841e-12)
INTERCEPT = 2.46655256e-10


def radcliq_v1(scores: SubScores) -> float:
    """The composite of one report."""
    parts = zip(scores, MEAN, SCALE, COEFFICIENT, strict=True)
    return INTERCEPT + sum(weight * (score - mean) / scale for score, mean, scale, weight in parts)


def inverse(mean: float) -> float | None:
    """100 over the mean of a test set, as tables print it; None where the mean is not above 0."""
    return 100 / mean if mean > 0 else None


def radcliq_metric(reports: Reports) -> list[MetricResult]:
    """RadCliQ-v1 where the numbers that it is made of are available."""
    parts = ("radgraph_f1", "bert_score", "semb_score")
    missing = [name for name in parts if name not in reports.values]
    if missing:
        return unavailable(("radcliq_v1",), f"needs {', '.join(missing)}")
    bleu_2 = [
        bleu.coco_bleu(bleu.count_ngrams(tokenize(prediction), tokenize(gold)))[1]
        for prediction, gold in reports.non_empty
    ]
    sub_scores = zip(*(reports.values[name] for name in parts), bleu_2, strict=True)
    empty = radcliq_v1(SubScores(0, 0, 0, 0))
    scores = [radcliq_v1(SubScores(*values)) for values in sub_scores]
    result = reports.result("radcliq_v1", reports.fill_empty(scores, empty), empty=empty)
    inverse_mean = None if result.value is None else inverse(result.value)
    note = (
        "no inverse: the mean is not above 0"
        if inverse_mean is None
        else f"100 / mean = {inverse_mean:.1f}"
    )
    return [replace(result, note=f"lower is better; {note}")]


METRIC = radcliq_metric
