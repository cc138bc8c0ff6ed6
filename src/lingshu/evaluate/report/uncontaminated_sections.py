"""The section of a report that sets the score on clean items beside the full one."""

from __future__ import annotations

from lingshu.core.stats import Interval
from lingshu.evaluate.report.document import (
    BulletList,
    Heading,
    Paragraph,
    Section,
    SectionPart,
    Table,
)
from lingshu.evaluate.summary import METHODS, interval_text, percent
from lingshu.evaluate.uncontaminated import BOILERPLATE, CleanComparison, CleanTask

HEADER = (
    "",
    "n",
    "all items",
    "clean n",
    "clean items",
    "removed n",
    "removed items",
    "removed - clean",
)
KINDS_HEADER = ("kind of overlap", "items", "accuracy on them", "95% interval", "counts as unclean")
NOTE = (
    "Clean: items without an overlap of the kinds named. Removed: those with one; failed ones are"
    " in no accuracy. Removed - clean in points of a hundred, between different items, which may"
    " also differ in how hard they are: a gap is a hint of memory and no proof of it. Its interval"
    " is made from those of the two shares (Newcombe's way), as of independent items."
)


def clean_section(comparison: CleanComparison) -> Section:
    """A run on its clean items, task by task."""
    caption = f"Overlaps: {comparison.overlaps}"
    caption += f", with {', '.join(comparison.training_sets)}" if comparison.training_sets else ""
    parts: list[SectionPart] = [
        Paragraph(f"{caption}. Kinds that make an item unclean: {', '.join(comparison.kinds)}.")
    ]
    has_several_protocols = len({task.protocol for task in comparison.tasks}) > 1
    rows = [
        _row(task, f"{task.title}, {task.protocol}" if has_several_protocols else task.title)
        for task in comparison.tasks
    ]
    methods = "; ".join(dict.fromkeys(METHODS[task.full.method] for task in comparison.tasks))
    parts.append(
        Table(
            HEADER,
            rows,
            f"Protocol: {', '.join(dict.fromkeys(task.protocol for task in comparison.tasks))}. Intervals"
            f" (95%): {methods}.",
        )
    )
    notes = [
        f"{title}: not compared with any training data; no clean score."
        for title in comparison.excluded
    ]
    notes += [
        f"{test}: in the overlaps, and no task of this run."
        for test in comparison.unknown_test_sets
    ]
    notes += [
        f"{task.title}: {task.n_not_in_run} items with overlaps are not in this run (asked in part, or"
        " other ids)."
        for task in _primary_tasks(comparison)
        if task.n_not_in_run
    ]
    if comparison.not_compared:
        reasons = ", ".join(
            f"{reason} {count}" for reason, count in comparison.not_compared.items()
        )
        notes.append(
            f"Not compared, and so counted as clean: {reasons}. Mend those rows and images, and"
            " compare again."
        )
    parts += [BulletList(notes)] if notes else []
    for task in _primary_tasks(comparison):
        if task.kinds:
            parts += [Heading(f"{task.title} by kind of overlap"), _kinds_table(task)]
    return Section("On clean items", [*parts, Paragraph(NOTE)])


def _primary_tasks(comparison: CleanComparison) -> list[CleanTask]:
    """Each task once, under the protocol it leads with."""
    return list({task.name: task for task in reversed(comparison.tasks)}.values())[::-1]


def _row(task: CleanTask, name: str) -> list[str]:
    gap = task.difference
    return [
        name,
        str(task.full.n),
        _accuracy_text(task.full.accuracy),
        str(task.clean.n),
        _accuracy_text(task.clean.accuracy),
        str(task.contaminated.n + task.contaminated.errors),
        _accuracy_text(task.contaminated.accuracy),
        "–" if gap.value is None else f"{100 * gap.value:+.1f}{_gap_interval_text(gap)}",
    ]


def _accuracy_text(interval: Interval) -> str:
    return (
        f"{percent(interval.value)} ({interval_text(interval)})"
        if interval.low is not None
        else percent(interval.value)
    )


def _gap_interval_text(gap: Interval) -> str:
    return (
        ""
        if gap.low is None or gap.high is None
        else f" ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    )


def _kinds_table(task: CleanTask) -> Table:
    rows = [
        [
            kind_count.kind,
            str(kind_count.n_items),
            percent(kind_count.accuracy.value),
            interval_text(kind_count.accuracy),
            "yes" if kind_count.is_excluded else "no",
        ]
        for kind_count in task.kinds
    ]
    caption = "An item may have several kinds."
    if any(
        kind_count.kind == BOILERPLATE and not kind_count.is_excluded for kind_count in task.kinds
    ):
        caption += " Boilerplate is words that many items share and says nothing about one."
    return Table((f"{task.title}, {KINDS_HEADER[0]}", *KINDS_HEADER[1:]), rows, caption)
