"""Medical terms in answers, listed by a teacher and marked where they stand; a term that the answer
lacks is left out.

MOFT has its training answers labelled so by a large language model (`med_terms`); mark_entities
does it by a dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingshu.core.entities import EntityMatcher, Span, with_spans
from lingshu.core.response_format import json_format
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import build_request, load_prompts
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.ops._entities import with_gold_answer

KIND = "label_entities"
# How many of the terms that the teacher listed stand nowhere in the answer they were listed for.
NOT_FOUND_KEY = "entities_not_found"


@dataclass(frozen=True)
class TermList:
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
    prompts, response_format = load_prompts(KIND, prompt_file), json_format(TermList)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        answered = with_gold_answer(sample)
        turns = [
            i
            for i, message in enumerate(answered.messages)
            if message.role == "assistant" and message.text.strip()
        ]
        if not turns:
            return Drop(sample.id, "no_reply")
        replies = yield [
            build_request(
                sample, prompts.render("label", answer=answered.messages[i].text), response_format
            )
            for i in turns
        ]
        spans: list[Span] = []
        n_missing = 0
        for turn, reply in zip(turns, replies, strict=True):
            text = answered.messages[turn].text
            terms = dict.fromkeys(term for term in reply.terms if term.strip())
            found_terms = [term for term in terms if EntityMatcher([term]).find(text)]
            n_missing += len(terms) - len(found_terms)
            spans += [
                Span(turn, start, end, text[start:end])
                for start, end in EntityMatcher(found_terms).find(text)
            ]
        return with_extra(with_spans(sample, spans), {NOT_FOUND_KEY: str(n_missing)})

    return TeacherStep(KIND, dialogue, prompts.tag)
