"""Step 3 of an evaluation: tables with intervals from scores alone, as report.json, report.md and
report.html.

A report says nothing of times or places, so the same scores always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lingshu.core.artefacts import REPORT_HTML, REPORT_JSON, REPORT_MD
from lingshu.core.files import atomic_file, write_json, write_text
from lingshu.evaluate import _document, _judged_sections, _sections, compare, published
from lingshu.evaluate._browser import Browser
from lingshu.evaluate._document import Points
from lingshu.evaluate._judged import Judged
from lingshu.evaluate.clean import STRICTEST, CleanComparison, Overlaps, on_clean_items
from lingshu.evaluate.controls import ControlResult, read_controls
from lingshu.evaluate.measure import MetricRow
from lingshu.evaluate.scored import STRICT, ScoredRun, ScoredTask, read_run
from lingshu.evaluate.statistics import macro, micro
from lingshu.evaluate.summary import Row, Summary, by_facet, interval_text, percent, summarise

__all__ = [
    "DISCLAIMER", "HEADER", "Points", "REPORT_HTML", "ProtocolReport", "Report", "TaskReport", "UNJUDGED", "as_html", "as_json",
    "as_markdown", "assemble", "build", "by_facet", "comparisons", "interval_text", "overview", "percent", "summarise",
    "task_report", "write",
]  # fmt: skip

MOST_ERRORS = 0.01  # a run with a larger share of failed samples says so in its first line
DISCLAIMER = "Research only; not for clinical use."
HEADER = _sections.HEADER
UNJUDGED = _sections.UNJUDGED
overview = _sections.overview
comparisons = _sections.comparisons


@dataclass(frozen=True)
class ProtocolReport:
    """The same replies under another protocol: its summary, and what is known to be odd in it, a
    sentence each.
    """

    summary: Summary
    quirks: tuple[str, ...] = ()


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
    licence: str | None = None
    revision: str | None = None
    expected: int | None = None
    drops: Mapping[str, int] = field(default_factory=dict)
    protocol: str = STRICT
    quirks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    protocols: Mapping[str, ProtocolReport] = field(default_factory=dict)
    metrics: tuple[MetricRow, ...] = ()
    judged: Judged | None = None
    controls: tuple[ControlResult, ...] = ()


@dataclass(frozen=True)
class Report:
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
    paper: published.PaperComparison | None = None
    paired: compare.RunComparison | None = None
    clean: CleanComparison | None = None


def build(
    run: Path,
    *,
    against: str | None = None,
    overlaps: Overlaps | None = None,
    kinds: Sequence[str] = STRICTEST,
) -> Report:
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
    told = assemble(
        scored.model,
        tasks,
        averages=published.averages(published.columns(scored)),
        paper=paper,
        paired=paired,
    )
    return (
        told if overlaps is None else replace(told, clean=on_clean_items(scored, overlaps, kinds))
    )


def _against(
    run: ScoredRun, against: str | None
) -> tuple[published.PaperComparison | None, compare.RunComparison | None]:
    if against is None:
        return None, None
    kind, _, wanted = against.partition(":")
    if kind == "paper":
        return published.compare(run, wanted or None), None
    return None, compare.compare(run, read_run(Path(against)))


def _task_report(task: ScoredTask) -> TaskReport:
    leading, *others = task.rows
    facts = {**task.facts, "protocol": leading, "quirks": task.quirks(leading)}
    told = task_report(task.name, task.rows[leading], facts)
    protocols = {
        name: ProtocolReport(summarise(task.rows[name]), task.quirks(name)) for name in others
    }
    return replace(
        told, protocols=protocols, left_out=task.left_out, metrics=task.metrics, judged=task.judged
    )


def task_report(name: str, rows: Sequence[Row], facts: Mapping[str, Any]) -> TaskReport:
    """The report of one task; `facts` are title, source, licence, revision, n, by, drops, protocol
    and quirks, as far as known.
    """
    task = ScoredTask(name, facts, {})
    summary = summarise(rows)
    return TaskReport(
        name=name,
        summary=summary,
        facets=by_facet(rows, task.by, method=summary.method),
        title=task.title,
        source=facts.get("source"),
        licence=facts.get("licence"),
        revision=facts.get("revision"),
        expected=facts.get("n"),
        drops=facts.get("drops") or {},
        protocol=facts.get("protocol") or STRICT,
        quirks=tuple(facts.get("quirks") or ()),
    )


def assemble(
    model: str,
    tasks: Sequence[TaskReport],
    *,
    averages: Sequence[published.Average] = (),
    paper: published.PaperComparison | None = None,
    paired: compare.RunComparison | None = None,
) -> Report:
    """One report over several tasks."""
    errors = sum(task.summary.errors for task in tasks)
    asked = sum(sum(task.summary.statuses.values()) - task.summary.unjudged for task in tasks)
    warning = None
    if errors > MOST_ERRORS * asked:
        warning = (
            f"{errors} of {asked} samples ({100 * errors / asked:.1f}%) failed and are left out of"
            " every number below."
        )
    warning = " ".join([*([warning] if warning else []), *_judged_sections.warnings(tasks)]) or None
    accuracies = [task.summary.accuracy for task in tasks if task.summary.metric == "accuracy"]
    means = macro([accuracy.value for accuracy in accuracies]), micro(accuracies)
    return Report(model, warning, tuple(tasks), *means, tuple(averages), paper, paired)


def write(run: Path, report: Report, *, against: str | None = None, samples: bool = True) -> None:
    """Write report.json, report.md and report.html, the page with every sample of the run unless
    `samples` is False.

    `against` is what `build` was given: where it is a second run, its replies are put beside.
    """
    write_json(run / REPORT_JSON, as_json(report))
    write_text(run / REPORT_MD, as_markdown(report))
    other = Path(against) if against is not None and report.paired is not None else None
    browser = Browser(run, report, against=other) if samples else None
    with (
        atomic_file(run / REPORT_HTML) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines(
            _document.html_pieces(
                f"Evaluation of {report.model}",
                _sections.sections(report),
                lead=DISCLAIMER,
                warning=report.warning,
                browser=browser,
            )
        )


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values; an interval is {value, low, high, n}."""

    def told(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return value._asdict()
        if isinstance(value, Mapping):
            return {key: told(item) for key, item in value.items()}
        return [told(item) for item in value] if isinstance(value, list | tuple) else value

    return told({**asdict(report)})


def as_markdown(report: Report) -> str:
    """The report as Markdown tables."""
    return _document.markdown(
        f"Evaluation of {report.model}",
        _sections.sections(report),
        lead=DISCLAIMER,
        warning=report.warning,
    )


def as_html(report: Report) -> str:
    """The tables and plots of the report as one self-contained page, without the samples."""
    return _document.html(
        f"Evaluation of {report.model}",
        _sections.sections(report),
        lead=DISCLAIMER,
        warning=report.warning,
    )
