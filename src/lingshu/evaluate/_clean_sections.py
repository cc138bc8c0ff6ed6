"""The section of a report that sets the score on clean items beside the full one."""

from __future__ import annotations

from lingshu.core.shares import Interval
from lingshu.evaluate._document import Part, Points, Section, Subtitle, Table, Text
from lingshu.evaluate.clean import BOILERPLATE, CleanComparison, CleanTask
from lingshu.evaluate.summary import METHODS, interval_text, percent

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


def clean_section(found: CleanComparison) -> Section:
    """A run on its clean items, task by task."""
    said = f"Overlaps: {found.overlaps}"
    said += f", with {', '.join(found.trains)}" if found.trains else ""
    parts: list[Part] = [
        Text(f"{said}. Kinds that make an item unclean: {', '.join(found.kinds)}.")
    ]
    several = len({one.protocol for one in found.tasks}) > 1
    rows = [
        _row(one, f"{one.title}, {one.protocol}" if several else one.title) for one in found.tasks
    ]
    methods = "; ".join(dict.fromkeys(METHODS[one.full.method] for one in found.tasks))
    parts.append(
        Table(
            HEADER,
            rows,
            f"Protocol: {', '.join(dict.fromkeys(one.protocol for one in found.tasks))}. Intervals"
            f" (95%): {methods}.",
        )
    )
    told = [
        f"{title}: not compared with any training data; no clean score." for title in found.left_out
    ]
    told += [f"{test}: in the overlaps, and no task of this run." for test in found.unknown]
    told += [
        f"{one.title}: {one.elsewhere} items with overlaps are not in this run (asked in part, or"
        " other ids)."
        for one in _leading(found)
        if one.elsewhere
    ]
    if found.unread:
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.unread.items())
        told.append(
            f"Not compared, and so counted as clean: {reasons}. Mend those rows and images, and"
            " compare again."
        )
    parts += [Points(told)] if told else []
    for one in _leading(found):
        if one.kinds:
            parts += [Subtitle(f"{one.title} by kind of overlap"), _kinds(one)]
    return Section("On clean items", [*parts, Text(NOTE)])


def _leading(found: CleanComparison) -> list[CleanTask]:
    """Each task once, under the protocol it leads with."""
    return list({one.name: one for one in reversed(found.tasks)}.values())[::-1]


def _row(one: CleanTask, name: str) -> list[str]:
    gap = one.difference
    return [
        name,
        str(one.full.n),
        _share(one.full.accuracy),
        str(one.clean.n),
        _share(one.clean.accuracy),
        str(one.contaminated.n + one.contaminated.errors),
        _share(one.contaminated.accuracy),
        "–" if gap.value is None else f"{100 * gap.value:+.1f}{_ends(gap)}",
    ]


def _share(found: Interval) -> str:
    return (
        f"{percent(found.value)} ({interval_text(found)})"
        if found.low is not None
        else percent(found.value)
    )


def _ends(gap: Interval) -> str:
    return (
        ""
        if gap.low is None or gap.high is None
        else f" ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    )


def _kinds(one: CleanTask) -> Table:
    rows = [
        [
            each.kind,
            str(each.items),
            percent(each.accuracy.value),
            interval_text(each.accuracy),
            "yes" if each.removes else "no",
        ]
        for each in one.kinds
    ]
    said = "An item may have several kinds."
    if any(each.kind == BOILERPLATE and not each.removes for each in one.kinds):
        said += " Boilerplate is words that many items share and says nothing about one."
    return Table((f"{one.title}, {KINDS_HEADER[0]}", *KINDS_HEADER[1:]), rows, said)
