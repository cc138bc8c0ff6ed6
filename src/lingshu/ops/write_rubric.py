"""Test items with a rubric: a teacher expands the question, writes a full answer, and says what a
judge is to look for.

The test side of PSV2026: query expansion, then five binary dimensions for each item. The published
names of the dimensions are not known; these five are this project's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lingshu.core.response_format import json_format, one_response
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import (
    ALTERNATIVE,
    build_request,
    derive_sample,
    load_prompts,
    normalize_answer,
    qa_messages,
)
from lingshu.core.types import Drop, Sample
from lingshu.ops import _consistency, _question_labels
from lingshu.ops._consistency import CHECK_MODES, CheckMode, check_consistency, find_text_problem
from lingshu.ops._qa_items import qa_item
from lingshu.ops._question_labels import label_question, with_labels
from lingshu.ops._sample_fields import answer_text, check_choice

KIND = "write_rubric"
DIMENSIONS = (
    "factual correctness",
    "localization and anatomy",
    "visual grounding",
    "completeness",
    "soundness of reasoning",
)
MAX_POINTS = 10


@dataclass(frozen=True)
class Dimension:
    """One thing that a judge finds met or not met."""

    dim: str
    score: int
    description: str


@dataclass(frozen=True)
class RubricItem:
    """What the teacher replies."""

    query: str
    answer: str
    rubric: list[Dimension]


def step(*, check: CheckMode = "always", prompt_file: str | None = None) -> TeacherStep:
    """Write an expanded question, a full answer and a rubric of five dimensions for every sample
    with a known answer.

    Args:
        check: how the answer is held against the gold, as in `refine_qa`.
        prompt_file: other prompts, with the sections of this step's own.

    Drops: several_turns, no_gold, empty_text, other_language, tells_source, leaks_answer,
    contradicts_gold, gold_missing, and bad_rubric (not each dimension once, two that say the same,
    or points beyond 1 to 10).
    """
    check_choice(KIND, "check", check, CHECK_MODES)
    prompts, label_prompts, consistency_prompts = (
        load_prompts(KIND, prompt_file),
        load_prompts(_question_labels.PROMPT_NAME),
        load_prompts(_consistency.PROMPT_NAME),
    )
    response_format = json_format(RubricItem)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        gold = answer_text(sample).strip()
        dimension_list = "\n".join(
            f"- {prompts.sections[f'dimension: {name}']}" for name in DIMENSIONS
        )
        prompt = prompts.render(
            "write", question=item.question, gold=gold, dimensions=dimension_list
        )
        reply = yield from one_response(
            build_request(sample, prompt, response_format, images=sample.images)
        )
        query, full_answer = reply.query.strip(), reply.answer.strip()
        problem = find_text_problem(item.question, gold, query, full_answer)
        rubric = _order_dimensions(reply.rubric)
        if problem or isinstance(rubric, str):
            return Drop(sample.id, problem or "bad_rubric", "" if problem else str(rubric))
        drop = yield from check_consistency(
            consistency_prompts, sample, question=query, gold=gold, text=full_answer, check=check
        )
        if drop:
            return drop
        notes = yield from label_question(label_prompts, sample, question=query, answer=full_answer)
        extra = {
            "rubric": json.dumps([asdict(dimension) for dimension in rubric], ensure_ascii=False),
            "original_question": item.question,
            "original_answer": gold,
            ALTERNATIVE: gold,
        }
        derived = derive_sample(
            sample,
            KIND,
            extra=extra,
            messages=qa_messages(query, full_answer, len(sample.images)),
            gold=(full_answer,),
            choices=(),
        )
        return with_labels(derived, notes, kind="rubric")

    return TeacherStep(
        KIND, dialogue, f"{prompts.tag}, {label_prompts.tag}, {consistency_prompts.tag}"
    )


def _order_dimensions(dimensions: Sequence[Dimension]) -> list[Dimension] | str:
    """The dimensions in their order, or what is wrong with them."""
    by_name = {
        normalize_answer(dimension.dim): Dimension(
            normalize_answer(dimension.dim), dimension.score, dimension.description.strip()
        )
        for dimension in dimensions
    }
    if sorted(by_name) != sorted(DIMENSIONS) or len(dimensions) != len(DIMENSIONS):
        return (
            f"{len(dimensions)} dimensions, {len(by_name.keys() & set(DIMENSIONS))} of the"
            f" {len(DIMENSIONS)} that were asked for"
        )
    if len(
        {normalize_answer(dimension.description) for dimension in by_name.values()} - {""}
    ) < len(DIMENSIONS):
        return "a dimension says nothing, or what another one says"
    if not all(1 <= dimension.score <= MAX_POINTS for dimension in by_name.values()):
        return f"points {[dimension.score for dimension in by_name.values()]}"
    return [by_name[name] for name in DIMENSIONS]
