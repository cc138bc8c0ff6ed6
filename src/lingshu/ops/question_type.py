"""Question types: a teacher names type, clinical domain, modality and medical terms of each
question and its answer.

The taxonomy of PSV2026. `refine_qa`, `critique` and `write_rubric` do this to what they write
themselves; this step is for questions that are good as they are.
"""

from __future__ import annotations

from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import derive_sample, load_prompts, qa_messages
from lingshu.core.types import Drop, Sample
from lingshu.ops._qa_items import qa_item
from lingshu.ops._question_labels import PROMPT_NAME, label_question, with_labels
from lingshu.ops._sample_fields import answer_text

KIND = "question_type"


def step(*, prompt_file: str | None = None) -> TeacherStep:
    """Add `question_type`, `main_topic`, `med_terms` and the modality to every sample with one
    question and a known answer.

    Args:
        prompt_file: other prompts, with the sections of this step's own.

    Drops: several_turns, no_gold.
    """
    prompts = load_prompts(PROMPT_NAME, prompt_file)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        notes = yield from label_question(
            prompts, sample, question=item.question, answer=answer_text(sample)
        )
        messages = (
            sample.messages
            if sample.answered
            else qa_messages(item.question, answer_text(sample), len(sample.images))
        )
        return with_labels(derive_sample(sample, KIND, messages=messages), notes)

    return TeacherStep(KIND, dialogue, prompts.tag)
