"""Refined questions: a teacher rewrites a question and its short answer into a clear question and a
full answer.

The training side of PSV2026. The gold stays what it is: an answer that contradicts it is dropped,
by rule (polarity, side, denial) and by a second call.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingshu.core.forms import json_form, one
from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops import _agreement, _question_labels
from lingshu.ops._agreement import CHECKS, Check, agreed, text_fault
from lingshu.ops._exam import item_of
from lingshu.ops._facts import answer, one_of
from lingshu.ops._question_labels import labelled, with_labels
from lingshu.ops._teaching import ALTERNATIVE, dialogue, prompts, request, synthetic

KIND = "refine_qa"


@dataclass(frozen=True)
class Refined:
    """What the teacher replies."""

    question: str
    answer: str


def step(*, check: Check = "always", prompt_file: str | None = None) -> TeacherStep:
    """Write question and answer of every sample with one question and a known answer anew, and
    label them.

    Args:
        check: how the answer is held against the gold: `always` also by a second call, `open` by
            one where no rule decides, `rule` by rules alone, which drops what they cannot tell.
        prompt_file: other prompts, with the sections of this step's own.

    Drops: several_turns, no_gold, empty_text, other_language, tells_source (it speaks of an answer
    that was given), leaks_answer (the question holds the gold), contradicts_gold, gold_missing.
    """
    one_of(KIND, "check", check, CHECKS)
    told, labels, second = (
        prompts(KIND, prompt_file),
        prompts(_question_labels.PROMPTS),
        prompts(_agreement.PROMPTS),
    )
    form = json_form(Refined)

    def talk(sample: Sample, _: Pixels) -> Talk:
        item = item_of(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        gold = answer(sample).strip()
        found = yield from one(
            request(
                sample,
                told.fill("refine", question=item.question, gold=gold),
                form,
                images=sample.images,
            )
        )
        question, said = found.question.strip(), found.answer.strip()
        fault = text_fault(item.question, gold, question, said)
        if fault:
            return Drop(sample.id, fault)
        lost = yield from agreed(
            second, sample, question=question, gold=gold, text=said, check=check
        )
        if lost:
            return lost
        notes = yield from labelled(labels, sample, question=question, answer=said)
        written = {"original_question": item.question, "original_answer": gold, ALTERNATIVE: gold}
        made = synthetic(
            sample,
            KIND,
            notes=written,
            messages=dialogue(question, said, len(sample.images)),
            gold=(said,),
            choices=(),
        )
        return with_labels(made, notes, kind="open")

    return TeacherStep(KIND, talk, f"{told.tag}, {labels.tag}, {second.tag}")
