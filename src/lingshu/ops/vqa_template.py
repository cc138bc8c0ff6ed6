"""Questions by template: a sample's label becomes a question with four shuffled options, the wrong
ones labels of its source.

The paper's synthesis C, first way (section 2.2.3); no teacher is needed. One of the options is the
negative class (`negative`) where the source has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.steps import MapStep, Pixels
from lingshu.ops._facts import require
from lingshu.ops._teaching import choose, dialogue, fold, shuffled, synthetic
from lingshu.ops.label_space import NOTE

KIND = "vqa_template"
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "anatomy": (
        "Which part of the body does this {modality} image show?",
        "What anatomical region is imaged here?",
        "Which structure is shown in this image?",
    ),
    "abnormality": (
        "Which finding does this {modality} image show?",
        "What is the most likely finding in this image?",
        "Which of these conditions fits this image best?",
        "What abnormality, if any, can be seen here?",
    ),
    "modality": (
        "How was this image taken?",
        "Which imaging technique is this?",
        "Which modality does this image come from?",
    ),
}


def step(
    *,
    about: str = "abnormality",
    facet: str = "label",
    labels: Sequence[str] = (),
    negative: str | None = None,
    templates: Sequence[str] = (),
    options: int = 4,
    seed: int = 0,
) -> MapStep:
    """Ask for the label of every image.

    Args:
        about: what the label says, which chooses the wording: anatomy, abnormality or modality.
        facet: facet of the samples that holds the label.
        labels: label space; by default what `label_space` noted.
        negative: label of images without a finding; where the source has it, it is always one of
            the options.
        templates: other wordings; {modality} stands for the sample's modality.
        options: number of options, fewer where the source has fewer labels.
        seed: chooses wording and wrong options, and orders them.

    Drops: no_image, no_label, no_label_space, few_labels.
    """
    require(
        about in TEMPLATES or bool(templates),
        f"vqa_template: about is {about!r}; choose one of: {', '.join(TEMPLATES)}.",
    )
    require(
        2 <= options <= len(LETTERS),
        f"vqa_template: options is {options}; it must lie between 2 and {len(LETTERS)}.",
    )
    wordings = tuple(templates) or TEMPLATES[about]

    def change(sample: Sample, _: Pixels) -> Sample | Drop:
        label = sample.meta.facet(facet)
        if not sample.images or not label:
            return Drop(
                sample.id, "no_label" if sample.images else "no_image", f"its {facet} is not known"
            )
        space = list(labels) or json.loads(sample.meta.extra.get(NOTE, "[]"))
        if not space:
            return Drop(
                sample.id, "no_label_space", "give labels, or let the step label_space come before"
            )
        others = [other for other in dict.fromkeys(space) if fold(other) != fold(label)]
        first = [
            other for other in others if negative is not None and fold(other) == fold(negative)
        ]
        drawn = [
            *first,
            *(other for other in shuffled(others, sample.id, seed) if other not in first),
        ][: options - 1]
        if not drawn:
            return Drop(sample.id, "few_labels", "its source has no other label")
        choices = tuple(shuffled([label, *drawn], f"{sample.id}\0order", seed))
        asked = choose(wordings, sample.id, seed).replace(
            "{modality}", sample.meta.modality or "medical"
        )
        gold = LETTERS[choices.index(label)]
        extra = {key: value for key, value in sample.meta.extra.items() if key != NOTE}
        return synthetic(
            sample,
            KIND,
            messages=dialogue(with_choices(asked, choices), gold, len(sample.images)),
            gold=(gold,),
            choices=choices,
            meta=replace(sample.meta, kind="choice", extra=extra),
        )

    return MapStep(lambda: change)
