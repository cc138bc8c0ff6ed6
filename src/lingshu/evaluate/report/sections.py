"""A report as sections of text, tables and plots: the overview, and each task with its groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lingshu.evaluate.report import judge_sections
from lingshu.evaluate.report.comparison_sections import paired_section, published_sections
from lingshu.evaluate.report.control_sections import controls_section
from lingshu.evaluate.report.document import (
    BulletList,
    Heading,
    Paragraph,
    Plot,
    Section,
    SectionPart,
    Table,
)
from lingshu.evaluate.report.html import Bar
from lingshu.evaluate.report.uncontaminated_sections import clean_section
from lingshu.evaluate.statistics import macro, micro
from lingshu.evaluate.summary import METHODS, MetricName, Summary, interval_text, percent

if TYPE_CHECKING:
    from lingshu.evaluate.report.build import EvaluationReport, TaskReport

HEADER = ("", "n", "right", "accuracy", "95% interval", "right / read", "unread", "errors")
AXIS = "accuracy (%) with 95% interval"
PLOT_GROUP_RANGE = (2, 30)  # values of a facet that make a plot
UNKNOWN = "unknown"  # where the rows stand that do not know a facet (summary.by_facet)
UNPARSED_STATUSES = ("unparsed", "refused", "empty", "multiple")
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
NEEDS_JUDGE_LABEL = "needs a judge: not scored"


def sections(report: EvaluationReport) -> list[Section]:
    """Everything that a report says, in its order."""
    tasks = [Section(task.title, _task(task)) for task in report.tasks]
    return [Section("Overview", _overview(report)), *comparisons(report), *tasks]


def comparisons(report: EvaluationReport) -> list[Section]:
    """What a report sets the run beside, as far as it was asked to: controls, clean items, the
    published tables, another run.
    """
    task_controls = [(task.title, task.controls) for task in report.tasks if task.controls]
    sections = [controls_section(task_controls)] if task_controls else []
    sections += [] if report.clean is None else [clean_section(report.clean)]
    sections += [] if report.paper is None else published_sections(report.paper)
    return sections if report.paired is None else [*sections, paired_section(report.paired)]


def table_row(name: str, summary: Summary) -> list[str]:
    """One line of a table: name, n, right, accuracy, its interval, right of those read, unread and
    failed.
    """
    correct = (
        f"{summary.correct:.2f}" if isinstance(summary.correct, float) else str(summary.correct)
    )
    if summary.is_awaiting_judge:
        return [
            f"{name} ({NEEDS_JUDGE_LABEL}, {summary.n_awaiting_judge} kept)",
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
        correct,
        percent(summary.accuracy.value),
        interval_text(summary.accuracy),
        percent(summary.parsed_accuracy.value),
        str(sum(summary.statuses[status] for status in UNPARSED_STATUSES)),
        str(summary.errors),
    ]


def overview(report: EvaluationReport) -> list[list[str]]:
    """The rows of the table over all tasks, with the means where there are several of one measure."""
    rows = [table_row(task.title, task.summary) for task in report.tasks]
    accuracies, scores = (
        [task.summary.accuracy for task in _tasks_by_metric(report.tasks, metric)]
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


def _tasks_by_metric(tasks: Sequence[TaskReport], metric: MetricName) -> list[TaskReport]:
    return [
        task
        for task in tasks
        if task.summary.metric == metric and not task.summary.is_awaiting_judge
    ]


def _overview(report: EvaluationReport) -> list[SectionPart]:
    bars = [
        Bar(task.title, *task.summary.accuracy[:3], note=f"n = {task.summary.n}")
        for task in report.tasks
        if not task.summary.is_awaiting_judge
    ]
    caption = f"{_by_task('Protocol', [(task.title, task.protocol) for task in report.tasks])} "
    caption += _intervals(report.tasks)
    scores = _tasks_by_metric(report.tasks, "mean score")
    if scores:
        caption += (
            " Not accuracy but the mean of scores between 0 and 1:"
            f" {', '.join(task.title for task in scores)}."
        )
    parts: list[SectionPart] = [
        Plot(bars, AXIS),
        Table(HEADER, overview(report), caption),
        Paragraph(NOTE),
    ]
    if report.averages:
        rows = [
            [
                f"{average.table}, {average.protocol}",
                f"{len(average.columns)} of {average.n_columns}",
                percent(average.macro),
                percent(average.micro),
            ]
            for average in report.averages
        ]
        averages_caption = (
            "Macro: the unweighted mean of all columns of the published table, one decimal, once"
            " all are there. Micro: over all items."
        )
        parts += [
            Heading("Averages as published"),
            Table(("table, protocol", "columns", "macro", "micro"), rows, averages_caption),
        ]
    return parts + judge_sections.overview(report.tasks) + _protocols(report.tasks)


def _protocols(tasks: Sequence[TaskReport]) -> list[SectionPart]:
    """The protocols side by side, where there are several, and what is odd in each."""
    by_task = [
        {
            task.protocol: task.summary,
            **{name: report.summary for name, report in task.protocols.items()},
        }
        for task in tasks
    ]
    names = list(dict.fromkeys(name for summaries in by_task for name in summaries))
    known_issues: dict[str, list[str]] = {}
    for task in tasks:
        for name, sentences in (
            (task.protocol, task.known_issues),
            *((name, report.known_issues) for name, report in task.protocols.items()),
        ):
            known_issues.setdefault(name, []).extend(sentences)
    parts: list[SectionPart] = []
    if len(names) > 1:
        rows = [
            [task.title, *(_accuracy_cell(summaries.get(name)) for name in names)]
            for task, summaries in zip(tasks, by_task, strict=True)
        ]
        parts += [
            Heading("Protocols side by side"),
            Table(
                ("", *names), rows, f"The same replies, accuracy in percent. {_intervals(tasks)}"
            ),
        ]
    for name, sentences in known_issues.items():
        if sentences:
            parts += [
                Heading(f"What the protocol {name} is known to do"),
                BulletList(list(dict.fromkeys(sentences))),
            ]
    return parts


def _accuracy_cell(summary: Summary | None) -> str:
    if summary is None or summary.is_awaiting_judge:
        return "–"
    n_unparsed = sum(summary.statuses[status] for status in UNPARSED_STATUSES)
    return f"{percent(summary.accuracy.value)} ({interval_text(summary.accuracy)}), unread {n_unparsed}"


def _intervals(tasks: Sequence[TaskReport]) -> str:
    caption = _by_task("Intervals", [(task.title, METHODS[task.summary.method]) for task in tasks])
    grouped = [task for task in tasks if task.summary.method == "clustered bootstrap"]
    return (
        f"{caption} Groups: {', '.join(f'{task.title} {task.summary.groups}' for task in grouped)}."
        if grouped
        else caption
    )


def _by_task(label: str, labeled_tasks: Iterable[tuple[str, str]]) -> str:
    """`Label: value.` where all tasks agree, else each value with its tasks."""
    tasks: dict[str, list[str]] = {}
    for title, value in labeled_tasks:
        tasks.setdefault(value, []).append(title)
    if len(tasks) == 1:
        return f"{label}: {next(iter(tasks))}."
    return (
        f"{label}: "
        + "; ".join(f"{value}: {', '.join(titles)}" for value, titles in tasks.items())
        + "."
    )


def _task(task: TaskReport) -> list[SectionPart]:
    parts: list[SectionPart] = [Paragraph(f"Replies by status: {status_line(task.summary)}.")]
    metadata = metadata_line(task)
    parts += [Paragraph(f"{metadata}.")] if metadata else []
    parts += [BulletList(task.excluded)] if task.excluded else []
    parts += _metrics(task)
    parts += judge_sections.details(task.judge_result)
    for facet, groups in task.facets.items():
        parts += _facet(
            facet,
            groups,
            f"Protocol: {task.protocol}. Intervals: {METHODS[task.summary.method]}.",
            task.summary,
        )
    return parts


def _metrics(task: TaskReport) -> list[SectionPart]:
    """What the metrics of a task say, and which of them could not be had."""
    rows = [
        [
            row.name,
            _format_number(row.value),
            "–" if row.low is None or row.high is None else f"{row.low:.4f} to {row.high:.4f}",
            str(row.n),
            _format_number(row.non_empty_value),
            str(row.n_non_empty),
            row.note or "",
        ]
        for row in task.metrics
        if row.value is not None
    ]
    missing = [
        f"{row.name}: {row.note or 'no reply to measure'}"
        for row in task.metrics
        if row.value is None
    ]
    parts: list[SectionPart] = [Heading("Metrics of the reports")] if task.metrics else []
    return (
        parts
        + ([Table(METRIC_HEADER, rows, METRIC_NOTE)] if rows else [])
        + ([BulletList(missing)] if missing else [])
    )


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _facet(
    facet: str, groups: Mapping[str, Summary], caption: str, total: Summary
) -> list[SectionPart]:
    bars = [
        Bar(value, *summary.accuracy[:3], note=f"n = {summary.n}")
        for value, summary in groups.items()
    ]
    rows = [table_row(value, summary) for value, summary in groups.items()]
    accuracies = [
        summary.accuracy.value
        for value, summary in groups.items()
        if value != UNKNOWN and summary.accuracy.value is not None
    ]
    if len(accuracies) > 1:
        # PSV2026 averages over items; other benchmarks over their groups. Both are told, so that
        # nobody takes one for the other.
        caption += (
            f" Over items (micro) {percent(total.accuracy.value)}, mean of the {len(accuracies)} values"
            f" (macro) {percent(macro(accuracies))}."
        )
    table = Table((facet, *HEADER[1:]), rows, caption)
    # One value has nothing to be compared with, and hundreds of them are no picture.
    if not PLOT_GROUP_RANGE[0] <= len(bars) <= PLOT_GROUP_RANGE[1]:
        return [Heading(f"By {facet}"), table]
    return [
        Heading(f"By {facet}"),
        Plot(bars, f"{AXIS}; dashed: all {total.n}", reference=total.accuracy.value),
        table,
    ]


def status_line(summary: Summary) -> str:
    """Every status with its count, and what was cut at its length limit."""
    parts = [
        f"{status} {count}"
        for status, count in {**summary.statuses, "error": summary.errors}.items()
    ]
    parts += [f"{NEEDS_JUDGE_LABEL} {summary.n_awaiting_judge}"] if summary.n_awaiting_judge else []
    return ", ".join([*parts, f"cut at max_tokens {summary.truncated}"])


def metadata_line(task: TaskReport) -> str:
    """Where a task's questions come from, and which of them are missing."""
    parts = [
        f"source: {task.source}" if task.source else "",
        f"revision: {task.revision}" if task.revision else "",
        f"licence: {task.license}" if task.license else "",
        f"{task.expected} samples stated by the source" if task.expected is not None else "",
        (
            "dropped: " + ", ".join(f"{reason} {count}" for reason, count in task.drops.items())
            if task.drops
            else ""
        ),
    ]
    return "; ".join(part for part in parts if part)
