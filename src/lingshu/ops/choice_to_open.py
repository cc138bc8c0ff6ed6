"""Multiple choice to open question: items whose right option is a word or a short phrase lose their
options.

The paper turns such items of its RL pool into open ones, which are harder and still verifiable by
rule, and which balance choice against open (section 3.1.4). An item that makes no sense without its
options stays as it is: one that refers to them ("which of the following"), whose right option
refers to the others ("all of the above"), or with several right options.
"""

from __future__ import annotations

import re
from dataclasses import replace

from lingshu.core.quotas import stable_uniform
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Message, Sample, with_extra
from lingshu.ops._sample_fields import check_minimum, check_range

_OPTION_REFERENCE = re.compile(
    r"\b(?:following|of these|listed|options?|choices?|alternatives?|statements?|except"
    r"|which (?:one|answer)|incorrect|least|true|false)\b"
    r"|\bNOT\b|以下|下列|下述|哪项|哪一项|哪个选项|除外|不包括|错误|正确",
    re.IGNORECASE,
)
_OTHER_OPTIONS_REFERENCE = re.compile(
    r"\b(?:above|both|neither|either|options?|choices?|all of|none of|none)\b|以上|均|都",
    re.IGNORECASE,
)
_HAN = re.compile(r"[\u4e00-\u9fff]")


def step(*, max_words: int = 4, fraction: float = 1.0, seed: int = 0) -> MapStep:
    """Ask multiple-choice questions with a short answer as open questions.

    Args:
        max_words: longest right option that counts as a word or phrase, in words; two Chinese
            characters are one.
        fraction: part of the suitable items that is changed, selected by id and seed.
        seed: see fraction.

    Changed samples have `meta.kind = "open"`, the option's text as gold, the note `was_choice`.
    """
    check_minimum("choice_to_open", 1, max_words=max_words)
    check_range("choice_to_open", 0, 1, fraction=fraction)

    def open_question(sample: Sample, _: Pixels) -> Sample:
        option = _correct_option(sample)
        if option is None or not _is_phrase(option, max_words):
            return sample
        if stable_uniform(sample.id, seed) >= fraction:
            return sample
        messages = list(sample.messages)
        index = max(i for i, message in enumerate(messages) if message.role == "user")
        question = _without_choices(messages[index], sample.choices)
        if question is None or _OPTION_REFERENCE.search(question.text):
            return sample
        messages[index] = question
        if sample.answered:
            messages[-1] = Message("assistant", (option,))
        meta = replace(sample.meta, kind="open")
        opened = replace(sample, messages=tuple(messages), choices=(), gold=(option,), meta=meta)
        return with_extra(opened, {"was_choice": "true"})

    return MapStep(lambda: open_question)


def _correct_option(sample: Sample) -> str | None:
    """The text of the single right option of an item that ends in its question or a bare answer."""
    if not sample.choices or not sample.gold or len(sample.gold) != 1:
        return None
    letter = sample.gold[0]
    if letter not in LETTERS[: len(sample.choices)]:
        return None
    option = sample.choices[LETTERS.index(letter)]
    if not sample.answered:
        return option
    # An answer that discusses the options needs them.
    answer = sample.messages[-1].text.strip().strip("().").casefold()
    return option if answer in (letter.casefold(), option.strip(" .").casefold()) else None


def _is_phrase(text: str, max_words: int) -> bool:
    n_words = len(text.split()) + len(_HAN.findall(text)) // 2
    return (
        any(character.isalpha() for character in text)
        and n_words <= max_words
        and not _OTHER_OPTIONS_REFERENCE.search(text)
        and text.strip(" .").casefold() not in ("yes", "no")
    )


def _without_choices(message: Message, choices: tuple[str, ...]) -> Message | None:
    """The turn without its list of options; None where they cannot be cut off."""
    index = max((i for i, part in enumerate(message.parts) if isinstance(part, str)), default=None)
    if index is None:
        return None
    stem = str(message.parts[index]).removesuffix(with_choices("", choices)).rstrip()
    options = zip(LETTERS, choices, strict=False)
    if not stem.strip() or any(
        re.search(rf"\b{letter}[).:]\s*{re.escape(choice)}", stem) for letter, choice in options
    ):
        return None
    return replace(message, parts=(*message.parts[:index], stem, *message.parts[index + 1 :]))
