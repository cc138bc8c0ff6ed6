"""Refined questions: a teacher rewrites a question and its short answer into a clear question and a
full answer.

The training side of PSV2026. The gold stays as it is: an answer that contradicts it is dropped, by
rule (polarity, side, negation) and by a second call.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingshu.core.cached_client import json_format
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import ALTERNATIVE
from lingshu.core.types import Drop, Sample
from lingshu.ops._consistency import find_text_problem
from lingshu.ops._teacher import CheckMode, QAWriter, ask, qa_item

KIND = "refine_qa"


@dataclass(frozen=True)
class RefinedQA:
    """The teacher's reply."""

    question: str
    answer: str


def step(*, check: CheckMode = "always", prompt_file: str | None = None) -> TeacherStep:
    """Rewrite and label question and answer of every sample with one question and a known answer.

    Args:
        check: how the answer is compared with the gold: `always` also by a second call, `open` by
            one where no rule decides, `rule` by rules alone, which drops what they cannot decide.
        prompt_file: custom prompts with the sections of this step's own.

    Drops: several_turns, no_gold, empty_text, other_language, tells_source (it mentions an answer
    that was given), leaks_answer (the question contains the gold), contradicts_gold, gold_missing.
    """
    writer, response_format = QAWriter.load(KIND, check, prompt_file), json_format(RefinedQA)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, Drop):
            return item
        prompt = writer.prompts.render("refine", question=item.question, gold=item.answer)
        reply = yield from ask(sample, prompt, response_format)
        question, answer = reply.question.strip(), reply.answer.strip()
        problem = find_text_problem(item.question, item.answer, question, answer)
        if problem:
            return Drop(sample.id, problem)
        extra = {**item.originals, ALTERNATIVE: item.answer}
        return (yield from writer.write(item, question, answer, kind="open", extra=extra))

    return TeacherStep(KIND, dialogue, writer.tag)
