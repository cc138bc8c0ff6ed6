"""Questions by self-instruction: a teacher writes question, answer and wrong answers from an image
and its caption.

The paper's synthesis C, second method (section 2.2.3). Where the caption does not describe the
image the teacher replies with a fixed sentence, and the sample is dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import normalize_answer, seeded_shuffle
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text, choice_sample
from lingshu.ops._teacher import ask, json_or_sentence, step_prompts

KIND = "vqa_self_instruct"
MISMATCH = "Error: the description and the image do not belong together."
_SOURCE_MENTION = re.compile(
    r"\b(?:captions?|descriptions?|according to the (?:text|report|information)|mentioned|provided"
    r"|stated)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class GeneratedQuestion:
    """The teacher's reply."""

    question: str
    answer: str
    wrong_answers: list[str]


def step(*, prompt_file: str | None = None, seed: int = 0) -> TeacherStep:
    """Write one multiple-choice question for every sample with images and a caption (its answer).

    Args:
        prompt_file: custom prompts with the sections of this step's own.
        seed: orders the options.

    Drops: no_image, no_caption, mismatch, bad_options (none, more than three, or two alike),
    tells_source (the question mentions a caption).
    """
    prompts = step_prompts(KIND, prompt_file)
    response_format = json_or_sentence(GeneratedQuestion, MISMATCH)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        caption = answer_text(sample).strip()
        if not sample.images or not caption:
            return Drop(sample.id, "no_caption" if sample.images else "no_image")
        prompt = prompts.render("ask", caption=caption, mismatch=MISMATCH)
        reply = yield from ask(sample, prompt, response_format)
        if reply is None:
            return Drop(sample.id, "mismatch", "caption and image do not belong together")
        return _build_sample(sample, reply, seed)

    return TeacherStep(KIND, dialogue, prompts.tag)


def _build_sample(sample: Sample, reply: GeneratedQuestion, seed: int) -> Sample | Drop:
    question = reply.question.strip()
    options = [option.strip() for option in (reply.answer, *reply.wrong_answers)]
    different = {normalize_answer(option) for option in options}
    if not 2 <= len(options) <= 4 or len(different) < len(options) or "" in different:
        return Drop(sample.id, "bad_options", f"{len(options)} options, {len(different)} different")
    if not question or _SOURCE_MENTION.search(question):
        reason = "tells_source" if question else "bad_options"
        return Drop(sample.id, reason, "the question is empty or mentions its source")
    choices = tuple(seeded_shuffle(options, sample.id, seed))
    return choice_sample(sample, KIND, question, choices, options[0])
