"""A report as sections of text, tables and plots: the overview, and each task with its groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lingshu.evaluate import _judged_sections
from lingshu.evaluate._clean_sections import clean_section
from lingshu.evaluate._compared import paired_section, paper_sections
from lingshu.evaluate._control_sections import controls_section
from lingshu.evaluate._document import Part, Plot, Points, Section, Subtitle, Table, Text
from lingshu.evaluate.page import Bar
from lingshu.evaluate.statistics import macro, micro
from lingshu.evaluate.summary import METHODS, Metric, Summary, interval_text, percent

if TYPE_CHECKING:
    from lingshu.evaluate.report import Report, TaskReport

HEADER = ("", "n", "right", "accuracy", "95% interval", "right / read", "unread", "errors")
AXIS = "accuracy (%) with 95% interval"
PLOTTED = (2, 30)  # values of a facet that make a plot
UNKNOWN = "unknown"  # where the rows stand that do not know a facet (summary.by_facet)
UNREAD = ("unparsed", "refused", "empty", "multiple")
NOTE = (
    "Accuracy = right / all asked, in percent; a reply that could not be read (unparsed, refused,"
    " empty or multiple) counts as not right. Samples that failed (errors) are left out. Where"
    " items share a group (a patient, a study or an image), whole groups are drawn for the"
    " interval; where the groups do not differ, it is Wilson's with as many items as groups."
)
METRIC_HEADER = ("metric", "value", "95% interval", "n", "non-empty only", "n non-empty", "")
METRIC_NOTE = (
    "Each in its own range. An empty reply counts as 0 in the value (as the worst where less is"
    " better) and is left out beside it; failed replies are in neither. Intervals are drawn over"
    " whole groups, and there is none for values that are no mean over replies, such as BLEU of a"
    " corpus."
)
UNJUDGED = "needs a judge: not scored"


def sections(report: Report) -> list[Section]:
    """Everything that a report says, in its order."""
    tasks = [Section(task.title, _task(task)) for task in report.tasks]
    return [Section("Overview", _overview(report)), *comparisons(report), *tasks]


def comparisons(report: Report) -> list[Section]:
    """What a report sets the run beside, as far as it was asked to: controls, clean items, the
    published tables, another run.
    """
    controlled = [(task.title, task.controls) for task in report.tasks if task.controls]
    found = [controls_section(controlled)] if controlled else []
    found += [] if report.clean is None else [clean_section(report.clean)]
    found += [] if report.paper is None else paper_sections(report.paper)
    return found if report.paired is None else [*found, paired_section(report.paired)]


def table_row(name: str, summary: Summary) -> list[str]:
    """One line of a table: name, n, right, accuracy, its interval, right of those read, unread and
    failed.
    """
    right = f"{summary.right:.2f}" if isinstance(summary.right, float) else str(summary.right)
    if summary.waits:
        return [
            f"{name} ({UNJUDGED}, {summary.unjudged} kept)",
            "–",
            "–",
            "–",
            "–",
            "–",
            "–",
            str(summary.errors),
        ]
    return [
        name,
        str(summary.n),
        right,
        percent(summary.accuracy.value),
        interval_text(summary.accuracy),
        percent(summary.read.value),
        str(sum(summary.statuses[status] for status in UNREAD)),
        str(summary.errors),
    ]


def overview(report: Report) -> list[list[str]]:
    """The rows of the table over all tasks, with the means where there are several of one measure."""
    rows = [table_row(task.title, task.summary) for task in report.tasks]
    accuracies, scores = (
        [task.summary.accuracy for task in _told_by(report.tasks, metric)]
        for metric in ("accuracy", "mean score")
    )
    means = (
        [("mean over tasks (macro)", report.macro), ("mean over samples (micro)", report.micro)]
        if len(accuracies) > 1
        else []
    )
    if len(scores) > 1:
        means += [
            ("mean score over tasks (macro)", macro([score.value for score in scores])),
            ("mean score over samples (micro)", micro(scores)),
        ]
    return rows + [[name, "", "", percent(value), "", "", "", ""] for name, value in means]


def _told_by(tasks: Sequence[TaskReport], metric: Metric) -> list[TaskReport]:
    return [task for task in tasks if task.summary.metric == metric and not task.summary.waits]


def _overview(report: Report) -> list[Part]:
    bars = [
        Bar(task.title, *task.summary.accuracy[:3], note=f"n = {task.summary.n}")
        for task in report.tasks
        if not task.summary.waits
    ]
    said = f"{_by_task('Protocol', [(task.title, task.protocol) for task in report.tasks])} "
    said += _intervals(report.tasks)
    scores = _told_by(report.tasks, "mean score")
    if scores:
        said += (
            " Not accuracy but the mean of scores between 0 and 1:"
            f" {', '.join(task.title for task in scores)}."
        )
    parts: list[Part] = [Plot(bars, AXIS), Table(HEADER, overview(report), said), Text(NOTE)]
    if report.averages:
        rows = [
            [
                f"{one.table}, {one.protocol}",
                f"{len(one.columns)} of {one.of}",
                percent(one.macro),
                percent(one.micro),
            ]
            for one in report.averages
        ]
        told = (
            "Macro: the unweighted mean of all columns of the published table, one decimal, once"
            " all are there. Micro: over all items."
        )
        parts += [
            Subtitle("Averages as published"),
            Table(("table, protocol", "columns", "macro", "micro"), rows, told),
        ]
    return parts + _judged_sections.overview(report.tasks) + _protocols(report.tasks)


def _protocols(tasks: Sequence[TaskReport]) -> list[Part]:
    """The protocols side by side, where there are several, and what is odd in each."""
    by_task = [
        {task.protocol: task.summary, **{name: one.summary for name, one in task.protocols.items()}}
        for task in tasks
    ]
    names = list(dict.fromkeys(name for found in by_task for name in found))
    quirks: dict[str, list[str]] = {}
    for task in tasks:
        for name, sentences in (
            (task.protocol, task.quirks),
            *((name, one.quirks) for name, one in task.protocols.items()),
        ):
            quirks.setdefault(name, []).extend(sentences)
    parts: list[Part] = []
    if len(names) > 1:
        rows = [
            [task.title, *(_told(found.get(name)) for name in names)]
            for task, found in zip(tasks, by_task, strict=True)
        ]
        parts += [
            Subtitle("Protocols side by side"),
            Table(
                ("", *names), rows, f"The same replies, accuracy in percent. {_intervals(tasks)}"
            ),
        ]
    for name, sentences in quirks.items():
        if sentences:
            parts += [
                Subtitle(f"What the protocol {name} is known to do"),
                Points(list(dict.fromkeys(sentences))),
            ]
    return parts


def _told(summary: Summary | None) -> str:
    if summary is None or summary.waits:
        return "–"
    unread = sum(summary.statuses[status] for status in UNREAD)
    return f"{percent(summary.accuracy.value)} ({interval_text(summary.accuracy)}), unread {unread}"


def _intervals(tasks: Sequence[TaskReport]) -> str:
    said = _by_task("Intervals", [(task.title, METHODS[task.summary.method]) for task in tasks])
    grouped = [task for task in tasks if task.summary.method == "clustered bootstrap"]
    return (
        f"{said} Groups: {', '.join(f'{task.title} {task.summary.groups}' for task in grouped)}."
        if grouped
        else said
    )


def _by_task(label: str, said: Iterable[tuple[str, str]]) -> str:
    """`Label: value.` where all tasks agree, else each value with its tasks."""
    tasks: dict[str, list[str]] = {}
    for title, value in said:
        tasks.setdefault(value, []).append(title)
    if len(tasks) == 1:
        return f"{label}: {next(iter(tasks))}."
    return (
        f"{label}: "
        + "; ".join(f"{value}: {', '.join(titles)}" for value, titles in tasks.items())
        + "."
    )


def _task(task: TaskReport) -> list[Part]:
    parts: list[Part] = [Text(f"Replies by status: {status_line(task.summary)}.")]
    facts = facts_line(task)
    parts += [Text(f"{facts}.")] if facts else []
    parts += [Points(task.left_out)] if task.left_out else []
    parts += _metrics(task)
    parts += _judged_sections.details(task.judged)
    for facet, groups in task.facets.items():
        parts += _facet(
            facet,
            groups,
            f"Protocol: {task.protocol}. Intervals: {METHODS[task.summary.method]}.",
            task.summary,
        )
    return parts


def _metrics(task: TaskReport) -> list[Part]:
    """What the metrics of a task say, and which of them could not be had."""
    rows = [
        [
            one.name,
            _number(one.value),
            "–" if one.low is None or one.high is None else f"{one.low:.4f} to {one.high:.4f}",
            str(one.n),
            _number(one.said),
            str(one.n_said),
            one.note or "",
        ]
        for one in task.metrics
        if one.value is not None
    ]
    missing = [
        f"{one.name}: {one.note or 'no reply to measure'}"
        for one in task.metrics
        if one.value is None
    ]
    parts: list[Part] = [Subtitle("Metrics of the reports")] if task.metrics else []
    return (
        parts
        + ([Table(METRIC_HEADER, rows, METRIC_NOTE)] if rows else [])
        + ([Points(missing)] if missing else [])
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _facet(facet: str, groups: Mapping[str, Summary], said: str, whole: Summary) -> list[Part]:
    bars = [
        Bar(value, *summary.accuracy[:3], note=f"n = {summary.n}")
        for value, summary in groups.items()
    ]
    rows = [table_row(value, summary) for value, summary in groups.items()]
    known = [
        summary.accuracy.value
        for value, summary in groups.items()
        if value != UNKNOWN and summary.accuracy.value is not None
    ]
    if len(known) > 1:
        # PSV2026 averages over items; other benchmarks over their groups. Both are told, so that
        # nobody takes one for the other.
        said += (
            f" Over items (micro) {percent(whole.accuracy.value)}, mean of the {len(known)} values"
            f" (macro) {percent(macro(known))}."
        )
    table = Table((facet, *HEADER[1:]), rows, said)
    # One value has nothing to be compared with, and hundreds of them are no picture.
    if not PLOTTED[0] <= len(bars) <= PLOTTED[1]:
        return [Subtitle(f"By {facet}"), table]
    return [
        Subtitle(f"By {facet}"),
        Plot(bars, f"{AXIS}; dashed: all {whole.n}", reference=whole.accuracy.value),
        table,
    ]


def status_line(summary: Summary) -> str:
    """Every status with its count, and what was cut at its length limit."""
    told = [
        f"{status} {count}"
        for status, count in {**summary.statuses, "error": summary.errors}.items()
    ]
    told += [f"{UNJUDGED} {summary.unjudged}"] if summary.unjudged else []
    return ", ".join([*told, f"cut at max_tokens {summary.truncated}"])


def facts_line(task: TaskReport) -> str:
    """Where a task's questions come from, and which of them are missing."""
    told = [
        f"source: {task.source}" if task.source else "",
        f"revision: {task.revision}" if task.revision else "",
        f"licence: {task.licence}" if task.licence else "",
        f"{task.expected} samples stated by the source" if task.expected is not None else "",
        (
            "dropped: " + ", ".join(f"{reason} {count}" for reason, count in task.drops.items())
            if task.drops
            else ""
        ),
    ]
    return "; ".join(part for part in told if part)
