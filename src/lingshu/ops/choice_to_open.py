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

from lingshu.core.nouns import Message, Sample
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.steps import MapStep, Pixels
from lingshu.ops._facts import require, with_notes
from lingshu.ops._quota import fraction

_POINTS = re.compile(
    r"\b(?:following|of these|listed|options?|choices?|alternatives?|statements?|except|which (?:one|answer)|incorrect|least|true|false)\b"
    r"|\bNOT\b|以下|下列|下述|哪项|哪一项|哪个选项|除外|不包括|错误|正确",
    re.IGNORECASE,
)  # fmt: skip
_ABOUT_OTHERS = re.compile(
    r"\b(?:above|both|neither|either|options?|choices?|all of|none of|none)\b|以上|均|都",
    re.IGNORECASE,
)
_HAN = re.compile(r"[\u4e00-\u9fff]")


def step(*, max_words: int = 4, share: float = 1.0, seed: int = 0) -> MapStep:
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
    require(0 <= share <= 1, f"choice_to_open: share is {share}; it must lie between 0 and 1.")

    def change(sample: Sample, _: Pixels) -> Sample:
        right = _right_option(sample)
        if right is None or not _is_phrase(right, max_words) or fraction(sample.id, seed) >= share:
            return sample
        turn = next(
            i for i in reversed(range(len(sample.messages))) if sample.messages[i].role == "user"
        )
        asked = _without_choices(sample.messages[turn], sample.choices)
        if asked is None or _POINTS.search(asked.text):
            return sample
        messages = [*sample.messages[:turn], asked, *sample.messages[turn + 1 :]]
        if sample.answered:
            messages[-1] = Message("assistant", (right,))
        changed = replace(
            sample,
            messages=tuple(messages),
            choices=(),
            gold=(right,),
            meta=replace(sample.meta, kind="open"),
        )
        return with_notes(changed, {"was_choice": "true"})

    return MapStep(lambda: change)


def _right_option(sample: Sample) -> str | None:
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
    right = sample.choices[LETTERS.index(sample.gold[0])]
    said = sample.messages[-1].text.strip().strip("().").casefold() if sample.answered else None
    # An answer that reasons about the options cannot lose them.
    return (
        right if said in (None, sample.gold[0].casefold(), right.strip(" .").casefold()) else None
    )


def _is_phrase(text: str, max_words: int) -> bool:
    words = len(text.split()) + len(_HAN.findall(text)) // 2
    letters = any(c.isalpha() for c in text)
    return (
        letters
        and words <= max_words
        and not _ABOUT_OTHERS.search(text)
        and text.strip(" .").casefold() not in ("yes", "no")
    )


def _without_choices(message: Message, choices: tuple[str, ...]) -> Message | None:
    """The turn without its list of options; None where they stand in it in a way that cannot be cut
    off.
    """
    last = max((i for i, part in enumerate(message.parts) if isinstance(part, str)), default=None)
    if last is None:
        return None
    text = str(message.parts[last])
    listed = with_choices("", choices)
    bare = text.removesuffix(listed).rstrip()
    if any(
        re.search(rf"\b{letter}[).:]\s*{re.escape(choice)}", bare)
        for letter, choice in zip(LETTERS, choices, strict=False)
    ):
        return None
    return (
        replace(message, parts=(*message.parts[:last], bare, *message.parts[last + 1 :]))
        if bare.strip()
        else None
    )
