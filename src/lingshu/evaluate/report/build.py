"""Step 3 of an evaluation: tables with intervals from scores alone, as report.json, report.md and
report.html.

A report says nothing of times or places, so the same scores always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import REPORT_HTML, REPORT_JSON, REPORT_MD
from lingshu.core.files import atomic_file, write_json, write_text
from lingshu.evaluate import compare, published
from lingshu.evaluate.controls import ControlResult, read_controls
from lingshu.evaluate.judgments import JudgeResult
from lingshu.evaluate.metrics import MetricRow
from lingshu.evaluate.report import document, judge_sections, sections
from lingshu.evaluate.report.document import BulletList
from lingshu.evaluate.report.sample_browser import Browser
from lingshu.evaluate.statistics import macro, micro
from lingshu.evaluate.store import STRICT, ScoredRun, ScoredTask, read_run
from lingshu.evaluate.summary import Row, Summary, by_facet, interval_text, percent, summarize
from lingshu.evaluate.uncontaminated import (
    DEFAULT_KINDS,
    CleanComparison,
    Overlaps,
    compare_uncontaminated,
)

__all__ = [
    "DISCLAIMER", "HEADER", "BulletList", "REPORT_HTML", "ProtocolReport", "EvaluationReport", "TaskReport", "NEEDS_JUDGE_LABEL", "as_html", "as_json",
    "as_markdown", "assemble", "build", "by_facet", "comparisons", "interval_text", "overview", "percent", "summarize",
    "task_report", "write",
]  # fmt: skip

MAX_ERROR_RATE = 0.01  # a run with a larger share of failed samples says so in its first line
DISCLAIMER = "Research only; not for clinical use."
HEADER = sections.HEADER
NEEDS_JUDGE_LABEL = sections.NEEDS_JUDGE_LABEL
overview = sections.overview
comparisons = sections.comparisons


@dataclass(frozen=True)
class ProtocolReport:
    """The same replies under another protocol: its summary, and what is known to be odd in it, a
    sentence each.
    """

    summary: Summary
    known_issues: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskReport:
    """One task: what it is, its summary, and the summaries of its groups by facet and value.

    Those are under `protocol`, the one the report leads with; `protocols` has the others by name,
    `left_out` says which scores could not be shown beside it. `metrics` are over all replies at
    once, under no protocol. `judged` is what a judge's verdicts came to, `controls` what the same
    questions came to under other conditions.
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


@dataclass(frozen=True)
class EvaluationReport:
    """One run: the model and its tasks. `macro` is the unweighted mean of accuracy over tasks,
    `micro` that over samples.

    Tasks whose scorer gives parts of a point are in neither: another measure has no common mean
    with accuracy.

    `averages` are those of the published tables that the tasks belong to. `paper` and `paired` hold
    what the run was compared with, and `clean` its scores on items that stand in no training data,
    where that was asked for.
    """

    model: str
    warning: str | None
    tasks: tuple[TaskReport, ...]
    macro: float | None
    micro: float | None
    averages: tuple[published.Average, ...] = ()
    paper: published.PublishedComparison | None = None
    paired: compare.RunComparison | None = None
    clean: CleanComparison | None = None


def build(
    run: Path,
    *,
    against: str | None = None,
    overlaps: Overlaps | None = None,
    kinds: Sequence[str] = DEFAULT_KINDS,
) -> EvaluationReport:
    """The report of a run folder, from its tasks' scores and, where it has one, its run card.

    `against` is a second run folder, `paper` for the published tables, or `paper:MODEL` for
    differences to that row. `overlaps` tell which items stand in training data; those of one of the
    `kinds` are not clean.

    Raises:
        ArtefactError: a folder holds no scores.
        InputError: there is nothing in common to compare.
    """
    scored = read_run(run)
    tasks = [
        replace(_task_report(task), controls=read_controls(run / task.name))
        for task in scored.tasks
    ]
    paper, paired = _against(scored, against)
    report = assemble(
        scored.model,
        tasks,
        averages=published.compute_averages(published.fill_columns(scored)),
        paper=paper,
        paired=paired,
    )
    return (
        report
        if overlaps is None
        else replace(report, clean=compare_uncontaminated(scored, overlaps, kinds))
    )


