"""Test items with a rubric: a teacher expands the question, writes a full answer, and says what a
judge is to look for.

The test side of PSV2026: query expansion, then five binary dimensions for each item. The published
names of the dimensions are not known; these five are this project's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lingshu.core.forms import json_form, one
from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops import _agreement, _question_labels
from lingshu.ops._agreement import CHECKS, Check, agreed, text_fault
from lingshu.ops._exam import item_of
from lingshu.ops._facts import answer, one_of
from lingshu.ops._question_labels import labelled, with_labels
from lingshu.ops._teaching import ALTERNATIVE, dialogue, fold, prompts, request, synthetic

KIND = "write_rubric"
DIMENSIONS = (
    "factual correctness",
    "localisation and anatomy",
    "visual grounding",
    "completeness",
    "soundness of reasoning",
)
MOST_POINTS = 10


@dataclass(frozen=True)
class Dimension:
    """One thing that a judge finds met or not met."""

    dim: str
    score: int
    description: str


@dataclass(frozen=True)
class Written:
    """What the teacher replies."""

    query: str
    answer: str
    rubric: list[Dimension]


def step(*, check: Check = "always", prompt_file: str | None = None) -> TeacherStep:
    """Write an expanded question, a full answer and a rubric of five dimensions for every sample
    with a known answer.

    Args:
        check: how the answer is held against the gold, as in `refine_qa`.
        prompt_file: other prompts, with the sections of this step's own.

    Drops: several_turns, no_gold, empty_text, other_language, tells_source, leaks_answer,
    contradicts_gold, gold_missing, and bad_rubric (not each dimension once, two that say the same,
    or points beyond 1 to 10).
    """
    one_of(KIND, "check", check, CHECKS)
    told, labels, second = (
        prompts(KIND, prompt_file),
        prompts(_question_labels.PROMPTS),
        prompts(_agreement.PROMPTS),
    )
    form = json_form(Written)

    def talk(sample: Sample, _: Pixels) -> Talk:
        item = item_of(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        gold = answer(sample).strip()
        listed = "\n".join(f"- {told.parts[f'dimension: {name}']}" for name in DIMENSIONS)
        ask = told.fill("write", question=item.question, gold=gold, dimensions=listed)
        found = yield from one(request(sample, ask, form, images=sample.images))
        query, said = found.query.strip(), found.answer.strip()
        fault = text_fault(item.question, gold, query, said)
        rubric = _in_order(found.rubric)
        if fault or isinstance(rubric, str):
            return Drop(sample.id, fault or "bad_rubric", "" if fault else str(rubric))
        lost = yield from agreed(second, sample, question=query, gold=gold, text=said, check=check)
        if lost:
            return lost
        notes = yield from labelled(labels, sample, question=query, answer=said)
        written = {
            "rubric": json.dumps([asdict(one) for one in rubric], ensure_ascii=False),
            "original_question": item.question,
            "original_answer": gold,
            ALTERNATIVE: gold,
        }
        made = synthetic(
            sample,
            KIND,
            notes=written,
            messages=dialogue(query, said, len(sample.images)),
            gold=(said,),
            choices=(),
        )
        return with_labels(made, notes, kind="rubric")

    return TeacherStep(KIND, talk, f"{told.tag}, {labels.tag}, {second.tag}")


def _in_order(found: Sequence[Dimension]) -> list[Dimension] | str:
    """The dimensions in their order, or what is wrong with them."""
    by_name = {
        fold(one.dim): Dimension(fold(one.dim), one.score, one.description.strip()) for one in found
    }
    if sorted(by_name) != sorted(DIMENSIONS) or len(found) != len(DIMENSIONS):
        return (
            f"{len(found)} dimensions, {len(by_name.keys() & set(DIMENSIONS))} of the"
            f" {len(DIMENSIONS)} that were asked for"
        )
    if len({fold(one.description) for one in by_name.values()} - {""}) < len(DIMENSIONS):
        return "a dimension says nothing, or what another one says"
    if not all(1 <= one.score <= MOST_POINTS for one in by_name.values()):
        return f"points {[one.score for one in by_name.values()]}"
    return [by_name[name] for name in DIMENSIONS]
