"""`lingshu eval`: generate a model's replies to tasks, score them and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lingshu.cli.options import Flat, print_warnings
from lingshu.core.artifacts import REPORT_HTML
from lingshu.core.types import engine_notes
from lingshu.evaluate.report import build
from lingshu.evaluate.run import EvalConfig, EvalOutcome, run
from lingshu.inference.engines import open_engine


def evaluate(
    model: str, tasks: str, /, *, out: Path, config: Flat[EvalConfig] = EvalConfig()
) -> int:
    """Evaluate a model on one or more tasks. Run it again with the same --out to resume after an
    interruption.

    Writes OUT/report.html, report.md, report.json, and for each task OUT/TASK/replies.jsonl and
    scores.jsonl.

    Args:
        model: Checkpoint folder, hub id, http(s)://host/v1#name, echo or echo:TEXT, or a .py file.
        tasks: Names of tasks or suites (paper_multimodal, paper_text, paper_report, all, smoke) or
            paths to .py files, comma-separated.
        out: Folder for replies, scores and the report.
    """
    config.check()
    names = [part.strip() for part in tasks.split(",") if part.strip()]
    loaded = config.load_tasks(names, out)
    engine = open_engine(model, config.engine_options)
    print_warnings(engine_notes(engine))
    judge = None
    if config.judge.model is not None:
        judge = open_engine(config.judge.model, config.judge.engine_options(config.engine_options))
    outcome = run(model, engine, loaded, out, config, judge_engine=judge)
    _print_outcome(outcome, out)
    return int(outcome.has_failures)


def _print_outcome(outcome: EvalOutcome, out: Path) -> None:
    counts = outcome.counts
    if outcome.report is None:
        print(
            f"{summary_line(counts)}; {counts['n_pending']} still with other processes, the last"
            " of which scores and reports"
        )
        return
    for line in outcome.messages:
        print(line)
    print(build.as_text(outcome.report), end="")
    print(summary_line(counts))
    if "control_samples" in counts:
        print(
            f"controls: {counts['control_samples']} questions, {counts['control_requested']}"
            f" generated now, {counts['control_answered_before']} before,"
            f" {counts['control_errors']} errors"
        )
    if counts["scaled_images"]:
        print(f"scaled down: {counts['scaled_images']} images, to the budget in run.json")
    if outcome.drops:
        reasons = ", ".join(f"{reason} {count}" for reason, count in outcome.drops.items())
        print(f"dropped: {reasons} (listed in drops.jsonl next to the replies)")
    for name, reason in outcome.excluded.items():
        print(f"skipped: {name}: {reason}")
    print(f"report: {out / REPORT_HTML}")


def summary_line(counts: Mapping[str, int]) -> str:
    """The counts of a run on one line."""
    return (
        f"{counts['samples']} samples, {counts['requested']} generated now,"
        f" {counts['answered_before']} before, {counts['dropped']} dropped,"
        f" {counts['errors']} errors"
    )
