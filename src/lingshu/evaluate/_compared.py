"""The sections of a report that set a run beside the published tables or beside another run."""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.evaluate._document import Part, Plot, Points, Section, Subtitle, Table, Text
from lingshu.evaluate.compare import RunComparison, TaskComparison
from lingshu.evaluate.page import Bar
from lingshu.evaluate.published import (
    AVERAGE,
    JUDGED_POINTS,
    ROUNDING_POINTS,
    Cell,
    Column,
    PaperComparison,
    Suspect,
    suspicion,
)
from lingshu.evaluate.summary import METHODS, interval_text, percent

PAPER_HEADER = (
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
PAPER_NOTE = (
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


def paper_sections(paper: PaperComparison) -> list[Section]:
    """A section for each published table that the run has columns of."""
    return [
        Section(f"Against the published results: {table}", _paper(paper, table))
        for table in paper.rows
    ]


def _paper(paper: PaperComparison, table: str) -> list[Part]:
    told = (
        f"Differences are to the printed row of {paper.reference}, ours - printed, in points of a"
        " hundred."
    )
    if not paper.named:
        told += " The run's model bears no printed name; --against paper:MODEL takes another row."
    parts: list[Part] = [Text(told)]
    parts += [Points(paper.notes[table])] if paper.notes.get(table) else []
    filled = [column for column in paper.columns if column.table == table]
    cells = {(cell.column, cell.protocol): cell for cell in paper.cells if cell.table == table}
    for protocol in dict.fromkeys(column.protocol for column in filled):
        mine = [column for column in filled if column.protocol == protocol]
        bars = [_bar(column, cells[column.column, protocol]) for column in mine]
        rows = [_paper_row(column, cells[column.column, protocol]) for column in mine]
        average = next(
            (one for one in paper.averages if (one.table, one.protocol) == (table, protocol)), None
        )
        if average is not None:
            cell = cells[AVERAGE, protocol]
            rows.append(
                [
                    "average",
                    "",
                    percent(average.macro),
                    "",
                    _points(cell.published),
                    _signed(cell.difference),
                    _verdict(cell),
                ]
            )
        header = [name.format(protocol) for name in PAPER_HEADER]
        said = (
            f"Ours under the protocol {protocol}, printed under the authors' own."
            f" {_intervals(mine)}"
        )
        axis = "accuracy (%) with 95% interval; ◇ published"
        parts += [
            Subtitle(f"Under the protocol {protocol}"),
            Plot(bars, axis),
            Table(header, rows, said),
        ]
    parts += [Text(PAPER_NOTE), Subtitle("The whole table"), _leaderboard(paper, table, filled)]
    named = [_doubt(one) for one in paper.suspects if one.table == table]
    return [
        *parts,
        *([Text("Not compared and not to be relied on:"), Points(named)] if named else []),
    ]


def _doubt(one: Suspect) -> str:
    model = "every row" if one.model == "*" else one.model
    value = "" if one.value is None else f", {_points(one.value)}"
    return f"† {model}, {'average' if one.column == AVERAGE else one.column}{value}: {one.reason}."


def _intervals(columns: Sequence[Column]) -> str:
    methods = dict.fromkeys(METHODS[column.summary.method] for column in columns)
    if len(methods) == 1:
        return f"Intervals: {next(iter(methods))}."
    told = (
        f"{how}: {', '.join(c.column for c in columns if METHODS[c.summary.method] == how)}"
        for how in methods
    )
    return f"Intervals: {'; '.join(told)}."


def _bar(column: Column, cell: Cell) -> Bar:
    mark = None if cell.published is None or cell.skipped else cell.published / 100
    return Bar(
        column.column, *column.summary.accuracy[:3], note=f"n = {column.summary.n}", mark=mark
    )


def _paper_row(column: Column, cell: Cell) -> list[str]:
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
    ours = [name, n, percent(summary.accuracy.value), interval_text(summary.accuracy)]
    return [
        *ours,
        _points(cell.published) + (" †" if cell.suspect else ""),
        _signed(cell.difference),
        _verdict(cell),
    ]


def _verdict(cell: Cell) -> str:
    if cell.suspect:
        return "not compared †"  # why stands below the table, and may be long
    if cell.skipped:
        return f"not compared: {cell.skipped}"
    if cell.no_verdict:
        return f"{cell.no_verdict}: no verdict"
    if cell.outside is None:
        return "–"
    told = "outside" if cell.outside else "inside"
    return f"{told} (±{cell.tolerance:.0f})" if cell.tolerance == JUDGED_POINTS else told


def _leaderboard(paper: PaperComparison, table: str, filled: Sequence[Column]) -> Table:
    names = list(dict.fromkeys(column.column for column in filled))
    averages = {one.protocol: one for one in paper.averages if one.table == table}
    whole = any(one.macro is not None for one in averages.values())
    header = [
        "",
        *(
            f"{name} (judged)" if any(c.judged for c in filled if c.column == name) else name
            for name in names
        ),
    ]
    ours = {(column.column, column.protocol): column.summary.accuracy.value for column in filled}
    rows = []
    for protocol in dict.fromkeys(column.protocol for column in filled):
        row = [f"this run, {protocol}", *(percent(ours.get((name, protocol))) for name in names)]
        rows.append([*row, *([percent(averages[protocol].macro)] if whole else [])])
    for model, cells in paper.rows[table].items():
        shown = [*names, *([AVERAGE] if whole else [])]
        rows.append(
            [
                model,
                *(
                    _points(cells.get(name)) + (" †" if suspicion(table, model, name) else "")
                    for name in shown
                ),
            ]
        )
    said = f"Printed rows under their authors' own scoring. Sources: {'; '.join(paper.sources)}."
    return Table([*header, *(["average"] if whole else [])], rows, said, long=True)


def paired_section(paired: RunComparison) -> Section:
    """The run beside another, task by task."""
    parts: list[Part] = [Text(f"Ours is this run, theirs is {paired.run} ({paired.model}).")]
    parts += [Points(paired.notes)] if paired.notes else []
    for protocol in dict.fromkeys(one.protocol for one in paired.tasks):
        parts += _paired(paired, protocol)
    parts.append(Text(PAIRED_NOTE))
    missing = [
        f"{one.title}, {one.protocol}: {_counts(one)}." for one in paired.tasks if one.left_out
    ]
    missing += [f"{name}: {reason}." for name, reason in paired.left_out.items()]
    if missing:
        parts += [Subtitle("Items and tasks that are no pair"), Points(missing)]
    return Section(f"Against {paired.run}", parts)


def _paired(paired: RunComparison, protocol: str) -> list[Part]:
    tasks = [one for one in paired.tasks if one.protocol == protocol]
    rows = [_paired_row(one) for one in tasks]
    if protocol in paired.macro:
        rows.append(
            [
                "mean over tasks (macro)",
                "",
                "",
                "",
                "",
                _signed_share(paired.macro[protocol]),
                "",
                "",
                "",
                "",
            ]
        )
    bars = [Bar(one.title, *one.difference[:3], note=f"n = {one.pairs}") for one in tasks]
    ends = [abs(end) for one in tasks for end in one.difference[:3] if end is not None]
    reach = next(
        limit for limit in (0.05, 0.1, 0.2, 0.5, 1.0) if limit >= min(1.0, max(ends, default=0.0))
    )
    header = [name.format(protocol) for name in PAIRED_HEADER]
    return [
        Subtitle(f"Under the protocol {protocol}"),
        Plot(bars, "difference, ours - theirs (points) with 95% interval", (-reach, reach)),
        Table(
            header,
            rows,
            "Intervals: paired bootstrap, over whole groups where items share one."
            f" {_tests(tasks)}",
        ),
    ]


def _tests(tasks: Sequence[TaskComparison]) -> str:
    found: dict[str, list[str]] = {}
    for one in tasks:
        found.setdefault(
            one.test.test if one.test else "no test for scores between right and wrong", []
        ).append(one.title)
    told = "; ".join(
        f"{test} ({', '.join(dict.fromkeys(titles))})" if len(found) > 1 else test
        for test, titles in found.items()
    )
    return f"Test: {told}."


def _paired_row(one: TaskComparison) -> list[str]:
    span = one.difference
    return [
        one.title,
        str(one.pairs),
        "–" if one.groups == one.pairs else str(one.groups),
        percent(one.ours),
        percent(one.theirs),
        _signed_share(span.value),
        "–" if span.low is None else f"{_signed_share(span.low)} to {_signed_share(span.high)}",
        "–" if one.only_ours is None else f"{one.only_ours} : {one.only_theirs}",
        p_text(one),
        percent(one.smallest),
    ]


def p_text(one: TaskComparison) -> str:
    """A p value with three decimals; a dash where there is no test."""
    if one.test is None:
        return "–"
    return "< 0.001" if one.test.p < 0.001 else f"{one.test.p:.3f}"


def _counts(one: TaskComparison) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in one.left_out.items())


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _signed_share(value: float | None) -> str:
    return _signed(None if value is None else 100 * value)
