"""Step 3 of an evaluation: scores become report.json, report.md and report.html.

A report holds no times and no places, so the same scores always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import REPORT_HTML, REPORT_JSON, REPORT_MD
from lingshu.core.files import atomic_file, update_manifest, write_json, write_text
from lingshu.evaluate import compare, published
from lingshu.evaluate.calibration import calibration
from lingshu.evaluate.controls import read_controls
from lingshu.evaluate.judgments import JUDGE
from lingshu.evaluate.report import render
from lingshu.evaluate.report.model import EvaluationReport, ProtocolReport, TaskReport
from lingshu.evaluate.report.sample_browser import Browser
from lingshu.evaluate.statistics import macro, micro
from lingshu.evaluate.store import REPORT_FILES, ScoredRun, ScoredTask, read_run
from lingshu.evaluate.summary import (
    ReplyProblem,
    by_facet,
    interval_text,
    percent,
    summarize,
)
from lingshu.evaluate.uncontaminated import Overlaps, compare_uncontaminated
from lingshu.search.overlap import CONTAMINATION_KINDS

MAX_ERROR_RATE = 0.01  # a run with a larger share of failed samples says so in its first line
MAX_JUDGE_FAILURE_RATE = 0.01
MAX_PROBLEM_RATE = (
    0.05  # a task with a larger share of truncated, refused or unread replies says so
)
_LIKELY_CAUSES: dict[ReplyProblem, str] = {
    "truncated": "max_tokens is too small",
    "refused": "the model refuses",
    "unread": "the chat template is wrong or the form of the answers is not known",
}


def build(
    run: Path,
    *,
    against: str | None = None,
    overlaps: Overlaps | None = None,
    kinds: Sequence[str] = CONTAMINATION_KINDS,
) -> EvaluationReport:
    """The report of a run folder, from its tasks' scores and, where it has one, its run card.

    `against` is a second run folder, `paper` for the published tables, or `paper:MODEL` for
    differences to that row. Items with an overlap of one of the `kinds` are not clean.

    Raises:
        ArtifactError: a folder holds no scores.
        InputError: there is nothing in common to compare.
    """
    scored = read_run(run)
    tasks = [
        replace(task_report(task), controls=read_controls(run / task.name)) for task in scored.tasks
    ]
    paper, paired = _compare_against(scored, against)
    report = assemble(
        scored.model,
        tasks,
        averages=published.compute_averages(published.fill_columns(scored)),
        paper=paper,
        paired=paired,
    )
    if overlaps is None:
        return report
    return replace(report, clean=compare_uncontaminated(scored, overlaps, kinds))


def _compare_against(
    run: ScoredRun, against: str | None
) -> tuple[published.PublishedComparison | None, compare.RunComparison | None]:
    if against is None:
        return None, None
    kind, _, model = against.partition(":")
    if kind == "paper":
        return published.compare(run, model or None), None
    return None, compare.compare(run, read_run(Path(against)))


def task_report(task: ScoredTask) -> TaskReport:
    """The report of one task, under its leading protocol and the others."""
    metadata, (protocol, *others) = task.metadata, task.rows
    rows, summaries = task.rows[protocol], {name: summarize(task.rows[name]) for name in task.rows}
    return TaskReport(
        name=task.name,
        summary=summaries[protocol],
        facets=by_facet(rows, task.facets, method=summaries[protocol].method),
        title=task.title,
        source=metadata.get("source"),
        license=metadata.get("license"),
        revision=metadata.get("revision"),
        expected=metadata.get("n"),
        drops=metadata.get("drops") or {},
        protocol=protocol,
        known_issues=task.known_issues(protocol),
        excluded=task.excluded,
        protocols={
            name: ProtocolReport(summaries[name], task.known_issues(name)) for name in others
        },
        metrics=task.metrics,
        judge_result=task.judge_result,
        calibration=calibration(rows),
    )


def assemble(model: str, tasks: Sequence[TaskReport], **comparisons: Any) -> EvaluationReport:
    """One report over several tasks; `comparisons` are further fields of EvaluationReport."""
    accuracies = [task.summary.accuracy for task in tasks if task.summary.metric == "accuracy"]
    return EvaluationReport(
        model,
        _warning(tasks),
        tuple(tasks),
        macro([accuracy.value for accuracy in accuracies]),
        micro(accuracies),
        **comparisons,
    )


def _warning(tasks: Sequence[TaskReport]) -> str | None:
    warnings = []
    errors = sum(task.summary.errors for task in tasks)
    n_samples = sum(task.n_rows - task.summary.n_awaiting_judge for task in tasks)
    if errors > MAX_ERROR_RATE * n_samples:
        warnings.append(
            f"{errors} of {n_samples} samples ({100 * errors / n_samples:.1f}%) failed and are left"
            " out of every number below."
        )
    # The failures of a task that its judge leads are among the errors already.
    warnings += [
        f"{task.title}: the judge gave no verdict on {task.judge_result.n_failed} of"
        f" {task.judge_result.n_requested} replies."
        for task in tasks
        if task.judge_result
        and task.protocol != JUDGE
        and task.judge_result.n_failed > MAX_JUDGE_FAILURE_RATE * task.judge_result.n_requested
    ]
    warnings += [warning for task in tasks if (warning := _problem_warning(task))]
    return " ".join(warnings) or None


def _problem_warning(task: TaskReport) -> str | None:
    summary = task.summary
    problems, n_problems = summary.problems, sum(summary.problems.values())
    if n_problems <= MAX_PROBLEM_RATE * summary.n:
        return None
    counts = ", ".join(f"{problems[name]} {name}" for name in _LIKELY_CAUSES if name in problems)
    likely = max(_LIKELY_CAUSES, key=lambda name: problems.get(name, 0))
    rest = summary.unproblematic
    without = (
        f"{summary.metric} without them: {percent(rest.value)} ({interval_text(rest)})"
        if rest and rest.n
        else "no reply is without them"
    )
    return (
        f"{task.title}: {n_problems} of {summary.n} replies"
        f" ({100 * n_problems / summary.n:.1f}%) were truncated, refused or not read ({counts});"
        f" likely cause: {_LIKELY_CAUSES[likely]}; {without}."
    )


def write(
    run: Path, report: EvaluationReport, *, against: str | None = None, samples: bool = True
) -> None:
    """Write report.json, report.md and report.html, with every sample unless `samples` is False.

    `against` is what `build` was given: replies of a second run are shown next to this run's.
    """
    write_json(run / REPORT_JSON, report.as_json())
    write_text(run / REPORT_MD, as_markdown(report))
    other_run = Path(against) if against is not None and report.paired is not None else None
    with (
        Browser(run, report, against=other_run) if samples else nullcontext() as browser,
        atomic_file(run / REPORT_HTML) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines(iterate_html(report, browser))
    update_manifest(run, REPORT_FILES)


def as_markdown(report: EvaluationReport) -> str:
    return render.render_markdown("report.md.j2", **_values(report))


def as_text(report: EvaluationReport, *, overview: bool = True) -> str:
    """What a terminal shows: the warning, the table over all tasks, and the comparisons."""
    return render.render_text("report.txt.j2", overview=overview, **_values(report))


def iterate_html(report: EvaluationReport, browser: Browser | None = None) -> Iterator[str]:
    """The self-contained page in pieces: tables and plots and, with a browser, the samples."""
    script = render.static("sample_browser.js") if browser else ""
    return render.iterate_page("report.html.j2", script=script, browser=browser, **_values(report))


def _values(report: EvaluationReport) -> dict[str, Any]:
    constants = ("AVERAGE", "JUDGED_POINTS", "ROUNDING_POINTS", "reason_unreliable")
    return {
        "title": f"Evaluation of {report.model}",
        "report": report,
        **{name: getattr(published, name) for name in constants},
    }