def _against(
    run: ScoredRun, against: str | None
) -> tuple[published.PublishedComparison | None, compare.RunComparison | None]:
    if against is None:
        return None, None
    kind, _, model = against.partition(":")
    if kind == "paper":
        return published.compare(run, model or None), None
    return None, compare.compare(run, read_run(Path(against)))


def _task_report(task: ScoredTask) -> TaskReport:
    primary_protocol, *other_protocols = task.rows
    metadata = {
        **task.metadata,
        "protocol": primary_protocol,
        "known_issues": task.known_issues(primary_protocol),
    }
    task_summary = task_report(task.name, task.rows[primary_protocol], metadata)
    protocols = {
        name: ProtocolReport(summarize(task.rows[name]), task.known_issues(name))
        for name in other_protocols
    }
    return replace(
        task_summary,
        protocols=protocols,
        excluded=task.excluded,
        metrics=task.metrics,
        judge_result=task.judge_result,
    )


def task_report(name: str, rows: Sequence[Row], metadata: Mapping[str, Any]) -> TaskReport:
    """The report of one task; `facts` are title, source, licence, revision, n, by, drops, protocol
    and quirks, as far as known.
    """
    task = ScoredTask(name, metadata, {})
    summary = summarize(rows)
    return TaskReport(
        name=name,
        summary=summary,
        facets=by_facet(rows, task.facets, method=summary.method),
        title=task.title,
        source=metadata.get("source"),
        license=metadata.get("license"),
        revision=metadata.get("revision"),
        expected=metadata.get("n"),
        drops=metadata.get("drops") or {},
        protocol=metadata.get("protocol") or STRICT,
        known_issues=tuple(metadata.get("known_issues") or ()),
    )


def assemble(
    model: str,
    tasks: Sequence[TaskReport],
    *,
    averages: Sequence[published.Average] = (),
    paper: published.PublishedComparison | None = None,
    paired: compare.RunComparison | None = None,
) -> EvaluationReport:
    """One report over several tasks."""
    errors = sum(task.summary.errors for task in tasks)
    n_samples = sum(
        sum(task.summary.statuses.values()) - task.summary.n_awaiting_judge for task in tasks
    )
    warning = None
    if errors > MAX_ERROR_RATE * n_samples:
        warning = (
            f"{errors} of {n_samples} samples ({100 * errors / n_samples:.1f}%) failed and are left out of"
            " every number below."
        )
    warning = " ".join([*([warning] if warning else []), *judge_sections.warnings(tasks)]) or None
    accuracies = [task.summary.accuracy for task in tasks if task.summary.metric == "accuracy"]
    means = macro([accuracy.value for accuracy in accuracies]), micro(accuracies)
    return EvaluationReport(model, warning, tuple(tasks), *means, tuple(averages), paper, paired)


def write(
    run: Path, report: EvaluationReport, *, against: str | None = None, samples: bool = True
) -> None:
    """Write report.json, report.md and report.html, the page with every sample of the run unless
    `samples` is False.

    `against` is what `build` was given: where it is a second run, its replies are put beside.
    """
    write_json(run / REPORT_JSON, as_json(report))
    write_text(run / REPORT_MD, as_markdown(report))
    other_run = Path(against) if against is not None and report.paired is not None else None
    browser = Browser(run, report, against=other_run) if samples else None
    with (
        atomic_file(run / REPORT_HTML) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines(
            document.iter_html(
                f"Evaluation of {report.model}",
                sections.sections(report),
                lead=DISCLAIMER,
                warning=report.warning,
                browser=browser,
            )
        )


def as_json(report: EvaluationReport) -> dict[str, Any]:
    """The report as plain values; an interval is {value, low, high, n}."""

    def to_plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return value._asdict()
        if isinstance(value, Mapping):
            return {key: to_plain(item) for key, item in value.items()}
        return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value

    return to_plain({**asdict(report)})


def as_markdown(report: EvaluationReport) -> str:
    """The report as Markdown tables."""
    return document.markdown(
        f"Evaluation of {report.model}",
        sections.sections(report),
        lead=DISCLAIMER,
        warning=report.warning,
    )


def as_html(report: EvaluationReport) -> str:
    """The tables and plots of the report as one self-contained page, without the samples."""
    return document.html(
        f"Evaluation of {report.model}",
        sections.sections(report),
        lead=DISCLAIMER,
        warning=report.warning,
    )
