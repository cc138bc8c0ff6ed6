"""`lingshu report`: write the reports of scored runs anew, and set several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.artifacts import REPORT_HTML
from lingshu.core.errors import InputError

if TYPE_CHECKING:
    from lingshu.evaluate.report.model import EvaluationReport


def report(
    *runs: Path,
    against: str | None = None,
    no_samples: bool = False,
    exclude_overlaps: Path | None = None,
    overlap_kinds: str | None = None,
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
        clean_kinds: kinds of overlap that count for --exclude-overlaps, with commas between; all but
            boilerplate if not given.
    """
    from lingshu.evaluate import uncontaminated
    from lingshu.evaluate.report import build
    from lingshu.evaluate.report.render import text_table

    if not runs:
        raise InputError("no run is named; give one or more folders that `lingshu eval` wrote.")
    if overlap_kinds is not None and exclude_overlaps is None:
        raise InputError(
            "--overlap-kinds is given and no overlaps; name their file with --exclude-overlaps OVERLAPS."
        )
    # All is read and compared before anything is written: a wrong --against leaves the reports as
    # they are.
    kinds = uncontaminated.parse_kinds(overlap_kinds)
    overlaps = None if exclude_overlaps is None else uncontaminated.read_overlaps(exclude_overlaps)
    reports = [build.build(run, against=against, overlaps=overlaps, kinds=kinds) for run in runs]
    for run, run_report in zip(runs, reports, strict=True):
        build.write(run, run_report, against=against, samples=not no_samples)
    if len(reports) == 1:
        print(build.as_text(reports[0]), end="")
    else:
        print(text_table(*comparison_table([run.name for run in runs], reports)))
        for run_report in reports:
            print(build.as_text(run_report, overview=False), end="")
    for run in runs:
        print(f"report: {run / REPORT_HTML}")
    return 0


def comparison_table(
    names: Sequence[str], reports: Sequence[EvaluationReport]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with a line per task and a column per run: accuracy and its
    interval, in percent.
    """
    from lingshu.evaluate.summary import NEEDS_JUDGE_LABEL, interval_text, percent

    titles = {task.name: task.title for run_report in reports for task in run_report.tasks}
    header = [
        "",
        *(f"{name} ({run_report.model})" for name, run_report in zip(names, reports, strict=True)),
    ]
    rows = []
    for name, title in titles.items():
        cells = []
        for run_report in reports:
            summary = next((task.summary for task in run_report.tasks if task.name == name), None)
            if summary is not None and summary.is_awaiting_judge:
                cells.append(NEEDS_JUDGE_LABEL)
                continue
            cell = (
                "–"
                if summary is None
                else (
                    f"{percent(summary.accuracy.value)} ({interval_text(summary.accuracy)}), n"
                    f" {summary.n}"
                )
            )
            cells.append(cell)
        rows.append([title, *cells])
    return header, rows
