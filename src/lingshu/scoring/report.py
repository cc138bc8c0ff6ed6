"""Grades a radiology report by ROUGE-L against its reference; as a set, by BLEU, ROUGE, CIDEr,
findings and models of reports.

`score` is the F1 of the longest common subsequence of words (rouge_score 0.1.2, no stemmer), for
one reply. METRICS are the numbers of a whole set of replies. Thinking is left out; the answer tag
or box counts where there is one.

RANGE: 0.0 to 1.0, None for an empty reply.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from lingshu.core.reply_text import read_message, require_golds
from lingshu.core.types import MetricResult, Sample, Score
from lingshu.scoring.metrics import (
    bert_score,
    bleu,
    chexbert,
    cider,
    findings,
    green,
    radcliq,
    radgraph,
    rate_score,
    rouge,
)
from lingshu.scoring.metrics._base import ReportMetric, Reports

RANGE = (0.0, 1.0)
_FINDINGS_MARK = re.compile(r"<findings?>|\[FINDINGS?\]|[\"']findings?[\"']\s*:", re.I)
# In the order of the report; RadCliQ is made of numbers of metrics before it.
REPORT_METRICS: tuple[ReportMetric, ...] = (
    bleu.METRIC, rouge.METRIC, cider.METRIC, findings.METRIC, radgraph.METRIC, bert_score.METRIC,
    chexbert.METRIC, rate_score.METRIC, green.METRIC, radcliq.METRIC,
)  # fmt: skip


def extract_report(reply: str) -> str:
    """The report in a reply.

    A report whose sections are tags or keys of JSON is taken whole: none of them is its answer.
    """
    message = read_message(reply)
    has_sections = _FINDINGS_MARK.search(message.text) is not None
    has_answer = bool(message.answer) and not has_sections
    return (message.content if has_answer else message.text).strip()


def score(sample: Sample, reply: str) -> Score:
    """ROUGE-L of one report.

    Raises:
        InputError: the sample has no gold.
    """
    gold, prediction = require_golds(sample)[0], extract_report(reply)
    if not prediction:
        return Score(None, "empty")
    return Score(rouge.google_rouge_l(prediction, gold), "ok", prediction)


def compute_metrics(
    samples: Sequence[Sample], replies: Sequence[str | None], *, weights: Path | None = None
) -> list[MetricResult]:
    """Every number of a set of reports; a metric whose model is not in `weights` says so.

    Raises:
        InputError: a sample has no gold.
    """
    reports = Reports(
        [None if reply is None else extract_report(reply) for reply in replies],
        [require_golds(sample)[0] for sample in samples],
        [sample.meta for sample in samples],
        weights,
    )
    return [result for metric in REPORT_METRICS for result in metric(reports)]


METRICS = (compute_metrics,)
