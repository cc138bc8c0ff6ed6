"""What a report holds; the templates show it, and report.json is its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lingshu.core.stats import Interval
from lingshu.evaluate.calibration import Calibration
from lingshu.evaluate.compare import RunComparison
from lingshu.evaluate.controls import ControlResult
from lingshu.evaluate.judgments import JudgeResult
from lingshu.evaluate.metrics import MetricRow
from lingshu.evaluate.published import Average, PublishedComparison
from lingshu.evaluate.statistics import macro, micro
from lingshu.evaluate.store import STRICT
from lingshu.evaluate.summary import MetricName, Summary
from lingshu.evaluate.uncontaminated import CleanComparison


@dataclass(frozen=True)
class ProtocolReport:
    """The same replies under another protocol, and its known issues, a sentence each."""

    summary: Summary
    known_issues: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskReport:
    """One task: what it is, its summary, and the summaries of its groups by facet and value.

    Those are under `protocol`, the leading one; `protocols` has the others by name, and `excluded`
    names the scores that could not be shown with them. `metrics` are over all replies at once,
    under no protocol. `calibration` is None where no reply has a confidence.
    """

    name: str
    summary: Summary
    facets: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    title: str = ""
    source: str | None = None
    license: str | None = None
    revision: str | None = None
    expected: int | None = None
    drops: Mapping[str, int] = field(default_factory=dict)
    protocol: str = STRICT
    known_issues: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    protocols: Mapping[str, ProtocolReport] = field(default_factory=dict)
    metrics: tuple[MetricRow, ...] = ()
    judge_result: JudgeResult | None = None
    controls: tuple[ControlResult, ...] = ()
    calibration: Calibration | None = None

    @property
    def all_protocols(self) -> dict[str, ProtocolReport]:
        """Every protocol, the leading one first."""
        return {self.protocol: ProtocolReport(self.summary, self.known_issues), **self.protocols}

    @property
    def n_rows(self) -> int:
        return sum(self.summary.statuses.values())


@dataclass(frozen=True)
class EvaluationReport:
    """One run: the model and its tasks. `macro` is the unweighted mean of accuracy over tasks,
    `micro` that over samples; tasks whose scorer gives parts of a point are in neither.

    `averages` are those of the published tables that the tasks belong to. `paper` and `paired` hold
    what the run was compared with, and `clean` its scores on items without an overlap with training
    data, each None if not requested.
    """

    model: str
    warning: str | None
    tasks: tuple[TaskReport, ...]
    macro: float | None
    micro: float | None
    averages: tuple[Average, ...] = ()
    paper: PublishedComparison | None = None
    paired: RunComparison | None = None
    clean: CleanComparison | None = None

    @property
    def means(self) -> list[tuple[str, float | None]]:
        """The means over tasks, for each measure that several tasks share."""
        means: list[tuple[str, float | None]] = []
        if len(self._accuracies("accuracy")) > 1:
            names = ("mean over tasks (macro)", "mean over samples (micro)")
            means = list(zip(names, (self.macro, self.micro), strict=True))
        if len(scores := self._accuracies("mean score")) > 1:
            means += [
                ("mean score over tasks (macro)", macro([score.value for score in scores])),
                ("mean score over samples (micro)", micro(scores)),
            ]
        return means

    def _accuracies(self, metric: MetricName) -> list[Interval]:
        summaries = [task.summary for task in self.tasks]
        return [
            summary.accuracy
            for summary in summaries
            if summary.metric == metric and not summary.is_awaiting_judge
        ]

    @property
    def protocol_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.all_protocols))

    @property
    def known_issues(self) -> dict[str, list[str]]:
        """The known issues of all protocols that have some, each sentence once."""
        issues: dict[str, dict[str, None]] = {}
        for task in self.tasks:
            for name, protocol in task.all_protocols.items():
                issues.setdefault(name, {}).update(dict.fromkeys(protocol.known_issues))
        return {name: list(sentences) for name, sentences in issues.items() if sentences}

    def as_json(self) -> dict[str, Any]:
        """The report as plain values; an interval is {value, low, high, n}."""

        def to_plain(value: Any) -> Any:
            if hasattr(value, "_asdict"):
                return value._asdict()
            if isinstance(value, Mapping):
                return {key: to_plain(item) for key, item in value.items()}
            return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value

        return to_plain(asdict(self))
