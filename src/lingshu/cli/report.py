"""`lingshu report`: write the reports of scored runs again, and compare several runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lingshu.cli.options import Flat, print_warnings
from lingshu.core.artifacts import REPORT_HTML
from lingshu.core.errors import InputError
from lingshu.core.files import output_lock
from lingshu.evaluate import uncontaminated
from lingshu.evaluate.calibration import set_threshold, write_threshold
from lingshu.evaluate.report import build
from lingshu.evaluate.report.model import EvaluationReport, TaskReport
from lingshu.evaluate.report.render import text_table
from lingshu.evaluate.store import read_run, unchecked_files
from lingshu.evaluate.summary import NEEDS_JUDGE_LABEL, interval_text, percent


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the runs are compared with, and what the page shows."""

    against: str | None = None
    """paper, for the published tables and the differences to the row of the run's model; paper:MODEL
    for those to another row; or a second run's folder, for paired tests on the items that both
    answered."""
    no_samples: bool = False
    "Leave the samples out of the page, for readers who may not see the data."
    exclude_overlaps: Path | None = None
    """Overlaps with training data that `lingshu overlap` wrote; the score on items without one is
    compared with the full one."""
    overlap_kinds: str | None = None
    """Kinds of overlap that count for --exclude-overlaps, comma-separated; all but boilerplate if
    not given."""


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    threshold: Path | None = None
    """File to write the confidence to below which the run's model should abstain; ask, draft and mcp
    take it. Set it on data that the model was not trained or tuned on."""
    coverage: float = 0.8
    "Share of answers that --threshold keeps, above 0."
    task: str | None = None
    "Task of the run that --threshold is set on; needed where there are several."


def report(
    *runs: Path,
    config: Flat[ReportConfig] = ReportConfig(),
    abstain: Flat[ThresholdConfig] = ThresholdConfig(),
) -> int:
    """Write report.json, report.md and report.html of each run from its scores; with two or more,
    compare them.

    Args:
        runs: Folders that `lingshu eval` wrote.
    """
    if not runs:
        raise InputError("no run is named; give one or more folders that `lingshu eval` wrote.")
    if config.overlap_kinds is not None and config.exclude_overlaps is None:
        raise InputError(
            "--overlap-kinds is given without overlaps; name their file with --exclude-overlaps"
            " OVERLAPS."
        )
    with contextlib.ExitStack() as locks:
        for run in dict.fromkeys(runs):
            locks.enter_context(output_lock(run))
        return _report(runs, config, abstain)


def _report(runs: Sequence[Path], config: ReportConfig, abstain: ThresholdConfig) -> int:
    kinds = uncontaminated.parse_kinds(config.overlap_kinds)
    overlaps = None
    if config.exclude_overlaps is not None:
        overlaps = uncontaminated.read_overlaps(config.exclude_overlaps)
    is_paper = (config.against or "paper").partition(":")[0] == "paper"
    other_run = None if is_paper else Path(str(config.against))
    # All is read and compared before anything is written: a wrong --against leaves the reports as
    # they are.
    reports = [
        build.build(run, against=config.against, overlaps=overlaps, kinds=kinds) for run in runs
    ]
    threshold = None
    if abstain.threshold is not None:
        if len(runs) > 1:
            raise InputError("--threshold is set on one run; name one.")
        threshold = set_threshold(runs[0], read_run(runs[0]), abstain.task, abstain.coverage)
        write_threshold(abstain.threshold, threshold)
    for run, run_report in zip(runs, reports, strict=True):
        build.write(run, run_report, against=config.against, samples=not config.no_samples)
    for run in (*runs, *([] if other_run is None else [other_run])):
        if unchecked := unchecked_files(run):
            print_warnings(
                [
                    f"{unchecked[0]} could not be checked: {run} has no manifest.json; run `lingshu"
                    " eval` again with the same --out to write it."
                ]
            )
    texts = [build.as_text(run_report, overview=len(reports) == 1) for run_report in reports]
    if len(reports) > 1:
        texts.insert(0, text_table(*comparison_table([run.name for run in runs], reports)))
    print("\n\n".join(filter(None, (text.strip("\n") for text in texts))))
    for run in runs:
        print(f"report: {run / REPORT_HTML}")
    if threshold is not None:
        print(f"threshold: {abstain.threshold}, {threshold.text}")
    return 0


def comparison_table(
    names: Sequence[str], reports: Sequence[EvaluationReport]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a line per task, a column per run with accuracy and interval in percent."""
    header = ["", *(f"{name} ({each.model})" for name, each in zip(names, reports, strict=True))]
    by_name = [{task.name: task for task in each.tasks} for each in reports]
    titles = {name: task.title for tasks in by_name for name, task in tasks.items()}
    rows = [
        [title, *(_accuracy_cell(tasks.get(name)) for tasks in by_name)]
        for name, title in titles.items()
    ]
    return header, rows


def _accuracy_cell(task: TaskReport | None) -> str:
    if task is None:
        return "–"
    if task.summary.is_awaiting_judge:
        return NEEDS_JUDGE_LABEL
    accuracy = task.summary.accuracy
    return f"{percent(accuracy.value)} ({interval_text(accuracy)}), n {task.summary.n}"
