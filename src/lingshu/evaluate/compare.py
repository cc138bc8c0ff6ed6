"""Two runs on the same items: matched by id, tested in pairs, with the smallest difference that the
sample can show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lingshu.core.errors import ArtifactError, InputError
from lingshu.evaluate.statistics import (
    Interval,
    PairedTest,
    difference,
    macro,
    mcnemar,
    min_detectable_difference,
)
from lingshu.evaluate.store import ScoredRun, ScoredTask
from lingshu.evaluate.summary import Row, group_key, is_unscored, row_value


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
    n_pairs: int
    n_groups: int
    accuracy: float | None
    baseline_accuracy: float | None
    difference: Interval
    n_only_run: int | None
    n_only_baseline: int | None
    test: PairedTest | None
    min_detectable: float | None
    excluded: Mapping[str, int] = field(default_factory=dict)

    @property
    def test_name(self) -> str:
        return self.test.name if self.test else "no test for scores between right and wrong"


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
    excluded: Mapping[str, str] = field(default_factory=dict)
    macro: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compare(run: ScoredRun, baseline: ScoredRun) -> RunComparison:
    """Every task that both runs have, under every protocol that both have it in.

    Raises:
        InputError: the two runs have no task in common.
    """
    baseline_tasks = {task.name: task for task in baseline.tasks}
    excluded = {
        task.name: "only in this run" for task in run.tasks if task.name not in baseline_tasks
    }
    excluded |= {
        name: f"only in {baseline.name}"
        for name in baseline_tasks
        if name not in {task.name for task in run.tasks}
    }
    task_pairs = [
        (task, baseline_tasks[task.name]) for task in run.tasks if task.name in baseline_tasks
    ]
    if not task_pairs:
        raise InputError(
            f"{run.name} and {baseline.name} have no task in common; compare runs on the same tasks."
        )
    comparisons = []
    for run_task, baseline_task in task_pairs:
        protocols = [protocol for protocol in run_task.rows if protocol in baseline_task.rows]
        if not protocols:
            excluded[run_task.name] = (
                f"scored under {', '.join(run_task.rows)} here and {', '.join(baseline_task.rows)} there"
            )
        comparisons += [
            compare_rows(
                run_task, run_task.rows[protocol], baseline_task.rows[protocol], protocol=protocol
            )
            for protocol in protocols
        ]
    values: dict[str, list[float | None]] = {}
    for comparison in comparisons:
        # scores between right and wrong are another measure, whose mean with accuracies is none
        if comparison.test is not None:
            values.setdefault(comparison.protocol, []).append(comparison.difference.value)
    means = {
        protocol: macro(differences)
        for protocol, differences in values.items()
        if len(differences) > 1
    }
    notes = [
        f"{run_task.title}: asked over {run_task.metadata['revision']} here and over {baseline_task.metadata['revision']}"
        " there. Items are matched by id and right answer alone; make sure that these are the same"
        " items."
        for run_task, baseline_task in task_pairs
        if run_task.metadata.get("revision")
        and baseline_task.metadata.get("revision")
        and run_task.metadata["revision"] != baseline_task.metadata["revision"]
    ]
    return RunComparison(
        baseline.name, baseline.model, tuple(comparisons), excluded, means, tuple(notes)
    )


def compare_rows(
    task: ScoredTask, rows: Sequence[Row], baseline_rows: Sequence[Row], *, protocol: str
) -> TaskComparison:
    """Two files of scores of one task, matched by id.

    Raises:
        ArtefactError: an id stands twice in one file.
    """
    pairs, excluded = match_rows(rows, baseline_rows)
    values, baseline_values = (
        [row_value(row) for row, _ in pairs],
        [row_value(row) for _, row in pairs],
    )
    groups = [group_key(row) for row, _ in pairs]
    n = len(pairs)
    binary = bool(pairs) and set(values) | set(baseline_values) <= {0.0, 1.0}
    return TaskComparison(
        name=task.name,
        title=task.title,
        protocol=protocol,
        n_pairs=n,
        n_groups=len(set(groups)),
        accuracy=sum(values) / n if n else None,
        baseline_accuracy=sum(baseline_values) / n if n else None,
        difference=difference(values, baseline_values, groups),
        n_only_run=sum(a > b for a, b in zip(values, baseline_values, strict=True))
        if binary
        else None,
        n_only_baseline=sum(a < b for a, b in zip(values, baseline_values, strict=True))
        if binary
        else None,
        test=(
            mcnemar([a == 1.0 for a in values], [b == 1.0 for b in baseline_values], groups)
            if binary
            else None
        ),
        min_detectable=min_detectable_difference(values, baseline_values, groups),
        excluded=excluded,
    )


def match_rows(
    rows: Sequence[Row], baseline_rows: Sequence[Row]
) -> tuple[list[tuple[Row, Row]], dict[str, int]]:
    """The pairs of rows with one id, in our order, and the count of items that are no pair, by
    reason.
    """
    by_id, baseline_by_id = _index_by_id(rows), _index_by_id(baseline_rows)
    pairs: list[tuple[Row, Row]] = []
    reasons = Counter[str]()
    for name, row in by_id.items():
        baseline_row = baseline_by_id.get(name)
        if baseline_row is None:
            reasons["only in this run"] += 1
        elif row.get("gold") != baseline_row.get("gold"):
            # The same id over another answer is another item, whatever it is called.
            reasons["another gold answer"] += 1
        elif "error" in (row["status"], baseline_row["status"]):
            reasons["failed in one run or both"] += 1
        elif is_unscored(row) or is_unscored(baseline_row):
            reasons["nothing to score"] += 1
        else:
            pairs.append((row, baseline_row))
    reasons["only in the other run"] = len(baseline_by_id.keys() - by_id.keys())
    return pairs, {reason: count for reason, count in sorted(reasons.items()) if count}


def _index_by_id(rows: Sequence[Row]) -> dict[str, Row]:
    by_id = {str(row["id"]): row for row in rows}
    if len(by_id) < len(rows):
        duplicate = next(
            name for name, count in Counter(str(row["id"]) for row in rows).items() if count > 1
        )
        raise ArtifactError(
            f"the scores hold the id {duplicate!r} more than once; runs are compared by id, so score"
            " one of them again."
        )
    return by_id
