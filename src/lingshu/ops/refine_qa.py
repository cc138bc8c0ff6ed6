"""Refined questions: a teacher rewrites a question and its short answer into a clear question and a
full answer.

The training side of PSV2026. The gold stays what it is: an answer that contradicts it is dropped,
by rule (polarity, side, denial) and by a second call.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingshu.core.response_format import json_format, one_response
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import (
    ALTERNATIVE,
    build_request,
    derive_sample,
    load_prompts,
    qa_messages,
)
from lingshu.core.types import Drop, Sample
from lingshu.ops import _consistency, _question_labels
from lingshu.ops._consistency import CHECK_MODES, CheckMode, check_consistency, find_text_problem
from lingshu.ops._qa_items import qa_item
from lingshu.ops._question_labels import label_question, with_labels
from lingshu.ops._sample_fields import answer_text, check_choice

KIND = "refine_qa"


@dataclass(frozen=True)
class RefinedQA:
    """What the teacher replies."""

    question: str
    answer: str


def step(*, check: CheckMode = "always", prompt_file: str | None = None) -> TeacherStep:
    """Write question and answer of every sample with one question and a known answer anew, and
    label them.

    Args:
        check: how the answer is held against the gold: `always` also by a second call, `open` by
            one where no rule decides, `rule` by rules alone, which drops what they cannot tell.
        prompt_file: other prompts, with the sections of this step's own.

    Drops: several_turns, no_gold, empty_text, other_language, tells_source (it speaks of an answer
    that was given), leaks_answer (the question holds the gold), contradicts_gold, gold_missing.
    """
    check_choice(KIND, "check", check, CHECK_MODES)
    prompts, label_prompts, consistency_prompts = (
        load_prompts(KIND, prompt_file),
        load_prompts(_question_labels.PROMPT_NAME),
        load_prompts(_consistency.PROMPT_NAME),
    )
    response_format = json_format(RefinedQA)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        gold = answer_text(sample).strip()
        reply = yield from one_response(
            build_request(
                sample,
                prompts.render("refine", question=item.question, gold=gold),
                response_format,
                images=sample.images,
            )
        )
        question, full_answer = reply.question.strip(), reply.answer.strip()
        problem = find_text_problem(item.question, gold, question, full_answer)
        if problem:
            return Drop(sample.id, problem)
        drop = yield from check_consistency(
            consistency_prompts, sample, question=question, gold=gold, text=full_answer, check=check
        )
        if drop:
            return drop
        notes = yield from label_question(
            label_prompts, sample, question=question, answer=full_answer
        )
        extra = {"original_question": item.question, "original_answer": gold, ALTERNATIVE: gold}
        derived = derive_sample(
            sample,
            KIND,
            extra=extra,
            messages=qa_messages(question, full_answer, len(sample.images)),
            gold=(full_answer,),
            choices=(),
        )
        return with_labels(derived, notes, kind="open")

    return TeacherStep(
        KIND, dialogue, f"{prompts.tag}, {label_prompts.tag}, {consistency_prompts.tag}"
    )
