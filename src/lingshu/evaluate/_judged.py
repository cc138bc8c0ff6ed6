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

from lingshu.core.agreement import Agreement, agreement
from lingshu.core.errors import ArtefactError, InputError
from lingshu.core.files import numbered_jsonl, read_json, write_json
from lingshu.evaluate.summary import Row, unscored, value_of
from lingshu.scoring._rubric import clipped_mean, rubric_score

JUDGE = "judge"  # the protocol that the verdicts are scores under
JUDGED = "judge.json"
# How the note of a reply begins that has no score because the judge gave no verdict that can be
# read.
JUDGE_FAILED = "judge failed:"
WORDS = ("correct", "incorrect")
FOUND = ("met", "not met")


@dataclass(frozen=True)
class Dimension:
    """The score over the criteria of one name alone, and how many replies have one."""

    value: float | None
    n: int


@dataclass(frozen=True)
class Judged:
    """The verdicts on one task. `asked` counts the replies that needed a verdict, `failed` those
    without one by reason.

    `value` is the mean over all replies but the failed ones, `if_wrong` and `if_right` what it
    would be were every missing verdict against or for the reply. `all_met` counts the replies that
    meet a whole rubric, among `judged` and the `empty` ones, which no judge is shown. `rules`
    compares verdicts with the rules' on the replies that both read, `people` with labels: by reply,
    or by criterion of a rubric.
    """

    model: str
    wording: str
    rubric: bool
    asked: int
    failed: Mapping[str, int]
    value: float | None
    if_wrong: float | None
    if_right: float | None
    all_met: int | None = None
    empty: int = 0
    dimensions: Mapping[str, Dimension] = field(default_factory=dict)
    rules: Agreement | None = None
    people: Agreement | None = None

    @property
    def judged(self) -> int:
        return self.asked - sum(self.failed.values())


@dataclass(frozen=True)
class Label:
    """What a person says of one reply: the verdict, or for each criterion whether it is met (None:
    not said).
    """

    id: str
    verdict: str | None = None
    met: tuple[bool | None, ...] | None = None
    task: str | None = None


def read_labels(path: Path) -> list[Label]:
    """People's labels: rows {"id", "verdict": "correct" | "incorrect"} or {"id", "met": [true, false, null]}, and perhaps "task".

    Raises:
        InputError: no label, a line that is none, or a second one for the same reply.
    """
    found: dict[tuple[str | None, str], Label] = {}
    for number, row in numbered_jsonl(path, torn_ok=False):
        name, verdict, met, task = (
            row.get("id"),
            row.get("verdict"),
            row.get("met"),
            row.get("task"),
        )
        listed = (
            isinstance(met, list)
            and bool(met)
            and all(one is None or isinstance(one, bool) for one in met)
        )
        if (
            not isinstance(name, str)
            or not isinstance(task, str | None)
            or (verdict in WORDS) == listed
        ):
            form = (
                '{"id", "verdict": "correct" or "incorrect"} or {"id", "met": [true, false, ...]}'
            )
            raise InputError(f"{path}, line {number}: no label; write {form}.")
        if (task, name) in found:
            raise InputError(f"{path}, line {number}: {name!r} has a label already; keep one.")
        found[task, name] = Label(
            name, verdict, tuple(met) if isinstance(met, list) else None, task
        )
    if not found:
        raise InputError(f"{path} holds no label; write one JSON object a line.")
    return list(found.values())


