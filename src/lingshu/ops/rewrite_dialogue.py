"""Doctors' replies from consultation sites rewritten by a teacher; a reply without the agreed mark
is rejected.

The paper has HealthCareMagic-100k and iCliniq-10k rewritten so (section 2.1.4 and its appendix).
What still names a person, a place or a contact afterwards is dropped.
"""

from __future__ import annotations

from lingshu.core.response_format import InvalidResponse, ResponseFormat
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import ALTERNATIVE, build_request, derive_sample, load_prompts
from lingshu.core.types import Drop, Message, Sample
from lingshu.deidentify import rules
from lingshu.ops._sample_fields import format_counts, require

KIND = "rewrite_dialogue"
MARK = "Revised response:"


def step(*, min_words: int = 15, prompt_file: str | None = None) -> TeacherStep:
    """Rewrite every assistant turn.

    Args:
        min_words: a dialogue with a shorter new reply is dropped.
        prompt_file: other prompts, with the sections of this step's own.

    Drops: no_reply, no_mark (the teacher's reply does not begin as agreed), too_short, identifiers.
    """
    require(min_words >= 1, f"rewrite_dialogue: min_words is {min_words}; it must be at least 1.")
    prompts = load_prompts(KIND, prompt_file)
    response_format = ResponseFormat(_after_mark, MARK)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        turns = [
            i
            for i, message in enumerate(sample.messages)
            if message.role == "assistant" and i and message.text.strip()
        ]
        if not turns:
            return Drop(sample.id, "no_reply")
        rewrite_prompts = [
            prompts.render(
                "rewrite",
                question=sample.messages[i - 1].text,
                reply=sample.messages[i].text,
                mark=MARK,
            )
            for i in turns
        ]
        replies = yield [build_request(sample, text, response_format) for text in rewrite_prompts]
        messages = list(sample.messages)
        for turn, reply in zip(turns, replies, strict=True):
            if len(reply.split()) < min_words:
                return Drop(sample.id, "too_short", f"{len(reply.split())} words")
            identifier_counts = rules.scrub_text(reply)[1]
            if identifier_counts:
                return Drop(sample.id, "identifiers", format_counts(identifier_counts))
            messages[turn] = Message("assistant", (reply,))
        notes = {ALTERNATIVE: sample.messages[turns[-1]].text} if sample.answered else None
        gold = (
            (messages[-1].text,)
            if sample.answered and sample.gold == (sample.messages[-1].text,)
            else sample.gold
        )
        return derive_sample(sample, KIND, extra=notes, messages=tuple(messages), gold=gold)

    return TeacherStep(KIND, dialogue, prompts.tag)


def _after_mark(text: str) -> str:
    reply = text.strip()
    if not reply.casefold().startswith(MARK.casefold()):
        raise InvalidResponse("no_mark", f"it does not begin with {MARK!r}")
    return reply[len(MARK) :].strip()
