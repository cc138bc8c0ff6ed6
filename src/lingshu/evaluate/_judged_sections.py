"""What a report says of a judge: the score with the range that missing verdicts leave, and how far
others agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lingshu.core.agreement import Agreement
from lingshu.evaluate._document import Part, Subtitle, Table, Text
from lingshu.evaluate._judged import JUDGE, Judged
from lingshu.evaluate.summary import percent

if TYPE_CHECKING:
    from lingshu.evaluate.report import TaskReport

HEADER = ("", "judge", "score", "missing all against", "missing all for", "judged", "failed")
NOTE = (
    "Score in percent, over all replies but those without a verdict. The two columns beside it say"
    " what it would be were every missing verdict against or for the reply."
)
AGREEMENT_HEADER = ("the judge and", "n", "agree", "Cohen's kappa", "Gwet's AC1")
AGREEMENT_NOTE = (
    "Replies that both read. Kappa takes off what chance would give; it is not defined where both"
    " gave one and the same verdict throughout, and low where nearly all verdicts are alike, which"
    " AC1 is not."
)
MOST_FAILED = 0.01


def overview(tasks: Sequence[TaskReport]) -> list[Part]:
    """The judged tasks in one table."""
    rows = [[task.title, *_row(task.judged)] for task in tasks if task.judged]
    return [Subtitle("Judge"), Table(HEADER, rows, NOTE)] if rows else []


def details(judged: Judged | None) -> list[Part]:
    """What a judge says of one task."""
    if judged is None:
        return []
    said = (
        f"Judge: {judged.model}. {judged.judged} of {judged.asked} replies"
        f" judged{_failures(judged)}. {range_text(judged)}"
    )
    parts: list[Part] = [
        Subtitle("Judge"),
        Text(f"{said} Wording of its questions: {judged.wording}."),
    ]
    if judged.all_met is not None:
        parts.append(
            Text(
                f"Replies that meet their whole rubric: {judged.all_met} of"
                f" {judged.judged + judged.empty}."
            )
        )
    if judged.dimensions:
        rows = [[name, str(one.n), percent(one.value)] for name, one in judged.dimensions.items()]
        parts.append(
            Table(
                ("criteria", "n", "score"), rows, "The score over the criteria of one name alone."
            )
        )
    compared = [
        _agreement(name, one)
        for name, one in (("the rules", judged.rules), ("people", judged.people))
        if one
    ]
    return [*parts, Table(AGREEMENT_HEADER, compared, AGREEMENT_NOTE)] if compared else parts


def warnings(tasks: Sequence[TaskReport]) -> list[str]:
    """A sentence for each task with more than 1% of its verdicts missing; of one led by its judge
    the report says it already.
    """
    return [
        f"{task.title}: the judge gave no verdict on {sum(task.judged.failed.values())} of"
        f" {task.judged.asked} replies."
        for task in tasks
        if task.judged
        and task.protocol != JUDGE
        and sum(task.judged.failed.values()) > MOST_FAILED * task.judged.asked
    ]


def range_text(judged: Judged) -> str:
    """The score as a sentence, with its range where verdicts are missing."""
    if not judged.failed:
        return f"Score {percent(judged.value)}."
    ends = f"{percent(judged.if_wrong)} to {percent(judged.if_right)}"
    return (
        f"Score {percent(judged.value)}; {ends} if the missing verdicts were all against or all for"
        " the replies."
    )


def agreement_text(judged: Judged) -> str:
    """How far others agree, as a sentence; empty where nobody else judged."""
    found = [
        f"{name}: {percent(one.agree)}% of {one.n}, kappa"
        f" {'not defined' if one.kappa is None else f'{one.kappa:.2f}'}"
        for name, one in (("the rules", judged.rules), ("people", judged.people))
        if one
    ]
    return f" Agrees with {'; with '.join(found)}." if found else ""


def _row(judged: Judged) -> list[str]:
    scores = [percent(value) for value in (judged.value, judged.if_wrong, judged.if_right)]
    return [
        judged.model,
        *scores,
        f"{judged.judged} of {judged.asked}",
        str(sum(judged.failed.values())),
    ]


def _failures(judged: Judged) -> str:
    told = ", ".join(f"{reason} {count}" for reason, count in judged.failed.items())
    return f", without a verdict {sum(judged.failed.values())} ({told})" if told else ""


def _agreement(name: str, found: Agreement) -> list[str]:
    return [
        name,
        str(found.n),
        percent(found.agree),
        *("–" if one is None else f"{one:.3f}" for one in (found.kappa, found.ac1)),
    ]
