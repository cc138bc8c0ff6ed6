"""`lingshu report`: write the reports of scored runs anew, and set several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.errors import InputError

if TYPE_CHECKING:
    from lingshu.evaluate.report import Report


def report(
    *runs: Path,
    against: str | None = None,
    no_samples: bool = False,
    clean: Path | None = None,
    clean_kinds: str | None = None,
) -> int:
    """Write report.json, report.md and report.html of each run from its scores; with two or more,
    compare them.

    Args:
        runs: folders that `lingshu eval` wrote.
        against: paper, for the published tables and the differences to the row of the run's model;
            paper:MODEL for those to another row; or a second run's folder, for paired tests on the
            items that both answered.
        no_samples: leave the samples out of the page, which then holds numbers alone, for those who
            may not see the data.
        clean: overlaps with training data that `lingshu overlap` wrote; the score on items without
            one is set beside the full one.
        clean_kinds: kinds of overlap that count for --clean, with commas between; all but
            boilerplate if not given.
    """
    from lingshu.evaluate import clean as step_clean
    from lingshu.evaluate import report as step

    if not runs:
        raise InputError("no run is named; give one or more folders that `lingshu eval` wrote.")
    if clean_kinds is not None and clean is None:
        raise InputError(
            "--clean-kinds is given and no overlaps; name their file with --clean OVERLAPS."
        )
    # All is read and compared before anything is written: a wrong --against leaves the reports as
    # they are.
    kinds = step_clean.kinds_of(clean_kinds)
    overlaps = None if clean is None else step_clean.read_overlaps(clean)
    built = [step.build(run, against=against, overlaps=overlaps, kinds=kinds) for run in runs]
    for run, one in zip(runs, built, strict=True):
        step.write(run, one, against=against, samples=not no_samples)
    if len(built) == 1:
        if built[0].warning:
            print(f"WARNING: {built[0].warning}")
        print(text_table(step.HEADER, step.overview(built[0])))
    else:
        print(text_table(*side_by_side([run.name for run in runs], built)))
    for one in built:
        print(brief(one), end="")
    for run in runs:
        print(f"report: {run / step.REPORT_HTML}")
    return 0


def brief(report: Report) -> str:
    """What a terminal shows of all that a run was set beside; empty where there is none."""
    from lingshu.evaluate import report as step

    lines: list[str] = []
    for section in step.comparisons(report):
        lines.append(f"\n{section.title} ({report.model})\n")
        for part in section.brief:
            lines += (
                part.items
                if isinstance(part, step.Points)
                else [text_table(part.header, part.rows), part.caption]
            )
    return "".join(f"{line}\n" for line in lines)


def side_by_side(
    names: Sequence[str], reports: Sequence[Report]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with a line per task and a column per run: accuracy and its
    interval, in percent.
    """
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
            told = (
                "–"
                if summary is None
                else (
                    f"{percent(summary.accuracy.value)} ({interval_text(summary.accuracy)}), n"
                    f" {summary.n}"
                )
            )
            cells.append(told)
        rows.append([title, *cells])
    return header, rows


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column set left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    told = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in told)
