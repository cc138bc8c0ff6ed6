"""Questions by self-instruction: a teacher writes question, answer and wrong answers from an image
and its caption.

The paper's synthesis C, second way (section 2.2.3). Where the caption does not describe the image
the teacher says so in a fixed sentence, and the sample goes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lingshu.core.forms import Form, json_form, one
from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops._facts import answer
from lingshu.ops._teaching import dialogue, fold, prompts, request, shuffled, synthetic

KIND = "vqa_self_instruct"
MISMATCH = "Error: the description and the image do not belong together."
_TELLS = re.compile(
    r"\b(?:captions?|descriptions?|according to the"
    r" (?:text|report|information)|mentioned|provided|stated)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Item:
    """What the teacher replies."""

    question: str
    answer: str
    wrong_answers: list[str]


def step(*, prompt_file: str | None = None, seed: int = 0) -> TeacherStep:
    """Write one multiple-choice question for every sample that has images and a caption (its
    answer).

    Args:
        prompt_file: other prompts, with the sections of this step's own.
        seed: orders the options.

    Drops: no_image, no_caption, mismatch, bad_options (none, more than three, or two alike),
    tells_source (the question speaks of a caption).
    """
    told = prompts(KIND, prompt_file)
    form = _or_mismatch(json_form(Item))

    def talk(sample: Sample, _: Pixels) -> Talk:
        caption = answer(sample).strip()
        if not sample.images or not caption:
            return Drop(sample.id, "no_caption" if sample.images else "no_image")
        ask = told.fill("ask", caption=caption, mismatch=MISMATCH)
        item = yield from one(request(sample, ask, form, images=sample.images))
        if item is None:
            return Drop(
                sample.id,
                "mismatch",
                "the teacher finds that caption and image do not belong together",
            )
        return _made(sample, item, seed)

    return TeacherStep(KIND, talk, told.tag)


def _or_mismatch(form: Form[Item]) -> Form[Item | None]:
    def read(text: str) -> Item | None:
        return None if fold(text).startswith(fold(MISMATCH)) else form.read(text)

    return Form(read, form.schema)


def _made(sample: Sample, item: Item, seed: int) -> Sample | Drop:
    options = [item.answer.strip(), *(wrong.strip() for wrong in item.wrong_answers)]
    if (
        not 2 <= len(options) <= 4
        or len({fold(option) for option in options}) < len(options)
        or not all(map(fold, options))
    ):
        return Drop(
            sample.id,
            "bad_options",
            f"{len(options)} options, {len({fold(option) for option in options})} different",
        )
    if not item.question.strip() or _TELLS.search(item.question):
        return Drop(
            sample.id,
            "tells_source" if item.question.strip() else "bad_options",
            "the question speaks of what was told",
        )
    choices = tuple(shuffled(options, sample.id, seed))
    gold = LETTERS[choices.index(options[0])]
    return synthetic(
        sample,
        KIND,
        messages=dialogue(with_choices(item.question.strip(), choices), gold, len(sample.images)),
        gold=(gold,),
        choices=choices,
        meta=replace(sample.meta, kind="choice"),
    )
