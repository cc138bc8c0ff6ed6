"""`lingshu score`: score replies in a JSONL file, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

from lingshu.core import registry
from lingshu.core.artifacts import score_row, write_scores
from lingshu.core.errors import InputError, one_line
from lingshu.core.files import enumerate_jsonl, sha256_file, write_json
from lingshu.core.rows import sample_from_row
from lingshu.core.run_card import RunCard
from lingshu.core.types import Drop, Reply, Sample, Scorer


def score(
    file: Path,
    /,
    *,
    scorer: str,
    protocol: Literal["strict", "paper", "medevalkit"] = "strict",
    out: Path | None = None,
    metric_weights: Path | None = None,
) -> int:
    """Score the rows of FILE and print a JSON summary: n, right, accuracy and right / read with 95%
    intervals, statuses.

    A row is {"id", "question", "choices"?, "gold", "reply", "kind"?, "lang"?, "group"?}: choices
    with or without their letters, gold a letter, a text or a list of accepted texts, reply null
    where generation failed.

    Args:
        file: JSONL file with one row per reply.
        scorer: a name from `lingshu list scoring`, or a .py file with a function score(sample,
            reply).
        protocol: strict grades by the scorer; paper and medevalkit grade choice, yes/no, closed and
            open questions by published rules, with their known faults.
        out: file for one scores row per reply; other keys of a row are carried through.
        metric_weights: folder with the models of report metrics; those that are not there are said
            to be unavailable.
    """
    from lingshu.evaluate.summary import summarize
    from lingshu.scoring.protocols import table

    grade_reply = table.protocol_scorer(
        cast("Scorer", registry.get_attribute("scoring", scorer, "score")), protocol
    )
    rows = [{**row, "protocol": protocol} for row in score_rows(file, grade_reply)]
    if not rows:
        raise InputError(f"{file} holds no rows; give one JSON object a line.")
    metrics = _metrics(rows, scorer, metric_weights)
    summary = summarize(rows)
    counts = {
        "n": summary.n,
        **{f"status_{status}": count for status, count in summary.statuses.items()},
    }
    if out is not None:
        write_scores(out, rows)
        card = RunCard(
            "score",
            {"file": str(file), "scorer": scorer, "protocol": protocol},
            counts=counts,
            hashes={file.name: sha256_file(file)},
        )
        write_json(out.with_name(f"{out.name}.run.json"), asdict(card))
    print(
        json.dumps(
            {
                "protocol": protocol,
                "n": summary.n,
                "correct": summary.correct,
                "accuracy": summary.accuracy._asdict(),
                "parsed_accuracy": summary.parsed_accuracy._asdict(),
                "statuses": dict(summary.statuses),
                # Several replies to one question are fine here, a file joined twice by mistake is
                # not: the reader decides.
                "repeated_ids": len(rows) - len({row["id"] for row in rows}),
                "known_issues": list(table.quirks(protocol)),
                **metrics,
            },
            indent=2,
        )
    )
    return 1 if summary.statuses["error"] else 0


def _metrics(rows: list[dict[str, Any]], scorer: str, weights: Path | None) -> dict[str, Any]:
    """What the scorer's METRICS say of all rows, which each get their share; nothing where it has
    none.
    """
    from lingshu.evaluate.metrics import compute_metrics, metrics_table, sample_values

    metrics = getattr(registry.load("scoring", scorer), "METRICS", ())
    if not metrics:
        return {}
    samples = [_sample(row, line_number) for line_number, row in enumerate(rows, 1)]
    metric_results = compute_metrics(
        metrics, samples, [row["reply"] for row in rows], weights=weights
    )
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
    from lingshu.evaluate.score import score_reply

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
            result = grade_reply(sample, row["reply"]) if row["reply"] is not None else None
        except InputError as error:
            raise InputError(f"{location}: {one_line(error)}") from error
        failed = Reply(sample.id, None, error="the row has no reply")
        yield score_row(sample.id, result or score_reply(grade_reply, sample, failed), row)
