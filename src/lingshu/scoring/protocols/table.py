"""The protocols: `strict`, ours; `paper`, the first published rules; `medevalkit`, today's usual.

A protocol changes how a reply is read and how right answers are added up, never the question.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lingshu.core.errors import InputError, UnknownNameError, suggest_name
from lingshu.core.reply_text import require_golds
from lingshu.core.types import Sample, Score, Scorer
from lingshu.scoring.protocols import medevalkit

ProtocolName = Literal["strict", "paper", "medevalkit"]
PROTOCOLS: tuple[ProtocolName, ...] = ("strict", "paper", "medevalkit")
_PUBLISHED: Mapping[str, Scorer] = {"paper": medevalkit.paper_score, "medevalkit": medevalkit.score}
# What the released code does to closed answers when a judge is on; it differs by benchmark.
ClosedHandling = Literal["kept", "lost", "twice"]


def protocol_scorer(task_score: Scorer, protocol: str) -> Scorer:
    """The scorer of a task under a protocol; `strict`, reports and rubrics keep the task's own.

    Raises:
        UnknownNameError: no such protocol.
    """
    _check_name(protocol)
    if protocol == "strict":
        return task_score

    def score(sample: Sample, reply: str) -> Score:
        if sample.meta.kind in ("report", "rubric"):
            return task_score(sample, reply)
        if not require_golds(sample)[0].strip():
            raise InputError(
                f"sample {sample.id!r} has an empty gold; only answered samples can be scored."
            )
        return _PUBLISHED[protocol](sample, reply)

    return score


def quirks(protocol: str) -> tuple[str, ...]:
    """What a protocol is known to get wrong, a sentence each; none for `strict`.

    Raises:
        UnknownNameError: no such protocol.
    """
    _check_name(protocol)
    issues = _known_issues()
    return () if protocol == "strict" else (*issues["common"], *issues[protocol])


@cache
def _known_issues() -> Mapping[str, Sequence[str]]:
    path = Path(__file__).with_name("known_issues.json")
    return json.loads(path.read_text(encoding="utf-8"))


def _check_name(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UnknownNameError(
            f"there is no protocol {protocol!r}; {suggest_name(protocol, PROTOCOLS)}"
        )


class Accuracy(NamedTuple):
    """Questions, right answers, and right / total; no accuracy for no questions."""

    total: int
    right: int
    acc: float | None


class Aggregate(NamedTuple):
    """All, open, closed questions; those that a judge failed on are only in `awaiting_judge`."""

    all: Accuracy
    open: Accuracy
    closed: Accuracy
    awaiting_judge: int = 0


def aggregate(
    protocol: str, rows: Iterable[Mapping[str, Any]], *, closed: ClosedHandling = "kept"
) -> Aggregate:
    """Right answers over all, open and closed questions, as the published tables count them.

    A row has `value` and `kind` ("open", else closed) as in a scores file, and may have `judge`:
    True, False, or None for a judge that failed; one such row means that a judge is on. A failed
    reply counts as a wrong answer, as in the published tables; reports leave it out. `closed`
    is what the released code does to closed answers once a judge is on.

    Raises:
        UnknownNameError: no such protocol.
    """
    _check_name(protocol)
    rows = list(rows)
    judged = any("judge" in row for row in rows)
    if protocol == "medevalkit":
        return _aggregate_medevalkit(rows, judged=judged, closed=closed)
    # Under the first rules a judge replaces the rule for every answer it saw; under ours, for open
    # answers alone.
    verdicts: list[tuple[bool, bool | None]] = []
    for row in rows:
        is_open = row.get("kind") == "open"
        by_judge = judged and (is_open or (protocol == "paper" and "judge" in row))
        verdicts.append((is_open, row.get("judge") if by_judge else row.get("value") == 1.0))
    decided = [(is_open, verdict) for is_open, verdict in verdicts if verdict is not None]
    return Aggregate(
        _accuracy(verdict for _, verdict in decided),
        _accuracy(verdict for is_open, verdict in decided if is_open),
        _accuracy(verdict for is_open, verdict in decided if not is_open),
        awaiting_judge=len(verdicts) - len(decided),
    )


def _accuracy(verdicts: Iterable[bool]) -> Accuracy:
    values = list(verdicts)
    return Accuracy(len(values), sum(values), sum(values) / len(values) if values else None)


def _aggregate_medevalkit(
    rows: Sequence[Mapping[str, Any]], *, judged: bool, closed: ClosedHandling
) -> Aggregate:
    open_rows = [row for row in rows if row.get("kind") == "open"]
    closed_rows = [row for row in rows if row.get("kind") != "open"]
    n_open_correct = sum(
        bool(row.get("judge")) if judged else row.get("value") == 1.0 for row in open_rows
    )
    n_closed_correct = sum(row.get("value") == 1.0 for row in closed_rows)
    if judged and closed == "lost":
        n_closed_correct = 0
    if judged and closed == "twice":
        n_closed_correct += sum(bool(row.get("judge")) for row in closed_rows)
    n_correct, n_open, n_closed = (
        n_open_correct + n_closed_correct,
        len(open_rows),
        len(closed_rows),
    )
    open_acc = n_open_correct / n_open if n_open else None
    if open_acc and judged:
        open_acc /= n_open  # divided twice, as released
    return Aggregate(
        Accuracy(len(rows), n_correct, n_correct / len(rows) if rows else None),
        Accuracy(n_open, n_open_correct, open_acc),
        Accuracy(n_closed, n_closed_correct, n_closed_correct / n_closed if n_closed else None),
    )
