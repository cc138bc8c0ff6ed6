"""What a judge's verdicts on a task come to: counts, the score and its range, agreement with the
rules and with people.

OUT/<task>/judge.json holds it, made from the rows of scores.judge.jsonl and from people's labels;
the report shows it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import enumerate_jsonl, read_json, write_json
from lingshu.core.stats import Agreement, agreement
from lingshu.evaluate.rubric import clipped_mean, rubric_score
from lingshu.evaluate.summary import Row, is_unscored, percent, row_value

JUDGE = "judge"  # the protocol that the verdicts are scores under
JUDGE_FILE = "judge.json"
# How the note of a reply begins that has no score because the judge gave no verdict that can be
# read.
JUDGE_FAILED = "judge failed:"
VERDICTS = ("correct", "incorrect")
CRITERION_VERDICTS = ("met", "not met")


@dataclass(frozen=True)
class CriterionScore:
    """The score over the criteria of one name alone, and how many replies have one."""

    value: float | None
    n: int


@dataclass(frozen=True)
class JudgeResult:
    """The verdicts on one task. `asked` counts the replies that needed a verdict, `failed` those
    without one by reason.

    `value` is the mean over all replies but the failed ones, `lower_bound` and `upper_bound` what it
    would be were every missing verdict against or for the reply. `all_met` counts the replies that
    meet a whole rubric, among `judged` and the `empty` ones, which no judge is shown. `rule_agreement`
    compares verdicts with the rules' on the replies that both read, `human_agreement` with labels: by reply,
    or by criterion of a rubric.
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
    """What a person says of one reply: the verdict, or for each criterion whether it is met (None:
    not said).
    """

    id: str
    verdict: str | None = None
    met: tuple[bool | None, ...] | None = None
    task: str | None = None


def read_labels(path: Path) -> list[HumanLabel]:
    """People's labels: rows {"id", "verdict": "correct" | "incorrect"} or {"id", "met": [true, false, null]}, and perhaps "task".

    Raises:
        InputError: no label, a line that is none, or a second one for the same reply.
    """
    labels: dict[tuple[str | None, str], HumanLabel] = {}
    for number, row in enumerate_jsonl(path, allow_truncated=False):
        name, verdict, met, task = (
            row.get("id"),
            row.get("verdict"),
            row.get("met"),
            row.get("task"),
        )
        has_criteria = (
            isinstance(met, list)
            and bool(met)
            and all(flag is None or isinstance(flag, bool) for flag in met)
        )
        if (
            not isinstance(name, str)
            or not isinstance(task, str | None)
            or (verdict in VERDICTS) == has_criteria
        ):
            expected_format = (
                '{"id", "verdict": "correct" or "incorrect"} or {"id", "met": [true, false, ...]}'
            )
            raise InputError(f"{path}, line {number}: no label; write {expected_format}.")
        if (task, name) in labels:
            raise InputError(f"{path}, line {number}: {name!r} has a label already; keep one.")
        labels[task, name] = HumanLabel(
            name, verdict, tuple(met) if isinstance(met, list) else None, task
        )
    if not labels:
        raise InputError(f"{path} holds no label; write one JSON object a line.")
    return list(labels.values())


