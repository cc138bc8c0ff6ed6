"""Medical terms in answers, listed by a teacher and marked where they stand; a term that the answer
lacks is left out.

MOFT has its training answers labelled so by a large language model (`med_terms`); mark_entities
does it by a dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingshu.core.entities import Span, Terms, with_spans
from lingshu.core.forms import json_form
from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops._entities import closed
from lingshu.ops._facts import with_notes
from lingshu.ops._teaching import prompts, request

KIND = "label_entities"
# How many of the terms that the teacher listed stand nowhere in the answer they were listed for.
NOT_FOUND = "entities_not_found"


@dataclass(frozen=True)
class Listed:
    """What the teacher replies."""

    terms: list[str]


def step(*, prompt_file: str | None = None) -> TeacherStep:
    """Write where the teacher's terms stand in every answer to `meta.extra["entities"]`
    (docs/artefacts.md).

    Every occurrence of a term as a whole word is marked, in the answer it was listed for. How many
    terms were not in the answer stands in `meta.extra["entities_not_found"]`.

    Args:
        prompt_file: other prompts, with the section of this step's own.

    Drops: no_reply.
    """
    told, form = prompts(KIND, prompt_file), json_form(Listed)

    def talk(sample: Sample, _: Pixels) -> Talk:
        learnt = closed(sample)
        places = [
            i
            for i, message in enumerate(learnt.messages)
            if message.role == "assistant" and message.text.strip()
        ]
        if not places:
            return Drop(sample.id, "no_reply")
        replies = yield [
            request(sample, told.fill("label", answer=learnt.messages[i].text), form)
            for i in places
        ]
        spans: list[Span] = []
        missing = 0
        for place, reply in zip(places, replies, strict=True):
            text = learnt.messages[place].text
            terms = dict.fromkeys(term for term in reply.terms if term.strip())
            present = [term for term in terms if Terms([term]).find(text)]
            missing += len(terms) - len(present)
            spans += [
                Span(place, start, end, text[start:end]) for start, end in Terms(present).find(text)
            ]
        return with_notes(with_spans(sample, spans), {NOT_FOUND: str(missing)})

    return TeacherStep(KIND, talk, told.tag)
