"""Two runs on the same items: matched by id, tested in pairs, with the detectable difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import gt, lt
from typing import NamedTuple

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
    """One task under one protocol in two runs, on the `n_pairs` items that both answered.

    `accuracy` and `baseline_accuracy` are those on these items, `difference` is the first minus the
    second, its interval by resampling whole groups. `n_only_run` and `n_only_baseline` count the
    items that one run alone got right; they and `test` are None for scores between right and wrong.
    `min_detectable` is the smallest true difference such a sample finds at the 5% level in 80% of
    cases. `excluded` counts the items without a pair, by reason.
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
    """This run against another: a comparison per task, and the tasks without a pair.

    `macro` is the unweighted mean of the differences over tasks of right or wrong, by protocol,
    where a protocol has several. `notes` lists tasks for which the two runs name different data:
    ids and right answers may then agree by chance.
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
    tasks, baseline_tasks = ({task.name: task for task in each.tasks} for each in (run, baseline))
    excluded = dict.fromkeys(tasks.keys() - baseline_tasks.keys(), "only in this run")
    excluded |= dict.fromkeys(baseline_tasks.keys() - tasks.keys(), f"only in {baseline.name}")
    names = [name for name in tasks if name in baseline_tasks]
    if not names:
        raise InputError(
            f"{run.name} and {baseline.name} have no task in common; compare runs on the same tasks."
        )
    comparisons = []
    notes = []
    for name in names:
        task, other = tasks[name], baseline_tasks[name]
        protocols = [protocol for protocol in task.rows if protocol in other.rows]
        if not protocols:
            excluded[name] = (
                f"scored under {', '.join(task.rows)} here and {', '.join(other.rows)} there"
            )
        comparisons += [
            compare_rows(task, task.rows[protocol], other.rows[protocol], protocol=protocol)
            for protocol in protocols
        ]
        revisions = [each.metadata.get("revision") for each in (task, other)]
        if all(revisions) and revisions[0] != revisions[1]:
            notes.append(
                f"{task.title}: evaluated over {revisions[0]} here and over {revisions[1]} there."
                " Items are matched by id and right answer alone; make sure that these are the same"
                " items."
            )
    values: dict[str, list[float | None]] = {}
    for comparison in comparisons:
        # Scores between right and wrong are another measure, without a common mean with accuracies.
        if comparison.test is not None:
            values.setdefault(comparison.protocol, []).append(comparison.difference.value)
    means = {name: macro(gaps) for name, gaps in values.items() if len(gaps) > 1}
    order = [name for name in (*tasks, *baseline_tasks) if name in excluded]
    return RunComparison(
        baseline.name,
        baseline.model,
        tuple(comparisons),
        {name: excluded[name] for name in order},
        means,
        tuple(notes),
    )


def compare_rows(
    task: ScoredTask, rows: Sequence[Row], baseline_rows: Sequence[Row], *, protocol: str
) -> TaskComparison:
    """Two files of scores of one task, matched by id.

    Raises:
        ArtifactError: an id occurs twice in one file.
    """
    pairs, excluded = match_rows(rows, baseline_rows)
    scores = paired_scores(pairs)
    test = scores.test()
    return TaskComparison(
        name=task.name,
        title=task.title,
        protocol=protocol,
        n_pairs=len(pairs),
        n_groups=len(set(scores.groups)),
        accuracy=macro(scores.first),
        baseline_accuracy=macro(scores.second),
        difference=difference(*scores),
        n_only_run=sum(map(gt, scores.first, scores.second)) if test else None,
        n_only_baseline=sum(map(lt, scores.first, scores.second)) if test else None,
        test=test,
        min_detectable=min_detectable_difference(*scores),
        excluded=excluded,
    )


class PairedScores(NamedTuple):
    """The values of two runs on the same items, and the group of each item."""

    first: list[float]
    second: list[float]
    groups: list[Hashable]

    def test(self) -> PairedTest | None:
        """Whether both are right equally often; None for values between right and wrong."""
        if not self.first or not {*self.first, *self.second} <= {0.0, 1.0}:
            return None
        return mcnemar(*self)


def paired_scores(pairs: Sequence[tuple[Row, Row]]) -> PairedScores:
    first, second = ([row_value(pair[side]) for pair in pairs] for side in (0, 1))
    return PairedScores(first, second, [group_key(row) for row, _ in pairs])


def match_rows(
    rows: Sequence[Row], baseline_rows: Sequence[Row]
) -> tuple[list[tuple[Row, Row]], dict[str, int]]:
    """Pairs of rows with one id, in our order, and by reason how many items have none."""
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
        [(duplicate, _)] = Counter(str(row["id"]) for row in rows).most_common(1)
        raise ArtifactError(
            f"the scores hold the id {duplicate!r} more than once; runs are compared by id, so score"
            " one of them again."
        )
    return by_id
