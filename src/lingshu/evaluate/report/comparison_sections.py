"""The sections of a report that set a run beside the published tables or beside another run."""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.evaluate.compare import RunComparison, TaskComparison
from lingshu.evaluate.published import (
    AVERAGE,
    JUDGED_POINTS,
    ROUNDING_POINTS,
    Cell,
    Column,
    PublishedComparison,
    UnreliableCell,
    reason_unreliable,
)
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
from lingshu.evaluate.summary import METHODS, interval_text, percent

PUBLISHED_HEADER = (
    "",
    "n",
    "ours ({})",
    "95% interval",
    "published (authors')",
    "difference",
    "verdict",
)
PAIRED_HEADER = (
    "", "pairs", "groups", "ours ({})", "theirs ({})", "difference", "95% interval", "ours : theirs alone", "p", "detectable",
)  # fmt: skip
PUBLISHED_NOTE = (
    "Printed numbers are transcribed, not measured anew, and bear no interval of their own."
    " Outside: the printed value lies outside our 95% interval and further away than the"
    f" tolerance, ±{JUDGED_POINTS:.0f} point where a judge's verdicts are in it (its version,"
    f" decoding and exact code are not fully known), ±{ROUNDING_POINTS} for rounding elsewhere."
    " Without all items of the benchmark, for which failed and dropped ones are missing too, there"
    " is no verdict."
)
PAIRED_NOTE = (
    "Both runs on the same items, matched by id. Difference = ours - theirs in points of a hundred,"
    " its interval by drawing whole groups (2000 draws, seeded); where all items differ alike, by"
    " how many groups could differ and none of this many show it (3 in n, by the rule of three)."
    " Ours : theirs alone: the items that one run alone got right. Detectable: the smallest"
    " difference that a sample with this share of such items finds at the 5% level in 80% of cases;"
    " none below it is shown to be absent. The p values are two-sided and not adjusted for several"
    " tasks."
)


def published_sections(paper: PublishedComparison) -> list[Section]:
    """A section for each published table that the run has columns of."""
    return [
        Section(f"Against the published results: {table}", _published_parts(paper, table))
        for table in paper.rows
    ]


def _published_parts(paper: PublishedComparison, table: str) -> list[SectionPart]:
    intro = (
        f"Differences are to the printed row of {paper.reference}, ours - printed, in points of a"
        " hundred."
    )
    if not paper.is_reference_named:
        intro += " The run's model bears no printed name; --against paper:MODEL takes another row."
    parts: list[SectionPart] = [Paragraph(intro)]
    parts += [BulletList(paper.notes[table])] if paper.notes.get(table) else []
    columns = [column for column in paper.columns if column.table == table]
    cells = {(cell.column, cell.protocol): cell for cell in paper.cells if cell.table == table}
    for protocol in dict.fromkeys(column.protocol for column in columns):
        protocol_columns = [column for column in columns if column.protocol == protocol]
        bars = [_bar(column, cells[column.column, protocol]) for column in protocol_columns]
        rows = [
            _published_row(column, cells[column.column, protocol]) for column in protocol_columns
        ]
        average = next(
            (item for item in paper.averages if (item.table, item.protocol) == (table, protocol)),
            None,
        )
        if average is not None:
            cell = cells[AVERAGE, protocol]
            rows.append(
                [
                    "average",
                    "",
                    percent(average.macro),
                    "",
                    _format_points(cell.published),
                    _format_signed(cell.difference),
                    _verdict(cell),
                ]
            )
        header = [name.format(protocol) for name in PUBLISHED_HEADER]
        caption = (
            f"Ours under the protocol {protocol}, printed under the authors' own."
            f" {_intervals(protocol_columns)}"
        )
        axis = "accuracy (%) with 95% interval; ◇ published"
        parts += [
            Heading(f"Under the protocol {protocol}"),
            Plot(bars, axis),
            Table(header, rows, caption),
        ]
    parts += [
        Paragraph(PUBLISHED_NOTE),
        Heading("The whole table"),
        _leaderboard(paper, table, columns),
    ]
    caveats = [_caveat(item) for item in paper.unreliable_cells if item.table == table]
    return [
        *parts,
        *(
            [Paragraph("Not compared and not to be relied on:"), BulletList(caveats)]
            if caveats
            else []
        ),
    ]


def _caveat(cell: UnreliableCell) -> str:
    model = "every row" if cell.model == "*" else cell.model
    value = "" if cell.value is None else f", {_format_points(cell.value)}"
    return (
        f"† {model}, {'average' if cell.column == AVERAGE else cell.column}{value}: {cell.reason}."
    )


def _intervals(columns: Sequence[Column]) -> str:
    methods = dict.fromkeys(METHODS[column.summary.method] for column in columns)
    if len(methods) == 1:
        return f"Intervals: {next(iter(methods))}."
    methods_text = (
        f"{method}: {', '.join(c.column for c in columns if METHODS[c.summary.method] == method)}"
        for method in methods
    )
    return f"Intervals: {'; '.join(methods_text)}."


def _bar(column: Column, cell: Cell) -> Bar:
    marker = None if cell.published is None or cell.skip_reason else cell.published / 100
    return Bar(
        column.column, *column.summary.accuracy[:3], note=f"n = {column.summary.n}", marker=marker
    )


def _published_row(column: Column, cell: Cell) -> list[str]:
    summary = column.summary
    n = (
        str(summary.n)
        if column.expected in (None, summary.n)
        else f"{summary.n} of {column.expected}"
    )
    name = (
        column.column
        if column.tasks == (column.column,)
        else f"{column.column} ({', '.join(column.tasks)})"
    )
    cells = [name, n, percent(summary.accuracy.value), interval_text(summary.accuracy)]
    return [
        *cells,
        _format_points(cell.published) + (" †" if cell.is_unreliable else ""),
        _format_signed(cell.difference),
        _verdict(cell),
    ]


