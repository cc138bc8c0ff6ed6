"""Medical terms in answers, listed by a teacher and marked where they occur; a term that does not
occur in the answer is left out.

MOFT has its training answers labeled this way by a large language model (`med_terms`);
mark_entities uses a dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingshu.core.cached_client import json_format
from lingshu.core.entities import EntityMatcher, Span, with_spans
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import build_request
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.ops._sample_fields import assistant_turns, with_gold_answer
from lingshu.ops._teacher import step_prompts, verbatim_terms

KIND = "label_entities"
# How many of the terms that the teacher listed do not occur in their answer.
NOT_FOUND_KEY = "entities_not_found"


@dataclass(frozen=True)
class TermList:
    """The teacher's reply."""

    terms: list[str]


def step(*, prompt_file: str | None = None) -> TeacherStep:
    """Write where the teacher's terms occur to `meta.extra["entities"]` (docs/artifacts.md).

    Every occurrence of a term as a whole word is marked, in the answer it was listed for. How many
    terms were not in the answer is written to `meta.extra["entities_not_found"]`.

    Args:
        prompt_file: custom prompts with the section of this step's own.

    Drops: no_reply.
    """
    prompts, response_format = step_prompts(KIND, prompt_file), json_format(TermList)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        answered = with_gold_answer(sample)
        texts = {turn: answered.messages[turn].text for turn in assistant_turns(answered)}
        if not texts:
            return Drop(sample.id, "no_reply")
        replies = yield [
            build_request(sample, prompts.render("label", answer=text), response_format)
            for text in texts.values()
        ]
        spans: list[Span] = []
        n_missing = 0
        for (turn, text), reply in zip(texts.items(), replies, strict=True):
            found_terms, n_dropped = verbatim_terms(reply.terms, text)
            n_missing += n_dropped
            spans += [
                Span(turn, start, end, text[start:end])
                for start, end in EntityMatcher(found_terms).find(text)
            ]
        return with_extra(with_spans(sample, spans), {NOT_FOUND_KEY: str(n_missing)})

    return TeacherStep(KIND, dialogue, prompts.tag)