class JudgeCounts:
    """Takes in rows of scores.judge.jsonl one at a time and keeps only counts, values and pairs of
    words.
    """

    def __init__(
        self, task: str, labels: Iterable[HumanLabel] = (), *, rubric: bool = False
    ) -> None:
        task_labels = [
            label
            for label in labels
            if label.task in (None, task) and (label.met is not None) == rubric
        ]
        self._labels = {
            label.id: label
            for label in sorted(task_labels, key=lambda label: label.task is not None)
        }
        self._n_requested, self._n_judged, self._n_all_met, self._n_empty, self.n_labeled = (
            0,
            0,
            0,
            0,
            0,
        )
        self._failed: Counter[str] = Counter()
        self._values: list[float] = []
        self._bounds: list[tuple[float, float]] = []
        self._criterion_scores: dict[str, list[float]] = defaultdict(list)
        self._rule_pairs: list[tuple[str, str]] = []
        self._human_pairs: list[tuple[str, str]] = []
        self._rubric = rubric

    def add(self, row: Row) -> None:
        label = self._labels.get(str(row["id"]))
        self.n_labeled += label is not None
        if row["status"] != "error" and not is_unscored(row):
            self._values.append(row_value(row))
        if "judge" not in row:
            self._n_empty += row["status"] == "empty"
            return
        self._n_requested += 1
        criteria = row["judge"].get("criteria")
        if row["status"] == "error":
            self._failed[row["judge"]["failed"]] += 1
            if row["judge"]["range"] is not None:
                self._bounds.append(tuple(row["judge"]["range"]))
        else:
            self._n_judged += 1
            self._n_all_met += bool(row["judge"].get("all_met"))
        if criteria is None:
            self._add_verdict(row, label)
        else:
            self._add_criteria(criteria, row, label)

    def _add_verdict(self, row: Row, label: HumanLabel | None) -> None:
        verdict = row["judge"].get("verdict")
        if verdict is None:
            return
        if row["rule"]["status"] == "ok" and row["rule"]["value"] in (0.0, 1.0):
            self._rule_pairs.append(
                (verdict, VERDICTS[0] if row["rule"]["value"] == 1.0 else VERDICTS[1])
            )
        if label is not None and label.verdict is not None:
            self._human_pairs.append((verdict, label.verdict))

    def _add_criteria(
        self, criteria: Sequence[Mapping[str, Any]], row: Row, label: HumanLabel | None
    ) -> None:
        if label is not None and label.met is not None:
            if len(label.met) != len(criteria):
                raise InputError(
                    f"the label of {row['id']!r} says {len(label.met)} criteria where there are"
                    f" {len(criteria)}; give one each."
                )
            pairs = zip((criterion["verdict"] for criterion in criteria), label.met, strict=True)
            self._human_pairs += [
                (verdict, CRITERION_VERDICTS[0] if met else CRITERION_VERDICTS[1])
                for verdict, met in pairs
                if verdict is not None and met is not None
            ]
        if row["status"] == "error":
            return
        for name in dict.fromkeys(criterion["name"] for criterion in criteria if criterion["name"]):
            named_criteria = [criterion for criterion in criteria if criterion["name"] == name]
            value = rubric_score(
                [criterion["points"] for criterion in named_criteria],
                [criterion["verdict"] == CRITERION_VERDICTS[0] for criterion in named_criteria],
            )
            if value is not None:
                self._criterion_scores[name].append(value)

    def result(self, *, model: str, prompt_digest: str) -> JudgeResult:
        """What all rows came to."""
        low, high = ([bound[index] for bound in self._bounds] for index in (0, 1))
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
                agreement(self._human_pairs, CRITERION_VERDICTS if self._rubric else VERDICTS)
                if self._human_pairs
                else None
            ),
        )


def write_judge_result(folder: Path, result: JudgeResult) -> None:
    values = asdict(result)
    for name in ("rule_agreement", "human_agreement"):
        agreement_result = getattr(result, name)
        values[name] = None if agreement_result is None else agreement_result._asdict()
    write_json(folder / JUDGE_FILE, values)


def read_judge_result(folder: Path) -> JudgeResult | None:
    """What is told of a task's verdicts; None where it was not judged.

    Raises:
        ArtefactError: the file is damaged.
    """
    path = folder / JUDGE_FILE
    if not path.is_file():
        return None
    try:
        values = dict(read_json(path))
        values["criterion_scores"] = {
            name: CriterionScore(**item) for name, item in values["criterion_scores"].items()
        }
        for name in ("rule_agreement", "human_agreement"):
            values[name] = None if values[name] is None else Agreement(**values[name])
        result = JudgeResult(**values)
        numbers = [result.value, result.lower_bound, result.upper_bound]
        if not all(
            item is None or (isinstance(item, int | float) and math.isfinite(item))
            for item in numbers
        ):
            raise ValueError("a number is none")
        return result
    except (ArtifactError, TypeError, LookupError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({type(error).__name__}); run the judge again, or remove it."
        ) from error
