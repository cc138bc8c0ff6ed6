"""Doctors' replies from consultation sites rewritten by a teacher; a reply without the agreed mark
is rejected.

The paper has HealthCareMagic-100k and iCliniq-10k rewritten so (section 2.1.4 and its appendix).
What still names a person, a place or a contact afterwards is dropped.
"""

from __future__ import annotations

from lingshu.core.forms import Form, Unusable
from lingshu.core.nouns import Drop, Message, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops import _identifiers
from lingshu.ops._facts import require, tally
from lingshu.ops._teaching import ALTERNATIVE, prompts, request, synthetic

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
    told = prompts(KIND, prompt_file)
    form = Form(_behind_mark, MARK)

    def talk(sample: Sample, _: Pixels) -> Talk:
        places = [
            i
            for i, message in enumerate(sample.messages)
            if message.role == "assistant" and i and message.text.strip()
        ]
        if not places:
            return Drop(sample.id, "no_reply")
        asked = [
            told.fill(
                "rewrite",
                question=sample.messages[i - 1].text,
                reply=sample.messages[i].text,
                mark=MARK,
            )
            for i in places
        ]
        replies = yield [request(sample, text, form) for text in asked]
        messages = list(sample.messages)
        for place, reply in zip(places, replies, strict=True):
            if len(reply.split()) < min_words:
                return Drop(sample.id, "too_short", f"{len(reply.split())} words")
            found = _identifiers.scrub(reply)[1]
            if found:
                return Drop(sample.id, "identifiers", tally(found))
            messages[place] = Message("assistant", (reply,))
        notes = {ALTERNATIVE: sample.messages[places[-1]].text} if sample.answered else None
        gold = (
            (messages[-1].text,)
            if sample.answered and sample.gold == (sample.messages[-1].text,)
            else sample.gold
        )
        return synthetic(sample, KIND, notes=notes, messages=tuple(messages), gold=gold)

    return TeacherStep(KIND, talk, told.tag)


def _behind_mark(text: str) -> str:
    said = text.strip()
    if not said.casefold().startswith(MARK.casefold()):
        raise Unusable("no_mark", f"it does not begin with {MARK!r}")
    return said[len(MARK) :].strip()
