"""What steps ask of a sample: its answer, its words, its format, its facets; and how they change
its words.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from lingshu.core.errors import ConfigError
from lingshu.core.nouns import Image, Message, Sample
from lingshu.core.rows import LETTERS
from lingshu.core.steps import Pixels

Found = TypeVar("Found")

Format = Literal["choice", "yes_no", "caption", "report", "open", "unanswered"]

_YES_NO = frozenset(("yes", "no", "是", "否", "不是", "有", "没有", "对", "不对", "true", "false"))


def answer(sample: Sample) -> str:
    """The words of the right answer: the last assistant turn, else the gold (of a choice its text);
    empty where none is known.
    """
    if sample.answered:
        return sample.messages[-1].text
    if not sample.gold:
        return ""
    first = sample.gold[0]
    if sample.choices and first in LETTERS[: len(sample.choices)]:
        return sample.choices[LETTERS.index(first)]
    return first


def texts(sample: Sample) -> list[str]:
    """Every text of the dialogue, in order; not the choices and not the gold."""
    return [part for message in sample.messages for part in message.parts if isinstance(part, str)]


def format_of(sample: Sample) -> Format:
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
    words = answer(sample).strip().strip(".。!").casefold()
    if kind == "yes_no" or words in _YES_NO:
        return "yes_no"
    return "open" if words else "unanswered"


def facet(sample: Sample, name: str) -> str | None:
    """The value of a grouping: a field of Meta, a key of its `extra`, or `format` (see format_of)."""
    return format_of(sample) if name == "format" else sample.meta.facet(name)


def with_words(sample: Sample, change: Callable[[str], str]) -> Sample:
    """The sample with `change` applied to its texts, choices and open gold answers."""
    gold = sample.gold
    if gold is not None and not sample.choices:
        gold = tuple(change(text) for text in gold)
    return replace(
        sample,
        messages=tuple(_changed(message, change) for message in sample.messages),
        gold=gold,
        choices=tuple(change(choice) for choice in sample.choices),
    )


def _changed(message: Message, change: Callable[[str], str]) -> Message:
    return replace(
        message,
        parts=tuple(change(part) if isinstance(part, str) else part for part in message.parts),
    )


def with_notes(sample: Sample, notes: Mapping[str, str]) -> Sample:
    """The sample with keys added to `meta.extra`."""
    return replace(sample, meta=replace(sample.meta, extra={**sample.meta.extra, **notes}))


def remembered(
    look: Callable[[Image, Pixels], Found], *, keep: int = 4096
) -> Callable[[Image, Pixels], Found]:
    """`look` with its last results kept by the image's place: data sets ask many questions about
    one image.
    """
    seen: OrderedDict[Image, Found] = OrderedDict()

    def looked(image: Image, pixels: Pixels) -> Found:
        if image.data is not None:  # no place to be known by; the key would hold the whole file
            return look(image, pixels)
        if image not in seen:
            seen[image] = look(image, pixels)
            if len(seen) > keep:
                seen.popitem(last=False)
        return seen[image]

    return looked


def tally(counts: Mapping[str, int]) -> str:
    """Counts on one line, `date 2, name 1`, for a note; in order of name."""
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()) if n)


def require(holds: bool, message: str) -> None:
    """Refuse a parameter.

    Raises:
        ConfigError: `message`.
    """
    if not holds:
        raise ConfigError(message)


def one_of(step: str, name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a parameter that is not one of the known words.

    Raises:
        ConfigError: names the step, the parameter, the value and the choices.
    """
    require(value in known, f"{step}: {name} is {value!r}; choose one of {', '.join(known)}.")
