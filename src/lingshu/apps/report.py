"""`lingshu report`: write the reports of scored runs anew, and set several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.errors import InputError

if TYPE_CHECKING:
    from lingshu.evaluate.report import Report


def report(*runs: Path, against: str | None = None) -> int:
    """Write report.json, report.md and report.html of each run from its scores; with two or more, compare them.

    Args:
        runs: folders that `lingshu eval` wrote.
        against: paper, for the published tables and the differences to the row of the run's model; paper:MODEL for those
            to another row; or a second run's folder, for paired tests on the items that both answered.
    """
    from lingshu.evaluate import report as step

    if not runs:
        raise InputError("no run is named; give one or more folders that `lingshu eval` wrote.")
    # All is read and compared before anything is written: a wrong --against leaves the reports as they are.
    built = [step.build(run, against=against) for run in runs]
    for run, one in zip(runs, built, strict=True):
        step.write(run, one)
    if len(built) == 1:
        if built[0].warning:
            print(f"WARNING: {built[0].warning}")
        print(text_table(step.HEADER, step.overview(built[0])))
    else:
        print(text_table(*side_by_side([run.name for run in runs], built)))
    for one in built:
        for section in step.comparisons(one):
            print(f"\n{section.title} ({one.model})\n")
            for part in section.brief:
                print("\n".join(part.items) if isinstance(part, step.Points) else f"{text_table(part.header, part.rows)}\n{part.caption}")
    for run in runs:
        print(f"report: {run / step.REPORT_HTML}")
    return 0


def side_by_side(names: Sequence[str], reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with a line per task and a column per run: accuracy and its interval, in percent."""
    from lingshu.evaluate.report import UNJUDGED, interval_text, percent

    titles = {task.name: task.title for one in reports for task in one.tasks}
    header = ["", *(f"{name} ({one.model})" for name, one in zip(names, reports, strict=True))]
    rows = []
    for name, title in titles.items():
        cells = []
        for one in reports:
            summary = next((task.summary for task in one.tasks if task.name == name), None)
            if summary is not None and summary.waits:
                cells.append(UNJUDGED)
                continue
            told = "–" if summary is None else f"{percent(summary.accuracy.value)} ({interval_text(summary.accuracy)}), n {summary.n}"
            cells.append(told)
        rows.append([title, *cells])
    return header, rows


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column set left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    told = (
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in told)
