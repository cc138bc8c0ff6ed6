"""`lingshu score`: score replies in a JSONL file, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lingshu.cli.options import Flat
from lingshu.core import registry
from lingshu.core.artifacts import score_row, write_scores
from lingshu.core.errors import InputError, one_line
from lingshu.core.files import enumerate_jsonl, sha256_file
from lingshu.core.rows import sample_from_row
from lingshu.core.run_card import RunCard, write_file_card
from lingshu.core.types import Drop, Reply, Sample, Scorer
from lingshu.scoring.protocols import table
from lingshu.scoring.protocols.table import ProtocolName


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    scorer: str
    "A name from `lingshu list scoring`, or a .py file with a function score(sample, reply)."
    protocol: ProtocolName = "strict"
    """`strict` grades by the scorer; `paper` and `medevalkit` grade choice, yes/no, closed and open
    questions by published rules, with their known issues."""
    out: Path | None = None
    "File for one scores row per reply; other keys of a row are carried through."
    metric_weights: Path | None = None
    "Folder with the models of report metrics; the metrics of missing ones are unavailable."


def score(file: Path, /, *, config: Flat[ScoreConfig]) -> int:
    """Score the rows of FILE and print a JSON summary: n, right, accuracy and right / read with 95%
    intervals, statuses.

    A row is {"id", "question", "choices"?, "gold", "reply", "kind"?, "lang"?, "group"?}: choices
    with or without their letters, gold a letter, a text or a list of accepted texts, reply null
    where generation failed.

    Args:
        file: JSONL file with one row per reply.
    """
    from lingshu.evaluate.summary import summarize

    task_score = cast("Scorer", registry.get_attribute("scoring", config.scorer, "score"))
    grade_reply = table.protocol_scorer(task_score, config.protocol)
    rows = [{**row, "protocol": config.protocol} for row in score_rows(file, grade_reply)]
    if not rows:
        raise InputError(f"{file} holds no rows; give one JSON object per line.")
    metrics = _metrics(rows, config)
    summary = summarize(rows)
    if config.out is not None:
        write_scores(config.out, rows)
        statuses = {f"status_{status}": count for status, count in summary.statuses.items()}
        card = RunCard(
            "score",
            {"file": str(file), "scorer": config.scorer, "protocol": config.protocol},
            counts={"n": summary.n, **statuses},
            hashes={file.name: sha256_file(file)},
        )
        write_file_card(config.out, card)
    output = {
        "protocol": config.protocol,
        "n": summary.n,
        "correct": summary.correct,
        "accuracy": summary.accuracy._asdict(),
        "parsed_accuracy": summary.parsed_accuracy._asdict(),
        "statuses": dict(summary.statuses),
        # Several replies to one question are fine here, a file joined twice by mistake is not: the
        # reader decides.
        "repeated_ids": len(rows) - len({row["id"] for row in rows}),
        "known_issues": list(table.quirks(config.protocol)),
        **metrics,
    }
    if config.protocol != "strict":
        # All, open and closed questions as the published tables add them up.
        output["as_published"] = {
            name: total._asdict() if isinstance(total, table.Accuracy) else total
            for name, total in table.aggregate(config.protocol, rows)._asdict().items()
        }
    print(json.dumps(output, indent=2))
    return 1 if summary.statuses["error"] else 0


def _metrics(rows: list[dict[str, Any]], config: ScoreConfig) -> dict[str, Any]:
    """The scorer's METRICS of all rows, if it has any; each row gets its own values."""
    from lingshu.evaluate.metrics import compute_metrics, metrics_table, sample_values

    metrics = getattr(registry.load("scoring", config.scorer), "METRICS", ())
    if not metrics:
        return {}
    samples = [_sample(row, line_number) for line_number, row in enumerate(rows, 1)]
    replies = [row["reply"] for row in rows]
    metric_results = compute_metrics(metrics, samples, replies, weights=config.metric_weights)
    for index, row in enumerate(rows):
        row["metrics"] = sample_values(metric_results, index)
    return metrics_table(metric_results, samples)


def _sample(row: dict[str, Any], line_number: int) -> Sample:
    # Scoring does not need the question's words, and files of replies often lack them.
    sample = sample_from_row(
        {**row, "question": row.get("question") or "(not given)", "messages": None}, line_number
    )
    if isinstance(sample, Drop):
        raise InputError(f"{sample.reason}: {sample.detail}")
    return sample


def score_rows(file: Path, grade_reply: Scorer) -> Iterator[dict[str, Any]]:
    """The scores row of each row of a file.

    Raises:
        InputError: a row that cannot be scored; the message names its line.
    """
    from lingshu.evaluate.score import confidence_fields, final_score, score_reply

    for line_number, row in enumerate_jsonl(file, allow_truncated=False):
        location = f"{file}, line {line_number}"
        if "reply" not in row or not isinstance(row["reply"], str | None):
            raise InputError(
                f'{location}: "reply" is missing or no text; put the reply there, or null where'
                " generation failed."
            )
        if not isinstance(row.get("group"), str | int | float | None):
            raise InputError(
                f'{location}: "group" must be one text or number, which all rows of a patient, study'
                " or image share."
            )
        try:
            sample = _sample(row, line_number)
        except InputError as error:
            raise InputError(f"{location}: {one_line(error)}") from error
        if sample.gold is None:
            raise InputError(
                f"{location}: the row has no gold; give the right answer, or a list of accepted ones."
            )
        try:
            # An unscorable row is the file's mistake here, so it is not counted but named.
            result = (
                final_score(grade_reply(sample, row["reply"]), row.get("finish"))
                if row["reply"] is not None
                else None
            )
        except InputError as error:
            raise InputError(f"{location}: {one_line(error)}") from error
        failed = Reply(sample.id, None, error="the row has no reply")
        result = result or score_reply(grade_reply, sample, failed)
        reply = Reply(sample.id, row["reply"])
        yield score_row(
            sample.id, result, confidence_fields(grade_reply, sample, reply, result) | row
        )
