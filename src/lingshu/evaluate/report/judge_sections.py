"""What a report says of a judge: the score with the range that missing verdicts leave, and how far
others agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lingshu.core.agreement import Agreement
from lingshu.evaluate.judgments import JUDGE, JudgeResult
from lingshu.evaluate.report.document import Heading, Paragraph, SectionPart, Table
from lingshu.evaluate.summary import percent

if TYPE_CHECKING:
    from lingshu.evaluate.report.build import TaskReport

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
MAX_FAILURE_RATE = 0.01


def overview(tasks: Sequence[TaskReport]) -> list[SectionPart]:
    """The judged tasks in one table."""
    rows = [[task.title, *_row(task.judge_result)] for task in tasks if task.judge_result]
    return [Heading("Judge"), Table(HEADER, rows, NOTE)] if rows else []


def details(result: JudgeResult | None) -> list[SectionPart]:
    """What a judge says of one task."""
    if result is None:
        return []
    summary = (
        f"Judge: {result.model}. {result.n_judged} of {result.n_requested} replies"
        f" judged{_failures(result)}. {range_text(result)}"
    )
    parts: list[SectionPart] = [
        Heading("Judge"),
        Paragraph(f"{summary} Wording of its questions: {result.prompt_digest}."),
    ]
    if result.n_all_met is not None:
        parts.append(
            Paragraph(
                f"Replies that meet their whole rubric: {result.n_all_met} of"
                f" {result.n_judged + result.n_empty}."
            )
        )
    if result.criterion_scores:
        rows = [
            [name, str(score.n), percent(score.value)]
            for name, score in result.criterion_scores.items()
        ]
        parts.append(
            Table(
                ("criteria", "n", "score"), rows, "The score over the criteria of one name alone."
            )
        )
    agreement_rows = [
        _agreement(name, score)
        for name, score in (
            ("the rules", result.rule_agreement),
            ("people", result.human_agreement),
        )
        if score
    ]
    return (
        [*parts, Table(AGREEMENT_HEADER, agreement_rows, AGREEMENT_NOTE)]
        if agreement_rows
        else parts
    )


def warnings(tasks: Sequence[TaskReport]) -> list[str]:
    """A sentence for each task with more than 1% of its verdicts missing; of one led by its judge
    the report says it already.
    """
    return [
        f"{task.title}: the judge gave no verdict on {sum(task.judge_result.failed.values())} of"
        f" {task.judge_result.n_requested} replies."
        for task in tasks
        if task.judge_result
        and task.protocol != JUDGE
        and sum(task.judge_result.failed.values())
        > MAX_FAILURE_RATE * task.judge_result.n_requested
    ]


def range_text(result: JudgeResult) -> str:
    """The score as a sentence, with its range where verdicts are missing."""
    if not result.failed:
        return f"Score {percent(result.value)}."
    bounds = f"{percent(result.lower_bound)} to {percent(result.upper_bound)}"
    return (
        f"Score {percent(result.value)}; {bounds} if the missing verdicts were all against or all for"
        " the replies."
    )


def agreement_text(result: JudgeResult) -> str:
    """How far others agree, as a sentence; empty where nobody else judged."""
    parts = [
        f"{name}: {percent(item.observed_agreement)}% of {item.n}, kappa"
        f" {'not defined' if item.kappa is None else f'{item.kappa:.2f}'}"
        for name, item in (("the rules", result.rule_agreement), ("people", result.human_agreement))
        if item
    ]
    return f" Agrees with {'; with '.join(parts)}." if parts else ""


def _row(result: JudgeResult) -> list[str]:
    scores = [percent(value) for value in (result.value, result.lower_bound, result.upper_bound)]
    return [
        result.model,
        *scores,
        f"{result.n_judged} of {result.n_requested}",
        str(sum(result.failed.values())),
    ]


def _failures(result: JudgeResult) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in result.failed.items())
    return f", without a verdict {sum(result.failed.values())} ({reasons})" if reasons else ""


def _agreement(name: str, agreement: Agreement) -> list[str]:
    return [
        name,
        str(agreement.n),
        percent(agreement.observed_agreement),
        *("–" if item is None else f"{item:.3f}" for item in (agreement.kappa, agreement.ac1)),
    ]