def _verdict(cell: Cell) -> str:
    if cell.is_unreliable:
        return "not compared †"  # why stands below the table, and may be long
    if cell.skip_reason:
        return f"not compared: {cell.skip_reason}"
    if cell.no_verdict_reason:
        return f"{cell.no_verdict_reason}: no verdict"
    if cell.is_outside is None:
        return "–"
    verdict = "outside" if cell.is_outside else "inside"
    return f"{verdict} (±{cell.tolerance:.0f})" if cell.tolerance == JUDGED_POINTS else verdict


def _leaderboard(paper: PublishedComparison, table: str, columns: Sequence[Column]) -> Table:
    names = list(dict.fromkeys(column.column for column in columns))
    averages = {average.protocol: average for average in paper.averages if average.table == table}
    has_average = any(average.macro is not None for average in averages.values())
    header = [
        "",
        *(
            f"{name} (judged)" if any(c.is_judged for c in columns if c.column == name) else name
            for name in names
        ),
    ]
    accuracies = {
        (column.column, column.protocol): column.summary.accuracy.value for column in columns
    }
    rows = []
    for protocol in dict.fromkeys(column.protocol for column in columns):
        row = [
            f"this run, {protocol}",
            *(percent(accuracies.get((name, protocol))) for name in names),
        ]
        rows.append([*row, *([percent(averages[protocol].macro)] if has_average else [])])
    for model, cells in paper.rows[table].items():
        column_names = [*names, *([AVERAGE] if has_average else [])]
        rows.append(
            [
                model,
                *(
                    _format_points(cells.get(name))
                    + (" †" if reason_unreliable(table, model, name) else "")
                    for name in column_names
                ),
            ]
        )
    caption = f"Printed rows under their authors' own scoring. Sources: {'; '.join(paper.sources)}."
    return Table([*header, *(["average"] if has_average else [])], rows, caption, is_long=True)


def paired_section(paired: RunComparison) -> Section:
    """The run beside another, task by task."""
    parts: list[SectionPart] = [
        Paragraph(f"Ours is this run, theirs is {paired.run} ({paired.model}).")
    ]
    parts += [BulletList(paired.notes)] if paired.notes else []
    for protocol in dict.fromkeys(task.protocol for task in paired.tasks):
        parts += _paired_parts(paired, protocol)
    parts.append(Paragraph(PAIRED_NOTE))
    missing = [
        f"{task.title}, {task.protocol}: {_format_counts(task)}."
        for task in paired.tasks
        if task.excluded
    ]
    missing += [f"{name}: {reason}." for name, reason in paired.excluded.items()]
    if missing:
        parts += [Heading("Items and tasks that are no pair"), BulletList(missing)]
    return Section(f"Against {paired.run}", parts)


def _paired_parts(paired: RunComparison, protocol: str) -> list[SectionPart]:
    tasks = [task for task in paired.tasks if task.protocol == protocol]
    rows = [_paired_row(task) for task in tasks]
    if protocol in paired.macro:
        rows.append(
            [
                "mean over tasks (macro)",
                "",
                "",
                "",
                "",
                _format_difference(paired.macro[protocol]),
                "",
                "",
                "",
                "",
            ]
        )
    bars = [Bar(task.title, *task.difference[:3], note=f"n = {task.n_pairs}") for task in tasks]
    bounds = [abs(end) for task in tasks for end in task.difference[:3] if end is not None]
    axis_limit = next(
        limit for limit in (0.05, 0.1, 0.2, 0.5, 1.0) if limit >= min(1.0, max(bounds, default=0.0))
    )
    header = [name.format(protocol) for name in PAIRED_HEADER]
    return [
        Heading(f"Under the protocol {protocol}"),
        Plot(
            bars, "difference, ours - theirs (points) with 95% interval", (-axis_limit, axis_limit)
        ),
        Table(
            header,
            rows,
            "Intervals: paired bootstrap, over whole groups where items share one."
            f" {_tests(tasks)}",
        ),
    ]


def _tests(tasks: Sequence[TaskComparison]) -> str:
    tasks_by_test: dict[str, list[str]] = {}
    for task in tasks:
        tasks_by_test.setdefault(
            task.test.name if task.test else "no test for scores between right and wrong", []
        ).append(task.title)
    tests_text = "; ".join(
        f"{test} ({', '.join(dict.fromkeys(titles))})" if len(tasks_by_test) > 1 else test
        for test, titles in tasks_by_test.items()
    )
    return f"Test: {tests_text}."


def _paired_row(task: TaskComparison) -> list[str]:
    interval = task.difference
    return [
        task.title,
        str(task.n_pairs),
        "–" if task.n_groups == task.n_pairs else str(task.n_groups),
        percent(task.accuracy),
        percent(task.baseline_accuracy),
        _format_difference(interval.value),
        "–"
        if interval.low is None
        else f"{_format_difference(interval.low)} to {_format_difference(interval.high)}",
        "–" if task.n_only_run is None else f"{task.n_only_run} : {task.n_only_baseline}",
        p_text(task),
        percent(task.min_detectable),
    ]


def p_text(task: TaskComparison) -> str:
    """A p value with three decimals; a dash where there is no test."""
    if task.test is None:
        return "–"
    return "< 0.001" if task.test.p_value < 0.001 else f"{task.test.p_value:.3f}"


def _format_counts(task: TaskComparison) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in task.excluded.items())


def _format_points(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _format_signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _format_difference(value: float | None) -> str:
    return _format_signed(None if value is None else 100 * value)
