"""A judge's results on a task: score, range, agreement with rules and people; rubric arithmetic.

OUT/<task>/judge.json holds them, made from the rows of scores.judge.jsonl and from human labels;
the report shows it.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import enumerate_jsonl, read_json, write_json
from lingshu.core.stats import Agreement, agreement
from lingshu.evaluate.summary import Row, is_unscored, percent, row_value

JUDGE = "judge"  # the protocol that the verdicts are scores under
JUDGE_FILE = "judge.json"
JUDGE_FAILED = "judge failed:"  # begins the note of a reply without a verdict
VERDICTS = ("correct", "incorrect")
CRITERION_VERDICTS = ("met", "not met")


# --- rubrics: HealthBench (arXiv 2505.08775). Yes-or-no dimensions of one point are the same formula.


def rubric_score(points: Sequence[float], met: Sequence[bool]) -> float | None:
    """Points of met criteria over all positive points, perhaps negative; None without such."""
    max_points = sum(point for point in points if point > 0)
    earned_points = sum(point for point, is_met in zip(points, met, strict=True) if is_met)
    return earned_points / max_points if max_points > 0 else None


def rubric_range(points: Sequence[float], met: Sequence[bool | None]) -> tuple[float, float] | None:
    """The lowest and highest score that missing verdicts leave open; None without a score."""
    pairs = list(zip(points, met, strict=True))
    lower = rubric_score(points, [point < 0 if flag is None else flag for point, flag in pairs])
    upper = rubric_score(points, [point > 0 if flag is None else flag for point, flag in pairs])
    return None if lower is None or upper is None else (lower, upper)


def all_met(points: Sequence[float], met: Sequence[bool]) -> bool:
    """Whether a reply does all it should and nothing it should not; 0 points do not count."""
    pairs = zip(points, met, strict=True)
    return all(point == 0 or is_met == (point > 0) for point, is_met in pairs)


def clipped_mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known scores, clipped to 0..1 after averaging; None where there is none."""
    scores = [value for value in values if value is not None]
    return min(1.0, max(0.0, math.fsum(scores) / len(scores))) if scores else None


# --- results


@dataclass(frozen=True)
class CriterionScore:
    """The score over the criteria of one name alone, and how many replies have one."""

    value: float | None
    n: int


@dataclass(frozen=True)
class JudgeResult:
    """The verdicts on one task: `n_requested` replies needed one, `failed` have none, by reason.

    `value` is the mean over all replies but the failed ones; `lower_bound` and `upper_bound` are
    what it would be if every missing verdict were against or for the reply. `n_all_met` counts the
    replies that meet a whole rubric, among the judged and the `n_empty` ones, which no judge sees.
    `rule_agreement` compares verdicts with the rules' on the replies that both read,
    `human_agreement` with labels: by reply, or by criterion of a rubric.
    """

    model: str
    prompt_digest: str
    rubric: bool
    n_requested: int
    failed: Mapping[str, int]
    value: float | None
    lower_bound: float | None
    upper_bound: float | None
    n_all_met: int | None = None
    n_empty: int = 0
    criterion_scores: Mapping[str, CriterionScore] = field(default_factory=dict)
    rule_agreement: Agreement | None = None
    human_agreement: Agreement | None = None

    @property
    def n_judged(self) -> int:
        return self.n_requested - self.n_failed

    @property
    def n_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def score_text(self) -> str:
        """The score as a sentence, with its range where verdicts are missing."""
        if not self.failed:
            return f"Score {percent(self.value)}."
        return (
            f"Score {percent(self.value)}; {percent(self.lower_bound)} to"
            f" {percent(self.upper_bound)} if the missing verdicts were all against or all for the"
            " replies."
        )

    @property
    def summary_text(self) -> str:
        """The result in one line: counts, the score, and agreement with the rules and people."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.failed.items())
        failures = f", without a verdict: {reasons}" if reasons else ""
        parts = [
            f"{name}: {percent(item.observed_agreement)}% of {item.n}, kappa"
            f" {'not defined' if item.kappa is None else f'{item.kappa:.2f}'}"
            for name, item in (("the rules", self.rule_agreement), ("people", self.human_agreement))
            if item
        ]
        agreement = f" Agrees with {'; with '.join(parts)}." if parts else ""
        counts = f"{self.n_judged} of {self.n_requested} judged{failures}."
        return f"{counts} {self.score_text}{agreement}"


@dataclass(frozen=True)
class HumanLabel:
    """A person's verdict on a reply, or for each criterion whether it is met (None: not stated)."""

    id: str
    verdict: str | None = None
    met: tuple[bool | None, ...] | None = None
    task: str | None = None


def read_labels(path: Path) -> list[HumanLabel]:
    """Human labels: rows {"id", "verdict": "correct" | "incorrect"} or {"id", "met": [true, false,
    null]}, optionally with "task".

    Raises:
        InputError: no label, a line that is not one, or a second one for the same reply.
    """
    labels: dict[tuple[str | None, str], HumanLabel] = {}
    for number, row in enumerate_jsonl(path, allow_truncated=False):
        name, verdict, met, task = (row.get(key) for key in ("id", "verdict", "met", "task"))
        flags = tuple(met) if isinstance(met, list) else None
        has_flags = bool(flags) and all(flag is None or isinstance(flag, bool) for flag in flags)
        is_label = isinstance(task, str | None) and (verdict in VERDICTS) != has_flags
        if not isinstance(name, str) or not is_label:
            raise InputError(
                f'{path}, line {number}: not a label; write {{"id", "verdict": "correct" or'
                ' "incorrect"} or {"id", "met": [true, false, ...]}.'
            )
        if (task, name) in labels:
            raise InputError(f"{path}, line {number}: {name!r} has a label already; keep one.")
        labels[task, name] = HumanLabel(name, verdict, flags, task)
    if not labels:
        raise InputError(f"{path} holds no label; write one JSON object per line.")
    return list(labels.values())


