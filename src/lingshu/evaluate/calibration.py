"""Whether a model's confidence tells its right answers from its wrong ones, and the threshold below
which it should abstain.

The confidence of a row is that of core/confidence.py. A reply that could not be read has none: there
is no answer to be confident of.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artifacts import SCORES
from lingshu.core.errors import ArtifactError, InputError, suggest_name
from lingshu.core.files import digest, read_json, sha256_file, write_json
from lingshu.core.run_card import read_run_card
from lingshu.core.stats import Interval
from lingshu.core.types import ModelIdentity
from lingshu.evaluate.statistics import clustered_standard_error, student_t_95, wilson_fallback
from lingshu.evaluate.store import ScoredRun, ScoredTask
from lingshu.evaluate.summary import Row, group_key, is_unscored, row_value, summarize

N_BINS = 10
COVERAGES = (0.5, 0.8, 0.9)
MIN_ITEMS = 20  # a threshold set on fewer answers says little of others


class CoveragePoint(NamedTuple):
    """The answers that are at least as confident as `threshold`: the smallest share of all that is
    not below `target`, as equal confidences stay together; `risk` is the share of wrong ones.
    """

    target: float
    threshold: float
    coverage: float
    risk: Interval


class ConfidenceBin(NamedTuple):
    """Answers with a confidence above `low`, up to `high`."""

    low: float
    high: float
    mean_confidence: float
    accuracy: Interval


@dataclass(frozen=True)
class Calibration:
    """How the confidences of `n` answers, known by `methods`, fit their scores; `n_unknown` scored
    replies have none.

    `expected_calibration_error` is over ten bins of equal width (Guo et al. 2017, arXiv 1706.04599,
    section 3). `auroc` is the probability that a right answer is more confident than one that is not
    wholly right. `risk` is 1 - the mean score.
    """

    n: int
    n_unknown: int
    methods: Mapping[str, int]
    expected_calibration_error: Interval
    auroc: Interval
    risk: Interval
    at_coverage: tuple[CoveragePoint, ...]
    bins: tuple[ConfidenceBin, ...]


def calibration(rows: Sequence[Row]) -> Calibration | None:
    """The calibration of scores rows; None where no row has a confidence."""
    scored = [row for row in rows if row["status"] != "error" and not is_unscored(row)]
    known = [row for row in scored if confidence_of(row) is not None]
    if not known:
        return None
    confidences = [_known_confidence(row) for row in known]
    values, groups = list(map(row_value, known)), list(map(group_key, known))
    in_bins: dict[int, list[Row]] = {}
    for row, confidence in zip(known, confidences, strict=True):
        in_bins.setdefault(_bin(confidence), []).append(row)
    return Calibration(
        n=len(known),
        n_unknown=len(scored) - len(known),
        methods=dict(Counter(str(row.get("confidence_method") or "given") for row in known)),
        expected_calibration_error=expected_calibration_error(confidences, values, groups),
        auroc=auroc(confidences, [value >= 1 for value in values], groups),
        risk=_risk(known),
        at_coverage=tuple(at_coverage(known, target) for target in COVERAGES),
        bins=tuple(
            ConfidenceBin(
                index / N_BINS,
                (index + 1) / N_BINS,
                math.fsum(map(_known_confidence, in_bins[index])) / len(in_bins[index]),
                summarize(in_bins[index]).accuracy,
            )
            for index in sorted(in_bins)
        ),
    )


def confidence_of(row: Row) -> float | None:
    """The confidence of a scores row; None where it has none between 0 and 1."""
    value = row.get("confidence")
    if not isinstance(value, int | float) or isinstance(value, bool) or row["status"] != "ok":
        return None
    return float(value) if 0 <= value <= 1 else None


def _known_confidence(row: Row) -> float:
    value = confidence_of(row)
    assert value is not None
    return value


def _bin(confidence: float) -> int:
    """The bin of a confidence: its upper end belongs to it, and 0 to the first."""
    return max(0, math.ceil(round(confidence * N_BINS, 9)) - 1)


def _risk(rows: Sequence[Row]) -> Interval:
    accuracy = summarize(rows).accuracy
    value, low, high = (
        None if end is None else 1 - end for end in (accuracy.value, accuracy.high, accuracy.low)
    )
    return Interval(value, low, high, accuracy.n)


def at_coverage(rows: Sequence[Row], target: float) -> CoveragePoint:
    """The threshold at which at least `target` of rows with a confidence are answered."""
    ordered = sorted(map(_known_confidence, rows), reverse=True)
    threshold = ordered[max(0, math.ceil(target * len(ordered) - 1e-9) - 1)]
    answered = [row for row in rows if _known_confidence(row) >= threshold]
    return CoveragePoint(target, threshold, len(answered) / len(rows), _risk(answered))


def expected_calibration_error(
    confidences: Sequence[float], values: Sequence[float], groups: Sequence[Hashable]
) -> Interval:
    """The mean distance of confidence and accuracy over bins, weighted by their sizes.

    Its interval is by linearization over groups. With few items the error is above 0 even for a
    perfect model: chance moves every bin.
    """
    n = len(values)
    gaps = [confidence - value for confidence, value in zip(confidences, values, strict=True)]
    bins = list(map(_bin, confidences))
    totals = dict.fromkeys(bins, 0.0)
    for index, gap in zip(bins, gaps, strict=True):
        totals[index] += gap
    error = math.fsum(map(abs, totals.values())) / n
    signed = [gap if totals[i] >= 0 else -gap for i, gap in zip(bins, gaps, strict=True)]
    deviation = clustered_standard_error([(gap - error) / n for gap in signed], groups)
    if deviation is None:
        return Interval(error, None, None, n)
    half_width = student_t_95(len(set(groups)) - 1) * deviation
    return Interval(error, max(0.0, error - half_width), min(1.0, error + half_width), n)


def auroc(
    confidences: Sequence[float], right: Sequence[bool], groups: Sequence[Hashable]
) -> Interval:
    """The probability that a right answer is more confident than a wrong one, a tie counting half.

    Its interval is on the logit scale from the clustered variance of its placements (Obuchowski,
    Biometrics 53:567, 1997). None where all answers are right, or none is.
    """
    import numpy as np

    scores, is_right = np.asarray(confidences, np.float64), np.asarray(right, bool)
    positive, negative = np.sort(scores[is_right]), np.sort(scores[~is_right])
    if not len(positive) or not len(negative):
        return Interval(None, None, None, len(scores))

    def share_below(values: Any, others: Any) -> Any:
        less, not_above = (np.searchsorted(others, values, side) for side in ("left", "right"))
        return (less + not_above) / 2 / len(others)

    placements = np.where(
        is_right, share_below(scores, negative), 1 - share_below(scores, positive)
    )
    value = float(placements[is_right].mean())
    sizes = np.where(is_right, len(positive), len(negative))
    deviation = clustered_standard_error(((placements - value) / sizes).tolist(), groups)
    interval = Interval(value, None, None, len(scores))
    if deviation is None:
        return interval
    if not 0 < value < 1 or not deviation:
        return wilson_fallback(interval, min(len(set(groups)), len(positive), len(negative)))
    half_width = student_t_95(len(set(groups)) - 1) * deviation / (value * (1 - value))
    logit = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-end)) for end in (logit - half_width, logit + half_width))
    return interval._replace(low=low, high=high)


# --- the threshold for abstaining


@dataclass(frozen=True)
class Threshold:
    """The confidence below which a model abstains, as it was set on the answers of a run.

    There, `coverage` of the `n` answers with a confidence were answered, and `risk` of those were
    wrong, where `full_risk` of all were. `methods` are the ways in which the confidences were known:
    those of another way cannot be compared with the threshold.
    """

    threshold: float
    coverage: float
    risk: Interval
    full_risk: Interval
    n: int
    methods: tuple[str, ...]
    task: str
    protocol: str
    model: str
    model_digest: str
    scores_sha256: str
    digest: str = ""

    @property
    def text(self) -> str:
        """The threshold and what it was set on, in words for a user."""
        return (
            f"{self.threshold:.3g}, set on {self.n} answers to {self.task}, where"
            f" {100 * self.coverage:.0f}% are answered and {100 * (self.risk.value or 0):.1f}% of"
            f" those are wrong instead of {100 * (self.full_risk.value or 0):.1f}%"
        )

    def check_model(self, engine: ModelIdentity) -> None:
        """
        Raises:
            InputError: the threshold is of another model, or of one opened in another way.
        """
        if self.model_digest != engine.digest:
            raise InputError(
                f"the threshold was set for {self.model} ({self.model_digest[:12]}), not for"
                f" {engine.model} ({engine.digest[:12]}) as it is opened here; set one with"
                " `lingshu eval` and `lingshu report --threshold`."
            )


def set_threshold(
    run: Path, scored: ScoredRun, task_name: str | None, coverage: float
) -> Threshold:
    """The threshold at which the answers of a run's task are covered.

    Raises:
        InputError: no such task, too few answers with a confidence, or no such coverage.
        ArtifactError: the run does not name its model.
    """
    if not 0 < coverage <= 1:
        raise InputError(f"--coverage {coverage} is not a share; give one above 0, at most 1.")
    task = _threshold_task(scored, task_name)
    rows = [row for row in task.rows[task.protocol] if confidence_of(row) is not None]
    if len(rows) < MIN_ITEMS:
        raise InputError(
            f"{task.name} has {len(rows)} answers with a confidence, and a threshold needs"
            f" {MIN_ITEMS}; evaluate more, or with --top-log-probs for a model behind an address."
        )
    notes = read_run_card(run).get("notes", {})
    model, model_digest = (notes.get("model"), notes.get("digest")) if notes else (None, None)
    if not isinstance(model, str) or not isinstance(model_digest, str):
        raise ArtifactError(f"{run} does not name its model; run `lingshu eval` again.")
    point = at_coverage(rows, coverage)
    threshold = Threshold(
        point.threshold,
        point.coverage,
        point.risk,
        _risk(rows),
        len(rows),
        tuple(sorted({str(row.get("confidence_method") or "given") for row in rows})),
        task.name,
        task.protocol,
        model,
        model_digest,
        sha256_file(run / task.name / SCORES),
    )
    return replace(threshold, digest=_content_digest(threshold))


def _threshold_task(scored: ScoredRun, name: str | None) -> ScoredTask:
    by_name = {task.name: task for task in scored.tasks}
    if name is None and len(by_name) == 1:
        return scored.tasks[0]
    if name not in by_name:
        hint = f"name one with --task: {', '.join(by_name)}"
        if name is not None:
            hint = suggest_name(name, by_name)
        raise InputError(f"{scored.name} has {len(by_name)} tasks and no {name!r}; {hint}")
    return by_name[name]


def write_threshold(path: Path, threshold: Threshold) -> None:
    write_json(path, _plain(threshold))


def read_threshold(path: Path) -> Threshold:
    """The threshold that `lingshu report --threshold` wrote.

    Raises:
        ArtifactError: it is missing, damaged or was changed.
    """
    remedy = "write it with `lingshu report RUN --threshold FILE`"
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; {remedy}.")
    row = read_json(path)
    try:
        values: dict[str, Any] = {field.name: row[field.name] for field in fields(Threshold)}
        for name in ("risk", "full_risk"):
            values[name] = Interval(**values[name])
        values["methods"] = tuple(values["methods"])
        threshold = Threshold(**values)
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not a threshold ({error}); {remedy}.") from error
    if threshold.digest != _content_digest(threshold):
        raise ArtifactError(f"{path} was changed after it was written; {remedy}.")
    return threshold


def _plain(threshold: Threshold) -> dict[str, Any]:
    intervals = {"risk": threshold.risk._asdict(), "full_risk": threshold.full_risk._asdict()}
    return asdict(threshold) | intervals | {"methods": list(threshold.methods)}


def _content_digest(threshold: Threshold) -> str:
    return digest({key: value for key, value in _plain(threshold).items() if key != "digest"})
