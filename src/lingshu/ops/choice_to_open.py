"""Multiple choice to open question: items whose right option is a word or a short phrase lose their
options.

The paper turns such items of its RL pool into open ones, which are harder and still checked by
rule, and which balance choice against open (section 3.1.4). An item that cannot be asked without
its options stays as it is: one that points at them ("which of the following"), whose right option
speaks of the others ("all of the above"), or that has several.
"""

from __future__ import annotations

import re
from dataclasses import replace

from lingshu.core.quotas import stable_uniform
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Message, Sample, with_extra
from lingshu.ops._sample_fields import require

_OPTION_REFERENCE = re.compile(
    r"\b(?:following|of these|listed|options?|choices?|alternatives?|statements?|except|which (?:one|answer)|incorrect|least|true|false)\b"
    r"|\bNOT\b|以下|下列|下述|哪项|哪一项|哪个选项|除外|不包括|错误|正确",
    re.IGNORECASE,
)  # fmt: skip
_OTHER_OPTIONS_REFERENCE = re.compile(
    r"\b(?:above|both|neither|either|options?|choices?|all of|none of|none)\b|以上|均|都",
    re.IGNORECASE,
)
_HAN = re.compile(r"[\u4e00-\u9fff]")


def step(*, max_words: int = 4, fraction: float = 1.0, seed: int = 0) -> MapStep:
    """Ask word-answer multiple choice openly.

    Args:
        max_words: longest right option that counts as a word or phrase, in words; two Chinese
            characters are one.
        share: part of the suitable items that is changed; which, the id and the seed decide.
        seed: see share.

    Changed samples carry `meta.kind = "open"`, the option's text as gold, and the note
    `was_choice`.
    """
    require(max_words >= 1, f"choice_to_open: max_words is {max_words}; it must be at least 1.")
    require(
        0 <= fraction <= 1, f"choice_to_open: share is {fraction}; it must lie between 0 and 1."
    )

    def open_question(sample: Sample, _: Pixels) -> Sample:
        correct_option = _correct_option(sample)
        if (
            correct_option is None
            or not _is_phrase(correct_option, max_words)
            or stable_uniform(sample.id, seed) >= fraction
        ):
            return sample
        index = next(
            i for i in reversed(range(len(sample.messages))) if sample.messages[i].role == "user"
        )
        message = _without_choices(sample.messages[index], sample.choices)
        if message is None or _OPTION_REFERENCE.search(message.text):
            return sample
        messages = [*sample.messages[:index], message, *sample.messages[index + 1 :]]
        if sample.answered:
            messages[-1] = Message("assistant", (correct_option,))
        opened = replace(
            sample,
            messages=tuple(messages),
            choices=(),
            gold=(correct_option,),
            meta=replace(sample.meta, kind="open"),
        )
        return with_extra(opened, {"was_choice": "true"})

    return MapStep(lambda: open_question)


def _correct_option(sample: Sample) -> str | None:
    """The text of the one right option of an item that ends in its question, or in a bare answer to
    it.
    """
    if (
        not sample.choices
        or not sample.gold
        or len(sample.gold) != 1
        or sample.gold[0] not in LETTERS[: len(sample.choices)]
    ):
        return None
    correct_option = sample.choices[LETTERS.index(sample.gold[0])]
    answer = sample.messages[-1].text.strip().strip("().").casefold() if sample.answered else None
    # An answer that reasons about the options cannot lose them.
    return (
        correct_option
        if answer in (None, sample.gold[0].casefold(), correct_option.strip(" .").casefold())
        else None
    )


def _is_phrase(text: str, max_words: int) -> bool:
    n_words = len(text.split()) + len(_HAN.findall(text)) // 2
    has_letters = any(c.isalpha() for c in text)
    return (
        has_letters
        and n_words <= max_words
        and not _OTHER_OPTIONS_REFERENCE.search(text)
        and text.strip(" .").casefold() not in ("yes", "no")
    )


def _without_choices(message: Message, choices: tuple[str, ...]) -> Message | None:
    """The turn without its list of options; None where they stand in it in a way that cannot be cut
    off.
    """
    index = max((i for i, part in enumerate(message.parts) if isinstance(part, str)), default=None)
    if index is None:
        return None
    text = str(message.parts[index])
    choice_list = with_choices("", choices)
    stem = text.removesuffix(choice_list).rstrip()
    if any(
        re.search(rf"\b{letter}[).:]\s*{re.escape(choice)}", stem)
        for letter, choice in zip(LETTERS, choices, strict=False)
    ):
        return None
    return (
        replace(message, parts=(*message.parts[:index], stem, *message.parts[index + 1 :]))
        if stem.strip()
        else None
    )