class Tally:
    """Takes in rows of scores.judge.jsonl one at a time and keeps only counts, values and pairs of
    words.
    """

    def __init__(self, task: str, labels: Iterable[Label] = (), *, rubric: bool = False) -> None:
        mine = [
            label
            for label in labels
            if label.task in (None, task) and (label.met is not None) == rubric
        ]
        self._labels = {
            label.id: label for label in sorted(mine, key=lambda label: label.task is not None)
        }
        self._asked, self._judged, self._all_met, self._empty, self.labelled = 0, 0, 0, 0, 0
        self._failed: Counter[str] = Counter()
        self._values: list[float] = []
        self._bounds: list[tuple[float, float]] = []
        self._dimensions: dict[str, list[float]] = defaultdict(list)
        self._rules: list[tuple[str, str]] = []
        self._people: list[tuple[str, str]] = []
        self._rubric = rubric

    def add(self, row: Row) -> None:
        label = self._labels.get(str(row["id"]))
        self.labelled += label is not None
        if row["status"] != "error" and not unscored(row):
            self._values.append(value_of(row))
        if "judge" not in row:
            self._empty += row["status"] == "empty"
            return
        self._asked += 1
        criteria = row["judge"].get("criteria")
        if row["status"] == "error":
            self._failed[row["judge"]["failed"]] += 1
            if row["judge"]["range"] is not None:
                self._bounds.append(tuple(row["judge"]["range"]))
        else:
            self._judged += 1
            self._all_met += bool(row["judge"].get("all_met"))
        if criteria is None:
            self._one(row, label)
        else:
            self._several(criteria, row, label)

    def _one(self, row: Row, label: Label | None) -> None:
        word = row["judge"].get("verdict")
        if word is None:
            return
        if row["rule"]["status"] == "ok" and row["rule"]["value"] in (0.0, 1.0):
            self._rules.append((word, WORDS[0] if row["rule"]["value"] == 1.0 else WORDS[1]))
        if label is not None and label.verdict is not None:
            self._people.append((word, label.verdict))

    def _several(
        self, criteria: Sequence[Mapping[str, Any]], row: Row, label: Label | None
    ) -> None:
        if label is not None and label.met is not None:
            if len(label.met) != len(criteria):
                raise InputError(
                    f"the label of {row['id']!r} says {len(label.met)} criteria where there are"
                    f" {len(criteria)}; give one each."
                )
            both = zip((one["verdict"] for one in criteria), label.met, strict=True)
            self._people += [
                (found, FOUND[0] if met else FOUND[1])
                for found, met in both
                if found is not None and met is not None
            ]
        if row["status"] == "error":
            return
        for name in dict.fromkeys(one["name"] for one in criteria if one["name"]):
            mine = [one for one in criteria if one["name"] == name]
            value = rubric_score(
                [one["points"] for one in mine], [one["verdict"] == FOUND[0] for one in mine]
            )
            if value is not None:
                self._dimensions[name].append(value)

    def told(self, *, model: str, wording: str) -> Judged:
        """What all rows came to."""
        low, high = ([bound[end] for bound in self._bounds] for end in (0, 1))
        return Judged(
            model=model,
            wording=wording,
            rubric=self._rubric,
            asked=self._asked,
            failed=dict(sorted(self._failed.items())),
            value=clipped_mean(self._values),
            if_wrong=clipped_mean([*self._values, *low]),
            if_right=clipped_mean([*self._values, *high]),
            all_met=self._all_met if self._rubric else None,
            empty=self._empty,
            dimensions={
                name: Dimension(clipped_mean(found), len(found))
                for name, found in sorted(self._dimensions.items())
            },
            rules=agreement(self._rules, WORDS) if self._rules else None,
            people=(
                agreement(self._people, FOUND if self._rubric else WORDS) if self._people else None
            ),
        )


def write_judged(folder: Path, judged: Judged) -> None:
    plain = asdict(judged)
    for name in ("rules", "people"):
        found = getattr(judged, name)
        plain[name] = None if found is None else found._asdict()
    write_json(folder / JUDGED, plain)


def read_judged(folder: Path) -> Judged | None:
    """What is told of a task's verdicts; None where it was not judged.

    Raises:
        ArtefactError: the file is damaged.
    """
    path = folder / JUDGED
    if not path.is_file():
        return None
    try:
        plain = dict(read_json(path))
        plain["dimensions"] = {name: Dimension(**one) for name, one in plain["dimensions"].items()}
        for name in ("rules", "people"):
            plain[name] = None if plain[name] is None else Agreement(**plain[name])
        found = Judged(**plain)
        numbers = [found.value, found.if_wrong, found.if_right]
        if not all(
            one is None or (isinstance(one, int | float) and math.isfinite(one)) for one in numbers
        ):
            raise ValueError("a number is none")
        return found
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        raise ArtefactError(
            f"{path} is damaged ({type(error).__name__}); run the judge again, or remove it."
        ) from error
