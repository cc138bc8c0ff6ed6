"""Test items with a rubric: a teacher expands the question, writes a full answer, and describes
what a judge has to look for.

The test side of PSV2026: query expansion, then five binary dimensions for each item. The published
names of the dimensions are not known; these five are this project's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lingshu.core.cached_client import json_format
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import ALTERNATIVE, normalize_answer
from lingshu.core.types import Drop, Sample
from lingshu.ops._consistency import find_text_problem
from lingshu.ops._teacher import CheckMode, QAWriter, ask, qa_item

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
    """One criterion that a judge finds met or not met."""

    dim: str
    score: int
    description: str


@dataclass(frozen=True)
class RubricItem:
    """The teacher's reply."""

    query: str
    answer: str
    rubric: list[Dimension]


def step(*, check: CheckMode = "always", prompt_file: str | None = None) -> TeacherStep:
    """Write an expanded question, a full answer and a rubric for every sample with a known answer.

    Args:
        check: how the answer is compared with the gold, as in `refine_qa`.
        prompt_file: custom prompts with the sections of this step's own.

    Drops: several_turns, no_gold, empty_text, other_language, tells_source, leaks_answer,
    contradicts_gold, gold_missing, and bad_rubric (a dimension missing or repeated, two with the
    same description, or points outside 1 to 10).
    """
    writer, response_format = QAWriter.load(KIND, check, prompt_file), json_format(RubricItem)
    sections = writer.prompts.sections

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, Drop):
            return item
        dimensions = "\n".join(f"- {sections[f'dimension: {name}']}" for name in DIMENSIONS)
        prompt = writer.prompts.render(
            "write", question=item.question, gold=item.answer, dimensions=dimensions
        )
        reply = yield from ask(sample, prompt, response_format)
        question, answer = reply.query.strip(), reply.answer.strip()
        problem = find_text_problem(item.question, item.answer, question, answer)
        if problem:
            return Drop(sample.id, problem)
        rubric = _order_dimensions(reply.rubric)
        if isinstance(rubric, str):
            return Drop(sample.id, "bad_rubric", rubric)
        dimensions = json.dumps([asdict(dimension) for dimension in rubric], ensure_ascii=False)
        extra = {"rubric": dimensions, **item.originals, ALTERNATIVE: item.answer}
        return (yield from writer.write(item, question, answer, kind="rubric", extra=extra))

    return TeacherStep(KIND, dialogue, writer.tag)


def _order_dimensions(dimensions: Sequence[Dimension]) -> list[Dimension] | str:
    """The dimensions in their order, or what is wrong with them."""
    by_name: dict[str, Dimension] = {}
    for dimension in dimensions:
        name = normalize_answer(dimension.dim)
        by_name[name] = Dimension(name, dimension.score, dimension.description.strip())
    if sorted(by_name) != sorted(DIMENSIONS) or len(dimensions) != len(DIMENSIONS):
        n_known = len(by_name.keys() & set(DIMENSIONS))
        return f"{len(dimensions)} dimensions, {n_known} of the {len(DIMENSIONS)} requested"
    descriptions = {normalize_answer(dimension.description) for dimension in by_name.values()}
    if len(descriptions - {""}) < len(DIMENSIONS):
        return "a description is empty or repeats another one"
    points = [dimension.score for dimension in by_name.values()]
    if not all(1 <= score <= MAX_POINTS for score in points):
        return f"points {points}"
    return [by_name[name] for name in DIMENSIONS]
