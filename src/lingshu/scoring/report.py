"""Grades a radiology report by ROUGE-L against its reference; as a set, by BLEU, ROUGE, CIDEr,
findings and models of reports.

`score` is the F1 of the longest common subsequence of words (rouge_score 0.1.2, no stemmer), for
one reply. METRICS are the numbers of a whole set of replies. Thinking is left out; the answer tag
or box counts where there is one.

RANGE: 0.0 to 1.0, None for an empty reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lingshu.core.reply_text import CJK, final_answer, require_golds, strip_reasoning
from lingshu.core.types import Meta, MetricResult, Sample, Score
from lingshu.scoring.metrics import bleu, findings, rouge
from lingshu.scoring.metrics._model_metric import (
    ModelMetric,
    compute_values,
    non_x_ray_modalities,
    reason_unavailable,
)
from lingshu.scoring.metrics.bert_score import BERT_SCORE
from lingshu.scoring.metrics.chexbert import CHEXBERT
from lingshu.scoring.metrics.cider import cider
from lingshu.scoring.metrics.green import GREEN
from lingshu.scoring.metrics.radcliq import SubScores, inverse, radcliq_v1
from lingshu.scoring.metrics.radgraph import RADGRAPH
from lingshu.scoring.metrics.rate_score import RATE_SCORE

RANGE = (0.0, 1.0)
MODEL_METRICS: tuple[ModelMetric, ...] = (RADGRAPH, BERT_SCORE, CHEXBERT, RATE_SCORE, GREEN)
# What each number is called here, and in the two packages that define it; the published tables used
# the second.
ROUGE_KEYS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
SET_ROUGE_KEYS = {"rouge_1_sets": "rouge-1", "rouge_2_sets": "rouge-2", "rouge_l_sets": "rouge-l"}
# Decimals stay whole, signs stand alone, a hyphen or an apostrophe inside a word joins.
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)*|[{CJK}]|[^\W_{CJK}]+(?:['-][^\W_{CJK}]+)*|[^\w\s]|_")


class ReportPairs(NamedTuple):
    """What each reply says, None for one that failed, and the references."""

    predictions: list[str | None]
    gold: list[str]

    def completed_pairs(self) -> list[tuple[str, str]]:
        """The pairs whose reply did not fail."""
        return [
            (prediction, gold)
            for prediction, gold in zip(self.predictions, self.gold, strict=True)
            if prediction is not None
        ]


def tokenize(text: str) -> list[str]:
    """The tokens that BLEU and CIDEr count: lower-case words, numbers and signs; each Chinese
    character is one.
    """
    return _TOKEN.findall(text.lower())


def extract_report(reply: str) -> str:
    """The report in a reply."""
    text = strip_reasoning(reply)
    final = final_answer(text)
    return (text if final is None else final).strip()


def score(sample: Sample, reply: str) -> Score:
    """ROUGE-L of one report.

    Raises:
        InputError: the sample has no gold.
    """
    gold, prediction = require_golds(sample)[0], extract_report(reply)
    return (
        Score(rouge.google_rouge_l(prediction, gold), "ok", prediction)
        if prediction
        else Score(None, "empty")
    )


def compute_metrics(
    samples: Sequence[Sample], replies: Sequence[str | None], *, weights: Path | None = None
) -> list[MetricResult]:
    """Every number of a set of reports; those that need a model which `weights` does not hold say
    so.

    Raises:
        InputError: a sample has no gold.
    """
    predictions = [
        None if reply is None else extract_report(reply)
        for _, reply in zip(samples, replies, strict=True)
    ]
    pairs = ReportPairs(predictions, [require_golds(sample)[0] for sample in samples])
    metas = [sample.meta for sample in samples]
    text_metrics = [
        *bleu_metrics(pairs),
        *_mean_metrics(pairs, rouge.google_rouge, ROUGE_KEYS),
        *_mean_metrics(pairs, rouge.set_rouge, SET_ROUGE_KEYS),
        *cider_metrics(pairs),
    ]
    return [*text_metrics, *finding_metrics(pairs, metas), *model_metrics(pairs, metas, weights)]


METRICS = (compute_metrics,)


def bleu_metrics(pairs: ReportPairs) -> list[MetricResult]:
    """BLEU-1 to BLEU-4 of the corpus, by the COCO code's formula; the score of one report is its
    sentence BLEU.
    """
    counts = [
        bleu.count_ngrams(tokenize(prediction), tokenize(gold))
        for prediction, gold in pairs.completed_pairs()
    ]
    pair_scores = [bleu.coco_bleu(count) for count in counts]
    no_scores = [None] * bleu.MAX_ORDER
    full_scores, non_empty = (
        bleu.coco_bleu(bleu.sum_counts(subset)) if subset else no_scores
        for subset in (counts, [count for count in counts if count.prediction_length])
    )
    return [
        _metric_result(
            f"bleu_{n + 1}",
            pairs,
            [count[n] for count in pair_scores],
            corpus=(full_scores[n], non_empty[n]),
        )
        for n in range(bleu.MAX_ORDER)
    ]


def cider_metrics(pairs: ReportPairs) -> list[MetricResult]:
    """CIDEr and CIDEr-D, 0 to 10, with document frequencies from the references of all samples,
    failed replies included.
    """
    tokens_by_gold = {gold: tokenize(gold) for gold in pairs.gold}
    completed = pairs.completed_pairs()
    references = [tokens_by_gold[gold] for gold in pairs.gold]
    cider_scores = cider(
        [tokenize(prediction) for prediction, _ in completed],
        [tokens_by_gold[gold] for _, gold in completed],
        references=references,
    )
    note = "one reference alone always gives 0" if len(pairs.gold) == 1 else None
    return [
        _metric_result(name, pairs, values, note=note)
        for name, values in zip(("cider", "cider_d"), cider_scores, strict=True)
    ]


def finding_metrics(pairs: ReportPairs, metas: Sequence[Meta]) -> list[MetricResult]:
    """F1 over all findings that our own rules read from the reports, without and with their sides;
    chest X-rays in English alone.

    The score of one report is its own F1, 1 where neither it nor its reference names a finding: in
    a mean, normal chests would hide that a model finds nothing.
    """
    use_sides_by_name = {"rule_findings_f1": False, "rule_findings_side_f1": True}
    unsupported = non_x_ray_modalities([meta.modality for meta in metas]) + sorted(
        {meta.language for meta in metas if meta.language} - {"en"}
    )
    if unsupported:
        note = (
            "unavailable: rules for English reports of chest X-rays alone, and these are also of"
            f" {', '.join(unsupported)}"
        )
        return [MetricResult(name, None, None, 0, 0, note=note) for name in use_sides_by_name]
    completed, results = pairs.completed_pairs(), []
    for name, sides in use_sides_by_name.items():
        counts = [
            findings.count_shared(prediction, gold, sides=sides) for prediction, gold in completed
        ]
        scores = [1.0 if (value := findings.f1([count])) is None else value for count in counts]
        corpus = (
            findings.f1(counts),
            findings.f1(
                [
                    count
                    for count, (prediction, _) in zip(counts, completed, strict=True)
                    if prediction
                ]
            ),
        )
        note = "no report names a finding" if corpus[0] is None else None
        results.append(_metric_result(name, pairs, scores, corpus=corpus, note=note))
    return results


def model_metrics(
    pairs: ReportPairs, metas: Sequence[Meta], weights: Path | None
) -> list[MetricResult]:
    """The metrics that need a model, where the weights folder has it, and RadCliQ-v1 where its
    parts are there.
    """
    non_empty = [(prediction, gold) for prediction, gold in pairs.completed_pairs() if prediction]
    texts = [prediction for prediction, _ in non_empty], [gold for _, gold in non_empty]
    values_by_metric: dict[str, Sequence[float]] = {}
    results: list[MetricResult] = []
    for model_metric in MODEL_METRICS:
        outcome = reason_unavailable(model_metric, weights, [meta.modality for meta in metas])
        if outcome is None and weights is not None:
            outcome = compute_values(model_metric, weights, *texts)
        if outcome is None or isinstance(outcome, str):
            results += [
                MetricResult(name, None, None, 0, 0, note=outcome) for name in model_metric.names
            ]
            continue
        values_by_metric |= outcome
        results += [
            _metric_result(name, pairs, _fill_empty(pairs, outcome[name]))
            for name in model_metric.names
        ]
    return [*results, _radcliq_metric(pairs, non_empty, values_by_metric)]


def _radcliq_metric(
    pairs: ReportPairs,
    non_empty: Sequence[tuple[str, str]],
    values_by_metric: Mapping[str, Sequence[float]],
) -> MetricResult:
    missing = [
        name
        for name in SubScores._fields
        if name != "bleu_2" and _SUB_SCORE_METRICS[name] not in values_by_metric
    ]
    if missing:
        return MetricResult(
            "radcliq_v1",
            None,
            None,
            0,
            0,
            note=f"unavailable: needs {', '.join(_SUB_SCORE_METRICS[name] for name in missing)}",
        )
    bleu_2 = [
        bleu.coco_bleu(bleu.count_ngrams(tokenize(prediction), tokenize(gold)))[1]
        for prediction, gold in non_empty
    ]
    sub_scores = zip(
        *(values_by_metric[_SUB_SCORE_METRICS[name]] for name in SubScores._fields[:3]),
        bleu_2,
        strict=True,
    )
    empty_score = radcliq_v1(SubScores(0, 0, 0, 0))
    result = _metric_result(
        "radcliq_v1",
        pairs,
        _fill_empty(
            pairs, [radcliq_v1(SubScores(*sub_score)) for sub_score in sub_scores], empty_score
        ),
        empty=empty_score,
    )
    inverse_value = None if result.value is None else inverse(result.value)
    inverse_note = (
        "no inverse: the mean is not above 0"
        if inverse_value is None
        else f"100 / mean = {inverse_value:.1f}"
    )
    return MetricResult(
        result.name,
        result.value,
        result.non_empty_value,
        result.n,
        result.n_non_empty,
        result.scores,
        empty_score=empty_score,
        note=f"lower is better; {inverse_note}",
    )


_SUB_SCORE_METRICS = {
    "radgraph": "radgraph_f1",
    "bert_score": "bert_score",
    "semb_score": "semb_score",
}


def _mean_metrics(
    pairs: ReportPairs,
    compute: Callable[[str, str], Mapping[str, float]],
    key_by_name: Mapping[str, str],
) -> list[MetricResult]:
    """Means over reports: `names` gives what each number is called, and its key in `values` of one
    pair.
    """
    pair_values = [compute(prediction, gold) for prediction, gold in pairs.completed_pairs()]
    return [
        _metric_result(name, pairs, [pair_value[key] for pair_value in pair_values])
        for name, key in key_by_name.items()
    ]


def _fill_empty(pairs: ReportPairs, values: Sequence[float], empty: float = 0.0) -> list[float]:
    """Values of the replies that did not fail, from those of the replies that say something."""
    remaining = iter(values)
    return [next(remaining) if prediction else empty for prediction, _ in pairs.completed_pairs()]


def _metric_result(
    name: str,
    pairs: ReportPairs,
    values: Sequence[float],
    *,
    corpus: tuple[float | None, float | None] | None = None,
    empty: float = 0.0,
    note: str | None = None,
) -> MetricResult:
    """One number from its value for each reply that did not fail; `corpus` where it is no mean of
    these.
    """
    remaining = iter(values)
    scores: list[Score] = []
    for prediction in pairs.predictions:
        value = None if prediction is None else next(remaining)
        scores.append(
            Score(None, "error")
            if prediction is None
            else Score(value)
            if prediction
            else Score(None, "empty")
        )
    non_empty_values = [score.value for score in scores if score.value is not None]
    n, n_non_empty = len(values), len(non_empty_values)
    mean = (
        (sum(non_empty_values) + empty * (n - n_non_empty)) / n if n else None,
        sum(non_empty_values) / n_non_empty if n_non_empty else None,
    )
    value, non_empty = corpus or mean
    return MetricResult(
        name,
        value,
        non_empty,
        n,
        n_non_empty,
        tuple(scores),
        is_mean=corpus is None,
        empty_score=empty,
        note=note,
    )
