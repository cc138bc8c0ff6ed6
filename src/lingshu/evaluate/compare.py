"""Two runs on the same items: matched by id, tested in pairs, with the smallest difference that the
sample can show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lingshu.core.errors import ArtefactError, InputError
from lingshu.evaluate.paired import PairedTest, difference, mcnemar, smallest_difference
from lingshu.evaluate.scored import ScoredRun, ScoredTask
from lingshu.evaluate.statistics import Interval, macro
from lingshu.evaluate.summary import Row, group_of, unscored, value_of


@dataclass(frozen=True)
class TaskComparison:
    """One task under one protocol in two runs, on the `pairs` items that both answered.

    `ours` and `theirs` are the accuracies on those items, `difference` is ours - theirs with its
    interval by drawing whole groups. `only_ours` and `only_theirs` count the items that one run
    alone got right; they and `test` are None for scores between right and wrong. `smallest` is the
    smallest true difference such a sample finds at the 5% level in 80% of cases. `left_out` counts
    the items that are no pair, by reason.
    """

    name: str
    title: str
    protocol: str
    pairs: int
    groups: int
    ours: float | None
    theirs: float | None
    difference: Interval
    only_ours: int | None
    only_theirs: int | None
    test: PairedTest | None
    smallest: float | None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunComparison:
    """This run against another: its folder's name, its model, a comparison per task, and the tasks
    that are no pair.

    `macro` is the unweighted mean of the differences over tasks of right or wrong, by protocol,
    where a protocol has several. `notes` says of which tasks the two runs name different data: ids
    and right answers may then agree by chance.
    """

    run: str
    model: str
    tasks: tuple[TaskComparison, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    macro: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compare(ours: ScoredRun, theirs: ScoredRun) -> RunComparison:
    """Every task that both runs have, under every protocol that both have it in.

    Raises:
        InputError: the two runs have no task in common.
    """
    others = {task.name: task for task in theirs.tasks}
    left_out = {task.name: "only in this run" for task in ours.tasks if task.name not in others}
    left_out |= {
        name: f"only in {theirs.name}"
        for name in others
        if name not in {task.name for task in ours.tasks}
    }
    both = [(task, others[task.name]) for task in ours.tasks if task.name in others]
    if not both:
        raise InputError(
            f"{ours.name} and {theirs.name} have no task in common; compare runs on the same tasks."
        )
    found = []
    for mine, other in both:
        protocols = [protocol for protocol in mine.rows if protocol in other.rows]
        if not protocols:
            left_out[mine.name] = (
                f"scored under {', '.join(mine.rows)} here and {', '.join(other.rows)} there"
            )
        found += [
            compare_rows(mine, mine.rows[protocol], other.rows[protocol], protocol=protocol)
            for protocol in protocols
        ]
    values: dict[str, list[float | None]] = {}
    for one in found:
        # scores between right and wrong are another measure, whose mean with accuracies is none
        if one.test is not None:
            values.setdefault(one.protocol, []).append(one.difference.value)
    means = {protocol: macro(each) for protocol, each in values.items() if len(each) > 1}
    notes = [
        f"{mine.title}: asked over {mine.facts['revision']} here and over {other.facts['revision']}"
        " there. Items are matched by id and right answer alone; make sure that these are the same"
        " items."
        for mine, other in both
        if mine.facts.get("revision")
        and other.facts.get("revision")
        and mine.facts["revision"] != other.facts["revision"]
    ]
    return RunComparison(theirs.name, theirs.model, tuple(found), left_out, means, tuple(notes))


def compare_rows(
    task: ScoredTask, ours: Sequence[Row], theirs: Sequence[Row], *, protocol: str
) -> TaskComparison:
    """Two files of scores of one task, matched by id.

    Raises:
        ArtefactError: an id stands twice in one file.
    """
    pairs, left_out = matched(ours, theirs)
    first, second = [value_of(row) for row, _ in pairs], [value_of(row) for _, row in pairs]
    groups = [group_of(row) for row, _ in pairs]
    n = len(pairs)
    binary = bool(pairs) and set(first) | set(second) <= {0.0, 1.0}
    return TaskComparison(
        name=task.name,
        title=task.title,
        protocol=protocol,
        pairs=n,
        groups=len(set(groups)),
        ours=sum(first) / n if n else None,
        theirs=sum(second) / n if n else None,
        difference=difference(first, second, groups),
        only_ours=sum(a > b for a, b in zip(first, second, strict=True)) if binary else None,
        only_theirs=sum(a < b for a, b in zip(first, second, strict=True)) if binary else None,
        test=(
            mcnemar([a == 1.0 for a in first], [b == 1.0 for b in second], groups)
            if binary
            else None
        ),
        smallest=smallest_difference(first, second, groups),
        left_out=left_out,
    )


def matched(
    ours: Sequence[Row], theirs: Sequence[Row]
) -> tuple[list[tuple[Row, Row]], dict[str, int]]:
    """The pairs of rows with one id, in our order, and the count of items that are no pair, by
    reason.
    """
    here, there = _by_id(ours), _by_id(theirs)
    pairs: list[tuple[Row, Row]] = []
    reasons = Counter[str]()
    for name, row in here.items():
        other = there.get(name)
        if other is None:
            reasons["only in this run"] += 1
        elif row.get("gold") != other.get("gold"):
            # The same id over another answer is another item, whatever it is called.
            reasons["another gold answer"] += 1
        elif "error" in (row["status"], other["status"]):
            reasons["failed in one run or both"] += 1
        elif unscored(row) or unscored(other):
            reasons["nothing to score"] += 1
        else:
            pairs.append((row, other))
    reasons["only in the other run"] = len(there.keys() - here.keys())
    return pairs, {reason: count for reason, count in sorted(reasons.items()) if count}


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    found = {str(row["id"]): row for row in rows}
    if len(found) < len(rows):
        twice = next(
            name for name, count in Counter(str(row["id"]) for row in rows).items() if count > 1
        )
        raise ArtefactError(
            f"the scores hold the id {twice!r} more than once; runs are compared by id, so score"
            " one of them again."
        )
    return found
