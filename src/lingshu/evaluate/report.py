"""Step 3 of an evaluation: tables with intervals from scores alone, as report.json, report.md and report.html.

A report says nothing of times or places, so the same scores always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lingshu.core.artefacts import REPORT_HTML, REPORT_JSON, REPORT_MD, SCORES, read_scores
from lingshu.core.errors import ArtefactError
from lingshu.core.files import read_json, write_json, write_text
from lingshu.core.nouns import STATUSES
from lingshu.core.runcard import RUN_CARD
from lingshu.evaluate import page
from lingshu.evaluate.statistics import Interval, bootstrap_mean, macro, micro, wilson

MOST_ERRORS = 0.01  # a run with a larger share of failed samples says so in its first line
DEFAULT_BY = ("kind", "lang", "language")
DISCLAIMER = "Research only; not for clinical use."


@dataclass(frozen=True)
class Summary:
    """The result over some scores. `n` counts all asked except errors; `accuracy` counts an unread reply as not right.

    `right` is the number of right replies, or the sum of the values of a scorer that gives parts of a point.
    """

    n: int
    right: float
    accuracy: Interval
    read: Interval
    statuses: Mapping[str, int]
    truncated: int = 0


@dataclass(frozen=True)
class TaskReport:
    """One task: what it is, its summary, and the summaries of its groups by facet and value."""

    name: str
    summary: Summary
    facets: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    title: str = ""
    source: str | None = None
    licence: str | None = None
    revision: str | None = None
    expected: int | None = None
    drops: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """One run: the model and its tasks. `macro` is the unweighted mean over tasks, `micro` the mean over samples."""

    model: str
    warning: str | None
    tasks: tuple[TaskReport, ...]
    macro: float | None
    micro: float | None


def summarise(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """The summary of scores rows: Wilson intervals for right or wrong, bootstrapped by `group` for values between."""
    statuses = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
    counted = [row for row in rows if row["status"] != "error"]
    read = [row for row in counted if row["value"] is not None]
    return Summary(
        n=len(counted),
        right=_whole(sum(row["value"] for row in read)),
        accuracy=_interval(counted),
        read=_interval(read),
        statuses=statuses,
        truncated=sum(bool(row.get("truncated")) for row in counted),
    )


def _interval(rows: Sequence[Mapping[str, Any]]) -> Interval:
    values = [0.0 if row["value"] is None else float(row["value"]) for row in rows]
    if all(value in (0.0, 1.0) for value in values):
        return wilson(int(sum(values)), len(values))
    groups: list[Hashable] = [row["id"] if row.get("group") is None else ("group", row["group"]) for row in rows]
    return bootstrap_mean(values, groups)


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def by_facet(rows: Sequence[Mapping[str, Any]], facets: Sequence[str]) -> dict[str, dict[str, Summary]]:
    """Summaries by the value of each facet, in sorted order; rows that do not know a facet stand under "unknown"."""
    found: dict[str, dict[str, Summary]] = {}
    for facet in facets:
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            value = row.get(facet)
            groups.setdefault("unknown" if value is None else str(value), []).append(row)
        if set(groups) - {"unknown"}:
            found[facet] = {value: summarise(groups[value]) for value in sorted(groups)}
    return found


def build(run: Path) -> Report:
    """The report of a run folder, from its tasks' scores and, where it has one, its run card.

    Raises:
        ArtefactError: the folder holds no scores.
    """
    card = read_json(run / RUN_CARD) if (run / RUN_CARD).is_file() else {}
    notes = card.get("notes", {})
    facts: Mapping[str, Mapping[str, Any]] = notes.get("tasks", {})
    scores = {path.parent.name: path for path in sorted(run.glob(f"*/{SCORES}"))}
    # A run folder that is used again reports the tasks of its last command, in their order.
    names = [name for name in facts if name in scores] or sorted(scores)
    if not names:
        raise ArtefactError(f"{run} holds no scores (TASK/{SCORES}); make them with `lingshu eval`.")
    tasks = tuple(task_report(name, read_scores(scores[name]), facts.get(name, {})) for name in names)
    return assemble(str(notes.get("model", run.name)), tasks)


def task_report(name: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> TaskReport:
    """The report of one task; `facts` are title, source, licence, revision, n, by and drops, as far as known."""
    return TaskReport(
        name=name,
        summary=summarise(rows),
        facets=by_facet(rows, facts.get("by") or DEFAULT_BY),
        title=facts.get("title") or name,
        source=facts.get("source"),
        licence=facts.get("licence"),
        revision=facts.get("revision"),
        expected=facts.get("n"),
        drops=facts.get("drops") or {},
    )


def assemble(model: str, tasks: Sequence[TaskReport]) -> Report:
    """One report over several tasks."""
    errors = sum(task.summary.statuses["error"] for task in tasks)
    asked = sum(sum(task.summary.statuses.values()) for task in tasks)
    warning = None
    if errors > MOST_ERRORS * asked:
        warning = f"{errors} of {asked} samples ({100 * errors / asked:.1f}%) failed and are left out of every number below."
    accuracies = [task.summary.accuracy for task in tasks]
    return Report(model, warning, tuple(tasks), macro([accuracy.value for accuracy in accuracies]), micro(accuracies))


def write(run: Path, report: Report) -> None:
    """Write report.json, report.md and report.html."""
    write_json(run / REPORT_JSON, as_json(report))
    write_text(run / REPORT_MD, as_markdown(report))
    write_text(run / REPORT_HTML, as_html(report))


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values; an interval is {value, low, high, n}."""

    def told(value: Any) -> Any:
        if isinstance(value, Interval):
            return value._asdict()
        if isinstance(value, Mapping):
            return {key: told(item) for key, item in value.items()}
        return [told(item) for item in value] if isinstance(value, list | tuple) else value

    return told({**asdict(report)})


