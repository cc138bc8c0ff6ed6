"""Answers that are the same whatever is asked: what a model is worth that looks at nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from lingshu.core.artefacts import score_row
from lingshu.core.nouns import Reply, Sample, Task
from lingshu.core.rows import LETTERS
from lingshu.evaluate.score import STRICT, score_reply
from lingshu.evaluate.summary import summarise
from lingshu.scoring import yes_no

BY_KIND = "the most frequent gold of each kind"
Answer = Callable[[Sample], str]


class Constants(NamedTuple):
    """What constant answers score. A line of `table` is {"name", "n", "right", "accuracy": {value,
    low, high, n}}.

    `rows` has the SCORES rows of the best constant (the first of equals), by its name, and those of
    BY_KIND where the questions are of several kinds. Both are empty where no answer is shared by
    two questions, or nothing can be scored.
    """

    table: list[dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]]


def constants(task: Task, samples: Sequence[Sample]) -> Constants:
    """The score of every constant answer, through the task's own scorer."""
    table: list[dict[str, Any]] = []
    best: dict[str, list[dict[str, Any]]] = {}
    by_kind: dict[str, list[dict[str, Any]]] = {}
    highest = -1.0
    for name, answer in _answers(samples):
        rows = list(_scored(task, samples, answer))
        summary = summarise(rows)
        if summary.accuracy.value is None:
            continue
        table.append(
            {
                "name": name,
                "n": summary.n,
                "right": summary.right,
                "accuracy": summary.accuracy._asdict(),
            }
        )
        if name == BY_KIND:
            by_kind = {name: rows}
        elif summary.accuracy.value > highest:
            best, highest = {name: rows}, summary.accuracy.value
    return Constants(table, best | by_kind)


def _scored(task: Task, samples: Sequence[Sample], answer: Answer) -> Iterator[dict[str, Any]]:
    for sample in samples:
        text = answer(sample)
        found = score_reply(task.score, sample, Reply(sample.id, text))
        facts = {
            "protocol": STRICT,
            "gold": list(sample.gold or ()),
            "reply": text,
            "kind": sample.meta.kind,
            "group": sample.meta.group,
        }
        yield score_row(sample.id, found, facts)


def _answers(samples: Sequence[Sample]) -> Iterator[tuple[str, Answer]]:
    """The letters of the options, yes and no, the most frequent gold, and that of each kind, as far
    as the questions have them.
    """
    options, verdicts = 0, False
    golds: dict[str, Counter[str]] = {}
    for sample in samples:
        options = max(options, len(sample.choices))
        first = (sample.gold or ("",))[0]
        verdicts = verdicts or (not sample.choices and yes_no.as_verdict(first) is not None)
        if first:
            golds.setdefault(sample.meta.kind or "", Counter())[" ".join(first.split())] += 1
    given = [*LETTERS[:options], *(("yes", "no") if verdicts else ())]
    yield from ((text, _always(text)) for text in given)
    over_all = sum(golds.values(), Counter[str]())
    frequent, count = over_all.most_common(1)[0] if over_all else ("", 0)
    if count > 1 and frequent.casefold() not in {text.casefold() for text in given}:
        yield f"the most frequent gold: {_short(frequent)}", _always(frequent)
    if len(golds) > 1 and count > 1:
        by_kind = {kind: found.most_common(1)[0][0] for kind, found in golds.items()}
        yield BY_KIND, lambda sample: by_kind.get(sample.meta.kind or "", frequent)


def _always(text: str) -> Answer:
    return lambda _: text


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
