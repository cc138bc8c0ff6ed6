"""What report metrics share: the reports of a set, how values become results, and metrics that need
a model.

A metric's file defines one `METRIC`, which gives one or more numbers for a set of reports. Models
are loaded from a folder of weights; nothing is downloaded. A failure in third-party code is the
metric's note, and costs neither the other metrics nor the run.
"""

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lingshu.core.errors import describe_error
from lingshu.core.reply_text import CJK
from lingshu.core.types import Meta, MetricResult, Score

X_RAY_MODALITIES = ("x-ray", "xray", "x ray", "chest x-ray", "cxr")
# Decimals stay whole, signs are separate tokens, a hyphen or an apostrophe inside a word joins.
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)*|[{CJK}]|[^\W_{CJK}]+(?:['-][^\W_{CJK}]+)*|[^\w\s]|_")


def tokenize(text: str) -> list[str]:
    """The tokens of BLEU and CIDEr: lower-case words, numbers, signs, single Chinese characters."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Reports:
    """The report in each reply, None for a failed reply, with references and what is known of them.

    `values` collects the numbers of model metrics for `non_empty`, for metrics made of others.
    """

    predictions: Sequence[str | None]
    gold: Sequence[str]
    metas: Sequence[Meta]
    weights: Path | None = None
    values: dict[str, Sequence[float]] = field(default_factory=dict)

    @cached_property
    def completed(self) -> list[tuple[str, str]]:
        """Prediction and reference of every reply that did not fail."""
        pairs = zip(self.predictions, self.gold, strict=True)
        return [(prediction, gold) for prediction, gold in pairs if prediction is not None]

    @cached_property
    def non_empty(self) -> list[tuple[str, str]]:
        return [(prediction, gold) for prediction, gold in self.completed if prediction]

    @property
    def other_modalities(self) -> list[str]:
        """The known modalities that are not X-ray, sorted."""
        known = {meta.modality for meta in self.metas if meta.modality is not None}
        return sorted(name for name in known if name.casefold() not in X_RAY_MODALITIES)

    def fill_empty(self, values: Sequence[float], empty: float = 0.0) -> list[float]:
        """Values of `completed` from those of `non_empty`."""
        remaining = iter(values)
        return [next(remaining) if prediction else empty for prediction, _ in self.completed]

    def result(
        self,
        name: str,
        values: Sequence[float],
        *,
        corpus: tuple[float | None, float | None] | None = None,
        empty: float = 0.0,
        note: str | None = None,
    ) -> MetricResult:
        """One number from its values for `completed`; `corpus` has it for all and for non-empty
        replies where it is not their mean.
        """
        remaining, scores = iter(values), []
        for prediction in self.predictions:
            if prediction is None:
                scores.append(Score(None, "error"))
                continue
            value = next(remaining)
            scores.append(Score(value) if prediction else Score(None, "empty"))
        non_empty = [score.value for score in scores if score.value is not None]
        n, n_non_empty = len(values), len(non_empty)
        mean = (
            (sum(non_empty) + empty * (n - n_non_empty)) / n if n else None,
            sum(non_empty) / n_non_empty if n_non_empty else None,
        )
        value, non_empty_value = corpus or mean
        return MetricResult(
            name,
            value,
            non_empty_value,
            n,
            n_non_empty,
            tuple(scores),
            is_mean=corpus is None,
            empty_score=empty,
            note=note,
        )


ReportMetric = Callable[[Reports], list[MetricResult]]


def unavailable(names: Sequence[str], reason: str) -> list[MetricResult]:
    """Results without a value, with the reason and what to do about it."""
    return [MetricResult(name, None, None, 0, 0, note=f"unavailable: {reason}") for name in names]


Texts = Sequence[str]
Values = Mapping[str, Sequence[float]]
# From the weights folder, the predictions and the references: values of each pair by number.
ComputeValues = Callable[[Path, Texts, Texts], Values]


@dataclass(frozen=True)
class ModelMetric:
    """A metric that needs a model.

    `names` are the numbers that it gives, `module` is what is imported and `install_command` how to
    get it. `required_files` names each file or folder inside the weights folder, with its origin
    and license.
    """

    names: tuple[str, ...]
    module: str
    install_command: str
    required_files: Mapping[str, str]
    compute: ComputeValues
    chest_x_ray_only: bool = True

    def __call__(self, reports: Reports) -> list[MetricResult]:
        values: Values = {}
        reason = self._reason_unavailable(reports)
        if reason is None and reports.weights is not None:
            predictions = [prediction for prediction, _ in reports.non_empty]
            gold = [reference for _, reference in reports.non_empty]
            try:
                values = self.compute(reports.weights, predictions, gold)
            except Exception as error:  # third-party code and weights
                reason = f"{self.module} failed: {describe_error(error)}"
            else:
                n = len(predictions)
                missing = [name for name in self.names if len(values.get(name, ())) != n]
                if missing:
                    reason = f"{self.module} gave no value for each report: {', '.join(missing)}"
        if reason is not None:
            return unavailable(self.names, reason)
        reports.values.update(values)
        return [reports.result(name, reports.fill_empty(values[name])) for name in self.names]

    def _reason_unavailable(self, reports: Reports) -> str | None:
        others = reports.other_modalities
        if self.chest_x_ray_only and others:
            return (
                f"made for reports of chest X-rays alone, and these are also of {', '.join(others)}"
            )
        weights, steps = reports.weights, []
        if importlib.util.find_spec(self.module) is None:
            steps.append(f"run: {self.install_command}")
        folder = "the folder that --metric-weights names" if weights is None else str(weights)
        steps += [
            f"put {name} ({origin}) into {folder}"
            for name, origin in self.required_files.items()
            if weights is None or not (weights / name).exists()
        ]
        return "; ".join(steps) or None