class JudgeCounts:
    """Collects rows of scores.judge.jsonl; keeps only counts, values and pairs of verdicts."""

    def __init__(
        self, task: str, labels: Iterable[HumanLabel] = (), *, rubric: bool = False
    ) -> None:
        task_labels = [
            label
            for label in labels
            if label.task in (None, task) and (label.met is not None) == rubric
        ]
        # A label that names the task wins over one for any task.
        task_labels.sort(key=lambda label: label.task is not None)
        self._labels = {label.id: label for label in task_labels}
        self._rubric = rubric
        self._n_requested = self._n_all_met = self._n_empty = self.n_labeled = 0
        self._failed = Counter[str]()
        self._values: list[float] = []
        self._bounds: list[tuple[float, float]] = []
        self._criterion_scores: dict[str, list[float]] = defaultdict(list)
        self._rule_pairs: list[tuple[str, str]] = []
        self._human_pairs: list[tuple[str, str]] = []

    def add(self, row: Row) -> None:
        label = self._labels.get(str(row["id"]))
        self.n_labeled += label is not None
        if row["status"] != "error" and not is_unscored(row):
            self._values.append(row_value(row))
        judged = row.get("judge")
        if judged is None:
            self._n_empty += row["status"] == "empty"
            return
        self._n_requested += 1
        if row["status"] == "error":
            self._failed[judged["failed"]] += 1
            if judged["range"] is not None:
                self._bounds.append(tuple(judged["range"]))
        else:
            self._n_all_met += bool(judged.get("all_met"))
        if "criteria" in judged:
            self._add_criteria(judged["criteria"], row, label)
        elif judged.get("verdict") is not None:
            verdict, rule = judged["verdict"], row["rule"]
            if rule["status"] == "ok" and rule["value"] in (0.0, 1.0):
                self._rule_pairs.append((verdict, VERDICTS[rule["value"] == 0.0]))
            if label is not None and label.verdict is not None:
                self._human_pairs.append((verdict, label.verdict))

    def _add_criteria(
        self, criteria: Sequence[Mapping[str, Any]], row: Row, label: HumanLabel | None
    ) -> None:
        if label is not None and label.met is not None:
            if len(label.met) != len(criteria):
                raise InputError(
                    f"the label of {row['id']!r} has {len(label.met)} criteria where there are"
                    f" {len(criteria)}; give one each."
                )
            self._human_pairs += [
                (criterion["verdict"], CRITERION_VERDICTS[not met])
                for criterion, met in zip(criteria, label.met, strict=True)
                if criterion["verdict"] is not None and met is not None
            ]
        if row["status"] == "error":
            return
        by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for criterion in criteria:
            by_name[criterion["name"]].append(criterion)
        for name in filter(None, by_name):
            points = [criterion["points"] for criterion in by_name[name]]
            met = [criterion["verdict"] == CRITERION_VERDICTS[0] for criterion in by_name[name]]
            value = rubric_score(points, met)
            if value is not None:
                self._criterion_scores[name].append(value)

    def result(self, *, model: str, prompt_digest: str) -> JudgeResult:
        low, high = ([bound[index] for bound in self._bounds] for index in (0, 1))
        categories = CRITERION_VERDICTS if self._rubric else VERDICTS
        return JudgeResult(
            model=model,
            prompt_digest=prompt_digest,
            rubric=self._rubric,
            n_requested=self._n_requested,
            failed=dict(sorted(self._failed.items())),
            value=clipped_mean(self._values),
            lower_bound=clipped_mean([*self._values, *low]),
            upper_bound=clipped_mean([*self._values, *high]),
            n_all_met=self._n_all_met if self._rubric else None,
            n_empty=self._n_empty,
            criterion_scores={
                name: CriterionScore(clipped_mean(scores), len(scores))
                for name, scores in sorted(self._criterion_scores.items())
            },
            rule_agreement=agreement(self._rule_pairs, VERDICTS) if self._rule_pairs else None,
            human_agreement=(
                agreement(self._human_pairs, categories) if self._human_pairs else None
            ),
        )


def write_judge_result(folder: Path, result: JudgeResult) -> None:
    fields = asdict(result)  # which keeps named tuples
    for name in ("rule_agreement", "human_agreement"):
        fields[name] = fields[name] and fields[name]._asdict()
    write_json(folder / JUDGE_FILE, fields)


def read_judge_result(folder: Path) -> JudgeResult | None:
    """The stored result of a task; None where it was not judged.

    Raises:
        ArtifactError: the file is damaged.
    """
    from pydantic import TypeAdapter, ValidationError  # slow to import

    path = folder / JUDGE_FILE
    if not path.is_file():
        return None
    try:
        return TypeAdapter(JudgeResult).validate_json(json.dumps(read_json(path)), strict=True)
    except (ArtifactError, ValidationError) as error:
        raise ArtifactError(
            f"{path} is damaged ({type(error).__name__}); run the judge again, or remove it."
        ) from error
