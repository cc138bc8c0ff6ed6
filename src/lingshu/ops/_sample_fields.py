"""What steps read from a sample and change in it, and how they check their parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.step_types import Pixels
from lingshu.core.teacher_prompts import derive_sample, qa_messages, seeded_choice
from lingshu.core.types import Image, Message, Sample

T = TypeVar("T")
QuestionFormat = Literal["choice", "yes_no", "caption", "report", "open", "unanswered"]
_YES_NO = frozenset(("yes", "no", "是", "否", "不是", "有", "没有", "对", "不对", "true", "false"))


def answer_text(sample: Sample) -> str:
    """The right answer: the last assistant turn, else the gold (a choice's text), else empty."""
    if sample.answered:
        return sample.messages[-1].text
    if not sample.gold:
        return ""
    gold = sample.gold[0]
    if sample.choices and gold in LETTERS[: len(sample.choices)]:
        return sample.choices[LETTERS.index(gold)]
    return gold


def message_texts(sample: Sample) -> list[str]:
    """Every text of the dialogue, in order, without choices and gold."""
    return [part for message in sample.messages for part in message.parts if isinstance(part, str)]


def assistant_turns(sample: Sample) -> list[int]:
    """The positions of the assistant messages that hold text."""
    return [i for i, m in enumerate(sample.messages) if m.role == "assistant" and m.text.strip()]


def question_format(sample: Sample) -> QuestionFormat:
    """The format of the question, by its choices or its kind if stated, else by the answer."""
    kind = (sample.meta.kind or "").casefold()
    if sample.choices or kind == "choice":
        return "choice"
    if kind == "caption" or kind == "report":
        return kind
    text = answer_text(sample).strip().strip(".。!").casefold()
    if kind == "yes_no" or text in _YES_NO:
        return "yes_no"
    return "open" if text else "unanswered"


def facet_value(sample: Sample, name: str) -> str | None:
    """A field of Meta, a key of its `extra`, or `format`, the format of the question."""
    return question_format(sample) if name == "format" else sample.meta.facet(name)


def map_texts(sample: Sample, transform: Callable[[str], str]) -> Sample:
    """The sample with `transform` applied to its texts, choices and open gold answers."""
    gold = sample.gold
    if gold is not None and not sample.choices:
        gold = tuple(map(transform, gold))
    messages = tuple(map_message(message, transform) for message in sample.messages)
    return replace(
        sample, messages=messages, gold=gold, choices=tuple(map(transform, sample.choices))
    )


def map_message(message: Message, transform: Callable[[str], str]) -> Message:
    parts = (transform(part) if isinstance(part, str) else part for part in message.parts)
    return replace(message, parts=tuple(parts))


def with_messages(sample: Sample, messages: Sequence[Message]) -> Sample:
    """The sample with other messages; a gold that was its last answer follows it."""
    gold = sample.gold
    if sample.answered and gold == (sample.messages[-1].text,):
        gold = (messages[-1].text,)
    return replace(sample, messages=tuple(messages), gold=gold)


def with_gold_answer(sample: Sample) -> Sample:
    """The sample as training sees it: a question with a gold answer ends in it."""
    return sample.with_answer(sample.gold[0]) if not sample.answered and sample.gold else sample


def choice_sample(
    sample: Sample, kind: str, question: str, choices: tuple[str, ...], answer: str
) -> Sample:
    """A new multiple-choice sample about the images of `sample`."""
    gold = LETTERS[choices.index(answer)]
    return derive_sample(
        sample,
        kind,
        messages=qa_messages(with_choices(question, choices), gold, len(sample.images)),
        gold=(gold,),
        choices=choices,
        meta=replace(sample.meta, kind="choice"),
    )


@cache
def _instructions() -> dict[str, list[str]]:
    return read_json(Path(__file__).with_name("_instructions.json"))


def seeded_instruction(name: str, sample: Sample, seed: int) -> str:
    """One of several wordings of a step's instruction to the model; id and seed select it."""
    return seeded_choice(_instructions()[name], sample.id, seed)


def cached_per_image(compute: Callable[[Image, Pixels], T]) -> Callable[[Image, Pixels], T]:
    """`compute` with its last results cached: data sets ask many questions about one image."""
    results: OrderedDict[Image, T] = OrderedDict()

    def cached(image: Image, pixels: Pixels) -> T:
        if image.data is not None:  # the key would hold the whole file
            return compute(image, pixels)
        if image not in results:
            results[image] = compute(image, pixels)
            if len(results) > 4096:
                results.popitem(last=False)
        return results[image]

    return cached


def format_counts(counts: Mapping[str, int]) -> str:
    """Counts on one line, `date 2, name 1`, in order of name."""
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()) if n)


def require(condition: bool, message: str) -> None:
    """Refuse a parameter: ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_choice(step: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a parameter that is not one of the choices."""
    require(value in choices, f"{step}: {name} is {value!r}; choose one of {', '.join(choices)}.")


def check_minimum(step: str, minimum: float, **values: float | None) -> None:
    """Refuse parameters below a minimum; None is accepted."""
    for name, value in values.items():
        require(
            value is None or value >= minimum,
            f"{step}: {name} is {value}; it must be at least {minimum}.",
        )


def check_range(step: str, minimum: float, maximum: float, **values: float | None) -> None:
    """Refuse parameters outside a range, ends included; None is accepted."""
    for name, value in values.items():
        is_inside = value is None or minimum <= value <= maximum
        require(is_inside, f"{step}: {name} is {value}; it must be {minimum} to {maximum}.")


def check_similarity(step: str, threshold: float) -> None:
    require(
        0 < threshold <= 1, f"{step}: threshold is {threshold}; it must be above 0 and at most 1."
    )
