"""The section of a report that says what its scores rest on: each control beside the run on the
same items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lingshu.core.stats import Interval
from lingshu.evaluate.controls import ControlComparison, ControlResult
from lingshu.evaluate.report.document import (
    BulletList,
    Heading,
    Paragraph,
    Section,
    SectionPart,
    Table,
)
from lingshu.evaluate.summary import interval_text, percent

TITLE = "Controls: what the scores rest on"
HEADER = ("", "n", "control", "95% interval", "this run", "run - control", "95% interval", "p")
NOTE = (
    "The same questions under another condition, asked of the same model and scored by the same"
    " rules (strict), beside this run on the items that both answered; n counts those. Blind: every"
    " image replaced by a black one of the same size. Shuffle: each item counts by the share of the"
    " other orders of its options in which it was right. Constant: one answer to every question, no"
    " model asked. Wording: the instruction in other words. Run - control in points of a hundred,"
    " its interval by paired bootstrap over whole groups, p by McNemar's test as between two runs;"
    " both not adjusted for several controls."
)


def controls_section(tasks: Sequence[tuple[str, Sequence[ControlResult]]]) -> Section:
    """The controls of tasks, given by their titles."""
    parts: list[SectionPart] = []
    for title, results in tasks:
        parts += [Heading(title), *_task(title, results)]
    return Section(TITLE, [*parts, Paragraph(NOTE)])


def _task(title: str, results: Sequence[ControlResult]) -> list[SectionPart]:
    comparisons = [comparison for result in results for comparison in result.comparisons]
    parts: list[SectionPart] = (
        [Table((title, *HEADER[1:]), [_row(comparison) for comparison in comparisons])]
        if comparisons
        else []
    )
    # A terminal shows no subtitles: without a table above them, these lines say whose they are.
    notes = [
        note if comparisons else f"{title}, {note}" for result in results for note in _notes(result)
    ]
    parts += [BulletList(notes)] if notes else []
    for result in results:
        if result.positions:
            parts.append(_positions_table(result))
        if result.constants:
            rows = [
                [name, str(interval.n), percent(interval.value), interval_text(interval)]
                for name, interval in result.constants
            ]
            parts.append(
                Table(
                    ("always", "n", "accuracy", "95% interval"),
                    rows,
                    "Each constant answer to all questions.",
                    is_long=True,
                )
            )
    return parts


def _row(comparison: ControlComparison) -> list[str]:
    gap = comparison.difference
    return [
        comparison.name,
        str(comparison.n),
        percent(comparison.control_accuracy.value),
        interval_text(comparison.control_accuracy),
        percent(comparison.run_accuracy),
        "–" if gap.value is None else f"{100 * gap.value:+.1f}",
        _format_signed(gap),
        "–"
        if comparison.test is None
        else "< 0.001"
        if comparison.test.p_value < 0.001
        else f"{comparison.test.p_value:.3f}",
    ]


def _format_signed(gap: Interval) -> str:
    return (
        "–"
        if gap.low is None or gap.high is None
        else f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
    )


def _notes(result: ControlResult) -> list[str]:
    """What a control says in words: why it has no numbers, what it leaves out, what failed, and its
    own measures.
    """
    if result.reason:
        return [f"{result.name}: no numbers: {result.reason}."]
    notes: list[str] = []
    if result.consistency is not None and result.consistency.value is not None:
        notes.append(
            f"{result.name}: the chosen option stayed the same in every order for"
            f" {percent(result.consistency.value)}% ({interval_text(result.consistency)}) of {result.consistency.n}"
            " items; a reply without a readable choice counts as not the same."
        )
    if result.spread is not None:
        spread = result.spread
        notes.append(
            f"{result.name}: over {spread.n_paraphrases} wordings, the task's own among them, accuracy"
            f" ranges from {percent(spread.min_accuracy)} to {percent(spread.max_accuracy)}, standard deviation"
            f" {100 * spread.std:.1f} (n = {spread.n})."
        )
    if result.excluded:
        notes.append(f"{result.name}: left out: {_format_counts(result.excluded)}.")
    errors = sum(comparison.n_errors for comparison in result.comparisons)
    if errors:
        notes.append(f"{result.name}: {errors} questions failed and are left out.")
    return notes


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())


def _positions_table(result: ControlResult) -> Table:
    n_chosen = sum(position.n_chosen for position in result.positions)
    rows = [
        [
            position.letter,
            str(position.accuracy.n),
            percent(position.accuracy.value),
            interval_text(position.accuracy),
            percent(position.n_chosen / n_chosen if n_chosen else None),
        ]
        for position in result.positions
    ]
    header = ("right answer at", "asked", "accuracy", "95% interval", "chosen (% of choices)")
    return Table(
        header,
        rows,
        "By position of the right answer, over the order of the task and the others.",
        is_long=True,
    )
