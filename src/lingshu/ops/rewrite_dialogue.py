"""Doctors' replies from consultation sites, rewritten by a teacher; a reply without the agreed
prefix is rejected.

The paper has HealthCareMagic-100k and iCliniq-10k rewritten this way (section 2.1.4 and its
appendix). A reply that still names a person, a place or a contact is dropped.
"""

from __future__ import annotations

from lingshu.core.cached_client import InvalidResponse, ResponseFormat
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import ALTERNATIVE, build_request, derive_sample
from lingshu.core.types import Drop, Message, Sample
from lingshu.deidentify.scrub import scrub
from lingshu.ops._sample_fields import assistant_turns, check_minimum, format_counts, with_messages
from lingshu.ops._teacher import step_prompts

KIND = "rewrite_dialogue"
PREFIX = "Revised response:"


def step(*, min_words: int = 15, prompt_file: str | None = None) -> TeacherStep:
    """Rewrite every assistant turn.

    Args:
        min_words: a dialogue with a shorter new reply is dropped.
        prompt_file: custom prompts with the sections of this step's own.

    Drops: no_reply, no_mark (the teacher's reply lacks the prefix), too_short, identifiers.
    """
    check_minimum(KIND, 1, min_words=min_words)
    prompts = step_prompts(KIND, prompt_file)
    response_format = ResponseFormat(_after_prefix, PREFIX)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        messages = list(sample.messages)
        turns = [turn for turn in assistant_turns(sample) if turn]
        if not turns:
            return Drop(sample.id, "no_reply")
        texts = [
            prompts.render(
                "rewrite", question=messages[i - 1].text, reply=messages[i].text, mark=PREFIX
            )
            for i in turns
        ]
        replies = yield [build_request(sample, text, response_format) for text in texts]
        for turn, reply in zip(turns, replies, strict=True):
            n_words, identifiers = len(reply.split()), scrub(reply).counts
            if n_words < min_words:
                return Drop(sample.id, "too_short", f"{n_words} words")
            if identifiers:
                return Drop(sample.id, "identifiers", format_counts(identifiers))
            messages[turn] = Message("assistant", (reply,))
        notes = {ALTERNATIVE: sample.messages[turns[-1]].text} if sample.answered else None
        return derive_sample(with_messages(sample, messages), KIND, extra=notes)

    return TeacherStep(KIND, dialogue, prompts.tag)


def _after_prefix(text: str) -> str:
    reply = text.strip()
    if not reply.casefold().startswith(PREFIX.casefold()):
        raise InvalidResponse("no_mark", f"it does not begin with {PREFIX!r}")
    return reply[len(PREFIX) :].strip()
