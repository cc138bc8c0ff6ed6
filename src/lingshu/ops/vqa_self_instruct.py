"""Questions by self-instruction: a teacher writes question, answer and wrong answers from an image
and its caption.

The paper's synthesis C, second way (section 2.2.3). Where the caption does not describe the image
the teacher says so in a fixed sentence, and the sample goes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lingshu.core.response_format import ResponseFormat, json_format, one_response
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import (
    build_request,
    derive_sample,
    load_prompts,
    normalize_answer,
    qa_messages,
    seeded_shuffle,
)
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text

KIND = "vqa_self_instruct"
MISMATCH = "Error: the description and the image do not belong together."
_SOURCE_MENTION = re.compile(
    r"\b(?:captions?|descriptions?|according to the"
    r" (?:text|report|information)|mentioned|provided|stated)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class GeneratedQuestion:
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
    prompts = load_prompts(KIND, prompt_file)
    response_format = _allow_mismatch(json_format(GeneratedQuestion))

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        caption = answer_text(sample).strip()
        if not sample.images or not caption:
            return Drop(sample.id, "no_caption" if sample.images else "no_image")
        prompt = prompts.render("ask", caption=caption, mismatch=MISMATCH)
        item = yield from one_response(
            build_request(sample, prompt, response_format, images=sample.images)
        )
        if item is None:
            return Drop(
                sample.id,
                "mismatch",
                "the teacher finds that caption and image do not belong together",
            )
        return _build_sample(sample, item, seed)

    return TeacherStep(KIND, dialogue, prompts.tag)


def _allow_mismatch(
    response_format: ResponseFormat[GeneratedQuestion],
) -> ResponseFormat[GeneratedQuestion | None]:
    def parse(text: str) -> GeneratedQuestion | None:
        return (
            None
            if normalize_answer(text).startswith(normalize_answer(MISMATCH))
            else response_format.parse(text)
        )

    return ResponseFormat(parse, response_format.schema)


def _build_sample(sample: Sample, item: GeneratedQuestion, seed: int) -> Sample | Drop:
    options = [item.answer.strip(), *(wrong_answer.strip() for wrong_answer in item.wrong_answers)]
    if (
        not 2 <= len(options) <= 4
        or len({normalize_answer(option) for option in options}) < len(options)
        or not all(map(normalize_answer, options))
    ):
        return Drop(
            sample.id,
            "bad_options",
            f"{len(options)} options, {len({normalize_answer(option) for option in options})} different",
        )
    if not item.question.strip() or _SOURCE_MENTION.search(item.question):
        return Drop(
            sample.id,
            "tells_source" if item.question.strip() else "bad_options",
            "the question speaks of what was told",
        )
    choices = tuple(seeded_shuffle(options, sample.id, seed))
    gold = LETTERS[choices.index(options[0])]
    return derive_sample(
        sample,
        KIND,
        messages=qa_messages(
            with_choices(item.question.strip(), choices), gold, len(sample.images)
        ),
        gold=(gold,),
        choices=choices,
        meta=replace(sample.meta, kind="choice"),
    )
