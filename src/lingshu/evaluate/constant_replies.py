"""Answers that are the same whatever is asked: what a model is worth that looks at nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from lingshu.core.artifacts import score_row
from lingshu.core.rows import LETTERS
from lingshu.core.types import Reply, Sample, Task
from lingshu.evaluate.score import STRICT, score_reply
from lingshu.evaluate.summary import summarize
from lingshu.scoring import yes_no

BY_KIND = "the most frequent gold of each kind"
AnswerFunction = Callable[[Sample], str]


class ConstantBaselines(NamedTuple):
    """What constant answers score. A line of `table` is {"name", "n", "correct", "accuracy": {value,
    low, high, n}}.

    `rows` has the SCORES rows of the best constant (the first of equals), by its name, and those of
    BY_KIND where the questions are of several kinds. Both are empty where no answer is shared by
    two questions, or nothing can be scored.
    """

    table: list[dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]]


def constant_baselines(task: Task, samples: Sequence[Sample]) -> ConstantBaselines:
    """The score of every constant answer, through the task's own scorer."""
    table: list[dict[str, Any]] = []
    best: dict[str, list[dict[str, Any]]] = {}
    by_kind: dict[str, list[dict[str, Any]]] = {}
    max_accuracy = -1.0
    for name, answer in _constant_answers(samples):
        rows = list(_score_rows(task, samples, answer))
        summary = summarize(rows)
        if summary.accuracy.value is None:
            continue
        table.append(
            {
                "name": name,
                "n": summary.n,
                "correct": summary.correct,
                "accuracy": summary.accuracy._asdict(),
            }
        )
        if name == BY_KIND:
            by_kind = {name: rows}
        elif summary.accuracy.value > max_accuracy:
            best, max_accuracy = {name: rows}, summary.accuracy.value
    return ConstantBaselines(table, best | by_kind)


def _score_rows(
    task: Task, samples: Sequence[Sample], answer: AnswerFunction
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        text = answer(sample)
        score = score_reply(task.score, sample, Reply(sample.id, text))
        fields = {
            "protocol": STRICT,
            "gold": list(sample.gold or ()),
            "reply": text,
            "kind": sample.meta.kind,
            "group": sample.meta.group,
        }
        yield score_row(sample.id, score, fields)


def _constant_answers(samples: Sequence[Sample]) -> Iterator[tuple[str, AnswerFunction]]:
    """The letters of the options, yes and no, the most frequent gold, and that of each kind, as far
    as the questions have them.
    """
    n_options, has_yes_no = 0, False
    golds: dict[str, Counter[str]] = {}
    for sample in samples:
        n_options = max(n_options, len(sample.choices))
        gold = (sample.gold or ("",))[0]
        has_yes_no = has_yes_no or (not sample.choices and yes_no.as_polarity(gold) is not None)
        if gold:
            golds.setdefault(sample.meta.kind or "", Counter())[" ".join(gold.split())] += 1
    answers = [*LETTERS[:n_options], *(("yes", "no") if has_yes_no else ())]
    yield from ((text, _constant_answer(text)) for text in answers)
    all_golds = sum(golds.values(), Counter[str]())
    most_common, count = all_golds.most_common(1)[0] if all_golds else ("", 0)
    if count > 1 and most_common.casefold() not in {text.casefold() for text in answers}:
        yield f"the most frequent gold: {_truncate(most_common)}", _constant_answer(most_common)
    if len(golds) > 1 and count > 1:
        by_kind = {kind: counts.most_common(1)[0][0] for kind, counts in golds.items()}
        yield BY_KIND, lambda sample: by_kind.get(sample.meta.kind or "", most_common)


def _constant_answer(text: str) -> AnswerFunction:
    return lambda _: text


def _truncate(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
