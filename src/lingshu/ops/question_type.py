"""Question types: a teacher labels each question and answer with type, clinical domain, modality
and medical terms.

The taxonomy of PSV2026. `refine_qa`, `critique` and `write_rubric` label what they write
themselves; this step is for questions that are kept as they are.
"""

from __future__ import annotations

from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import derive_sample, qa_messages
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text
from lingshu.ops._teacher import label_question, qa_item, step_prompts, with_labels

KIND = "question_type"


def step(*, prompt_file: str | None = None) -> TeacherStep:
    """Add type, topic, terms and modality to every sample with one question and a known answer.

    Args:
        prompt_file: custom prompts with the sections of this step's own.

    Drops: several_turns, no_gold.
    """
    prompts = step_prompts(KIND, prompt_file)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, Drop):
            return item
        answer = answer_text(sample)
        labels = yield from label_question(prompts, sample, question=item.question, answer=answer)
        messages = sample.messages
        if not sample.answered:
            messages = qa_messages(item.question, answer, len(sample.images))
        return with_labels(derive_sample(sample, KIND, messages=messages), labels)

    return TeacherStep(KIND, dialogue, prompts.tag)