# --- tables ------------------------------------------------------------------------------------------------------

HEADER = ("", "n", "right", "accuracy", "95% interval", "right / read", "unread", "errors")


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, a dash where it is not known."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval_text(interval: Interval) -> str:
    return "–" if interval.low is None else f"{percent(interval.low)} to {percent(interval.high)}"


def table_row(name: str, summary: Summary) -> list[str]:
    """One line of a table: name, n, right, accuracy, its interval, right of those read, unread and failed."""
    unread = sum(summary.statuses[status] for status in ("unparsed", "refused", "empty", "multiple"))
    right = f"{summary.right:.2f}" if isinstance(summary.right, float) else str(summary.right)
    return [
        name,
        str(summary.n),
        right,
        percent(summary.accuracy.value),
        interval_text(summary.accuracy),
        percent(summary.read.value),
        str(unread),
        str(summary.statuses["error"]),
    ]


def status_line(summary: Summary) -> str:
    """Every status with its count, and what was cut at its length limit."""
    told = [f"{status} {count}" for status, count in summary.statuses.items()]
    return ", ".join([*told, f"cut at max_tokens {summary.truncated}"])


def facts_line(task: TaskReport) -> str:
    """Where a task's questions come from, and which of them are missing."""
    told = [
        f"source: {task.source}" if task.source else "",
        f"revision: {task.revision}" if task.revision else "",
        f"licence: {task.licence}" if task.licence else "",
        f"{task.expected} samples stated by the source" if task.expected is not None else "",
        "dropped: " + ", ".join(f"{reason} {count}" for reason, count in task.drops.items()) if task.drops else "",
    ]
    return "; ".join(part for part in told if part)


def overview(report: Report) -> list[list[str]]:
    """The rows of the table over all tasks, with the means where there are several."""
    rows = [table_row(task.title, task.summary) for task in report.tasks]
    if len(report.tasks) > 1:
        for name, value in (("mean over tasks (macro)", report.macro), ("mean over samples (micro)", report.micro)):
            rows.append([name, "", "", percent(value), "", "", "", ""])
    return rows


def as_markdown(report: Report) -> str:
    """The report as Markdown tables."""
    lines = [f"**{report.warning}**\n"] if report.warning else []
    lines += [f"# Evaluation of {_cell(report.model)}\n", f"{DISCLAIMER} {NOTE}\n", _markdown_table(HEADER, overview(report))]
    for task in report.tasks:
        lines += [f"## {_cell(task.title)}\n", f"Replies by status: {status_line(task.summary)}.\n"]
        facts = facts_line(task)
        lines += [f"{_cell(facts)}.\n"] if facts else []
        for facet, groups in task.facets.items():
            rows = [table_row(value, summary) for value, summary in groups.items()]
            lines.append(_markdown_table((facet, *HEADER[1:]), rows))
    return "\n".join(lines)


NOTE = (
    "Accuracy = right / all asked, in percent; a reply that could not be read counts as not right. Samples that failed (errors) "
    "are left out. Intervals: Wilson 95%, where a score is right or wrong; bootstrapped by group otherwise."
)


def _cell(text: str) -> str:
    # Headings and cells may hold text from data: no line breaks, no column marks, no HTML.
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_cell, header)) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_html(report: Report) -> str:
    """The report as one self-contained page."""
    sections = [page.notice(report.warning)] if report.warning else []
    bars = [page.Bar(task.title, *task.summary.accuracy[:3], note=f"n = {task.summary.n}") for task in report.tasks]
    sections.append(page.section("Overview", page.interval_plot(bars), page.table(HEADER, overview(report)), page.paragraph(NOTE)))
    for task in report.tasks:
        parts = [page.paragraph(f"Replies by status: {status_line(task.summary)}.")]
        facts = facts_line(task)
        parts += [page.paragraph(f"{facts}.")] if facts else []
        for facet, groups in task.facets.items():
            bars = [page.Bar(value, *summary.accuracy[:3], note=f"n = {summary.n}") for value, summary in groups.items()]
            rows = [table_row(value, summary) for value, summary in groups.items()]
            parts += [page.subtitle(f"By {facet}"), page.interval_plot(bars), page.table((facet, *HEADER[1:]), rows)]
        sections.append(page.section(task.title, *parts))
    return page.page(f"Evaluation of {report.model}", sections, lead=DISCLAIMER)
