"""Questions by template: a sample's label becomes a question with four shuffled options, the wrong
ones other labels of its source.

The paper's synthesis C, first method (section 2.2.3); no teacher is needed. One of the options is
the negative class (`negative`) where the source has one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from lingshu.core.rows import LETTERS
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.teacher_prompts import normalize_answer, seeded_choice, seeded_shuffle
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import check_choice, check_range, choice_sample, seeded_instruction
from lingshu.ops.label_space import LABELS_KEY

KIND = "vqa_template"
LABEL_TYPES = ("anatomy", "abnormality", "modality")


def step(
    *,
    label_type: str = "abnormality",
    facet: str = "label",
    labels: Sequence[str] = (),
    negative: str | None = None,
    templates: Sequence[str] = (),
    options: int = 4,
    seed: int = 0,
) -> MapStep:
    """Ask for the label of every image.

    Args:
        label_type: what the label states, which selects the wording: anatomy, abnormality or
            modality.
        facet: facet of the samples that holds the label.
        labels: label space; by default what `label_space` noted.
        negative: label of images without a finding; where the source has it, it is always one of
            the options.
        templates: other question texts; {modality} stands for the sample's modality.
        options: number of options, fewer where the source has fewer labels.
        seed: selects wording and wrong options, and orders them.

    Drops: no_image, no_label, no_label_space, few_labels.
    """
    if not templates:
        check_choice(KIND, "label_type", label_type, LABEL_TYPES)
    check_range(KIND, 2, len(LETTERS), options=options)

    def ask_for_label(sample: Sample, _: Pixels) -> Sample | Drop:
        label = sample.meta.facet(facet)
        if not sample.images or not label:
            reason = "no_label" if sample.images else "no_image"
            return Drop(sample.id, reason, f"its {facet} is not known")
        label_space = list(labels) or json.loads(sample.meta.extra.get(LABELS_KEY, "[]"))
        if not label_space:
            detail = "give labels, or run the step label_space first"
            return Drop(sample.id, "no_label_space", detail)
        own = normalize_answer(label)
        others = [name for name in dict.fromkeys(label_space) if normalize_answer(name) != own]
        shuffled = seeded_shuffle(others, sample.id, seed)
        if negative is not None:  # first, in the order of the label space
            negatives = [c for c in others if normalize_answer(c) == normalize_answer(negative)]
            shuffled = [*negatives, *(c for c in shuffled if c not in negatives)]
        distractors = shuffled[: options - 1]
        if not distractors:
            return Drop(sample.id, "few_labels", "its source has no other label")
        choices = tuple(seeded_shuffle([label, *distractors], f"{sample.id}\0order", seed))
        if templates:
            question = seeded_choice(templates, sample.id, seed)
        else:
            question = seeded_instruction(f"{KIND} {label_type}", sample, seed)
        question = question.replace("{modality}", sample.meta.modality or "medical")
        extra = {key: value for key, value in sample.meta.extra.items() if key != LABELS_KEY}
        parent = replace(sample, meta=replace(sample.meta, extra=extra))
        return choice_sample(parent, KIND, question, choices, label)

    return MapStep(lambda: ask_for_label)
