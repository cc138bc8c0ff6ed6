"""The section of a report that says what its scores rest on: each control beside the run on the
same items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lingshu.core.shares import Interval
from lingshu.evaluate._document import Part, Points, Section, Subtitle, Table, Text
from lingshu.evaluate.controls import Compared, ControlResult
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
    parts: list[Part] = []
    for title, results in tasks:
        parts += [Subtitle(title), *_task(title, results)]
    return Section(TITLE, [*parts, Text(NOTE)])


def _task(title: str, results: Sequence[ControlResult]) -> list[Part]:
    lines = [line for result in results for line in result.lines]
    parts: list[Part] = (
        [Table((title, *HEADER[1:]), [_row(line) for line in lines])] if lines else []
    )
    # A terminal shows no subtitles: without a table above them, these lines say whose they are.
    told = [said if lines else f"{title}, {said}" for result in results for said in _told(result)]
    parts += [Points(told)] if told else []
    for result in results:
        if result.positions:
            parts.append(_positions(result))
        if result.constants:
            rows = [
                [name, str(found.n), percent(found.value), interval_text(found)]
                for name, found in result.constants
            ]
            parts.append(
                Table(
                    ("always", "n", "accuracy", "95% interval"),
                    rows,
                    "Each constant answer to all questions.",
                    long=True,
                )
            )
    return parts


def _row(line: Compared) -> list[str]:
    gap = line.difference
    return [
        line.name,
        str(line.n),
        percent(line.control.value),
        interval_text(line.control),
        percent(line.own),
        "–" if gap.value is None else f"{100 * gap.value:+.1f}",
        _signed(gap),
        "–" if line.test is None else "< 0.001" if line.test.p < 0.001 else f"{line.test.p:.3f}",
    ]


def _signed(gap: Interval) -> str:
    return (
        "–"
        if gap.low is None or gap.high is None
        else f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
    )


def _told(result: ControlResult) -> list[str]:
    """What a control says in words: why it has no numbers, what it leaves out, what failed, and its
    own measures.
    """
    if result.why:
        return [f"{result.name}: no numbers: {result.why}."]
    told: list[str] = []
    if result.same is not None and result.same.value is not None:
        told.append(
            f"{result.name}: the chosen option stayed the same in every order for"
            f" {percent(result.same.value)}% ({interval_text(result.same)}) of {result.same.n}"
            " items; a reply without a readable choice counts as not the same."
        )
    if result.spread is not None:
        one = result.spread
        told.append(
            f"{result.name}: over {one.wordings} wordings, the task's own among them, accuracy"
            f" ranges from {percent(one.lowest)} to {percent(one.highest)}, standard deviation"
            f" {100 * one.deviation:.1f} (n = {one.n})."
        )
    if result.left_out:
        told.append(f"{result.name}: left out: {_counts(result.left_out)}.")
    errors = sum(line.errors for line in result.lines)
    if errors:
        told.append(f"{result.name}: {errors} questions failed and are left out.")
    return told


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())


def _positions(result: ControlResult) -> Table:
    chosen = sum(each.chosen for each in result.positions)
    rows = [
        [
            each.letter,
            str(each.right_answer_here.n),
            percent(each.right_answer_here.value),
            interval_text(each.right_answer_here),
            percent(each.chosen / chosen if chosen else None),
        ]
        for each in result.positions
    ]
    header = ("right answer at", "asked", "accuracy", "95% interval", "chosen (% of choices)")
    return Table(
        header,
        rows,
        "By position of the right answer, over the order of the task and the others.",
        long=True,
    )
