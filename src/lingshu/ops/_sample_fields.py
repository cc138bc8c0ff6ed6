"""What steps ask of a sample: its answer, its words, its format, its facets; and how they change
its words.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from lingshu.core.errors import ConfigError
from lingshu.core.rows import LETTERS
from lingshu.core.step_types import Pixels
from lingshu.core.types import Image, Message, Sample

ResultT = TypeVar("ResultT")

QuestionFormat = Literal["choice", "yes_no", "caption", "report", "open", "unanswered"]

_YES_NO = frozenset(("yes", "no", "是", "否", "不是", "有", "没有", "对", "不对", "true", "false"))


def answer_text(sample: Sample) -> str:
    """The words of the right answer: the last assistant turn, else the gold (of a choice its text);
    empty where none is known.
    """
    if sample.answered:
        return sample.messages[-1].text
    if not sample.gold:
        return ""
    gold = sample.gold[0]
    if sample.choices and gold in LETTERS[: len(sample.choices)]:
        return sample.choices[LETTERS.index(gold)]
    return gold


def message_texts(sample: Sample) -> list[str]:
    """Every text of the dialogue, in order; not the choices and not the gold."""
    return [part for message in sample.messages for part in message.parts if isinstance(part, str)]


def question_format(sample: Sample) -> QuestionFormat:
    """The form of the question, which balancing goes by: its choices or its kind where stated, else
    the form of the answer.
    """
    kind = (sample.meta.kind or "").casefold()
    if sample.choices or kind == "choice":
        return "choice"
    if kind == "caption":
        return "caption"
    if kind == "report":
        return "report"
    text = answer_text(sample).strip().strip(".。!").casefold()
    if kind == "yes_no" or text in _YES_NO:
        return "yes_no"
    return "open" if text else "unanswered"


def facet_value(sample: Sample, name: str) -> str | None:
    """The value of a grouping: a field of Meta, a key of its `extra`, or `format` (see format_of)."""
    return question_format(sample) if name == "format" else sample.meta.facet(name)


def map_texts(sample: Sample, transform: Callable[[str], str]) -> Sample:
    """The sample with `change` applied to its texts, choices and open gold answers."""
    gold = sample.gold
    if gold is not None and not sample.choices:
        gold = tuple(transform(text) for text in gold)
    return replace(
        sample,
        messages=tuple(_map_message(message, transform) for message in sample.messages),
        gold=gold,
        choices=tuple(transform(choice) for choice in sample.choices),
    )


def _map_message(message: Message, transform: Callable[[str], str]) -> Message:
    return replace(
        message,
        parts=tuple(transform(part) if isinstance(part, str) else part for part in message.parts),
    )


def cached_per_image(
    compute: Callable[[Image, Pixels], ResultT], *, max_size: int = 4096
) -> Callable[[Image, Pixels], ResultT]:
    """`look` with its last results kept by the image's place: data sets ask many questions about
    one image.
    """
    cache: OrderedDict[Image, ResultT] = OrderedDict()

    def cached(image: Image, pixels: Pixels) -> ResultT:
        if image.data is not None:  # no place to be known by; the key would hold the whole file
            return compute(image, pixels)
        if image not in cache:
            cache[image] = compute(image, pixels)
            if len(cache) > max_size:
                cache.popitem(last=False)
        return cache[image]

    return cached


def format_counts(counts: Mapping[str, int]) -> str:
    """Counts on one line, `date 2, name 1`, for a note; in order of name."""
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()) if n)


def require(condition: bool, message: str) -> None:
    """Refuse a parameter.

    Raises:
        ConfigError: `message`.
    """
    if not condition:
        raise ConfigError(message)


def check_choice(step: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a parameter that is not one of the known words.

    Raises:
        ConfigError: names the step, the parameter, the value and the choices.
    """
    require(value in choices, f"{step}: {name} is {value!r}; choose one of {', '.join(choices)}.")
