"""Question types: a teacher names type, clinical domain, modality and medical terms of each
question and its answer.

The taxonomy of PSV2026. `refine_qa`, `critique` and `write_rubric` do this to what they write
themselves; this step is for questions that are good as they are.
"""

from __future__ import annotations

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops._exam import item_of
from lingshu.ops._facts import answer
from lingshu.ops._question_labels import PROMPTS, labelled, with_labels
from lingshu.ops._teaching import dialogue, prompts, synthetic

KIND = "question_type"


def step(*, prompt_file: str | None = None) -> TeacherStep:
    """Add `question_type`, `main_topic`, `med_terms` and the modality to every sample with one
    question and a known answer.

    Args:
        prompt_file: other prompts, with the sections of this step's own.

    Drops: several_turns, no_gold.
    """
    told = prompts(PROMPTS, prompt_file)

    def talk(sample: Sample, _: Pixels) -> Talk:
        item = item_of(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        notes = yield from labelled(told, sample, question=item.question, answer=answer(sample))
        closed = (
            sample.messages
            if sample.answered
            else dialogue(item.question, answer(sample), len(sample.images))
        )
        return with_labels(synthetic(sample, KIND, messages=closed), notes)

    return TeacherStep(KIND, talk, told.tag)
