"""Long captions by a teacher: facts on the image with boxes, a description of the bare image, merged
so that the facts prevail.

The paper's synthesis A (section 2.2.1): recorded facts and regions lead to a trusted caption, the
modality's checklist to one from the image alone, and a merge joins both. A caption that mentions
boxes or its sources is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lingshu.core import teacher_prompts
from lingshu.core.cached_client import TEXT_FORMAT, json_format
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.types import Drop, Image, Sample
from lingshu.imaging.boxes import BoundingBox, draw_boxes, mask_to_boxes
from lingshu.imaging.read import encode_png
from lingshu.ops._sample_fields import answer_text, check_minimum, seeded_instruction
from lingshu.ops._teacher import step_prompts

KIND = "long_caption"
# Words of a modality's name -> its checklist, its order in the merge.
_MODALITIES = (
    (("mri", "mr ", "magnetic"), "mri", "organs"),
    (("knee",), "knee", "plain"),
    (("x-ray", "xray", "x ray", "radiograph", "dx", "cr "), "x-ray", "organs"),
    (("ct", "computed"), "ct", "organs"),
    (("histo", "patholog"), "histopathology", "scale"),
    (("derm", "skin"), "dermoscopy", "plain"),
    (("endosc", "colonosc", "gastro"), "endoscopy", "organs"),
    (("fundus", "retina"), "fundus", "plain"),
    (("ultraso", "sonogr"), "ultrasound", "organs"),
)
_MARK_MENTION = re.compile(
    r"\b(?:bounding|(?:yellow|red|green|colou?red|marked) (?:box|rectangle|outline|line)s?"
    r"|rectangles?|annotat\w*|contoured|(?:short |given |provided )captions?"
    r"|background knowledge|recorded facts)\b",
    re.IGNORECASE,
)
_BAD_BOXES = "boxes is [[left, top, right, bottom], ...], mask the position of an image"


@dataclass(frozen=True)
class ImageDescription:
    """The reply to the first request."""

    overall: str
    findings: str
    relations: str
    caption: str


def step(
    *,
    caption: str | None = None,
    facets: Sequence[str] = (),
    knowledge: Mapping[str, str] | None = None,
    min_words: int = 20,
    prompt_file: str | None = None,
    seed: int = 0,
) -> TeacherStep:
    """Write a long caption for the first image of every sample.

    Args:
        caption: short caption as a template, `{label} on a {modality}`, whose names are facets of
            the sample; by default the sample's own answer.
        facets: facets that are visible in the image and belong in the caption. Name none that is
            not visible, such as an age, and none that identifies a person.
        knowledge: background knowledge by the value of a facet; that of other values is not sent.
        min_words: shorter captions are dropped.
        prompt_file: custom prompts with the sections of this step's own.
        seed: chooses the wording of the question.

    Regions: `meta.extra["boxes"]` holds `[[left, top, right, bottom], ...]` in pixels as JSON, or
    `meta.extra["mask"]` the position of the image that is their mask. Drops: no_image, no_caption,
    bad_boxes, too_short, mentions_marks.
    """
    check_minimum(KIND, 1, min_words=min_words)
    prompts, background = step_prompts(KIND, prompt_file), dict(knowledge or {})
    response_format = json_format(ImageDescription)

    def dialogue(sample: Sample, pixels: Pixels) -> TeacherDialogue:
        if not sample.images:
            return Drop(sample.id, "no_image")
        short_caption = _short_caption(sample, caption)
        if not short_caption:
            return Drop(sample.id, "no_caption", "neither facets nor answer give a short caption")
        boxes = _read_boxes(sample, pixels)
        if boxes is None:
            return Drop(sample.id, "bad_boxes", _BAD_BOXES)
        image, modality = sample.images[0], sample.meta.modality or "medical"
        boxed = Image(data=encode_png(draw_boxes(pixels.rgb(image), boxes))) if boxes else image
        body_part = sample.meta.extra.get("body_part", "")
        checklist, order = _checklist_and_order(f"{modality} {body_part}")
        facet_values = {name: value for name in facets if (value := sample.meta.facet(name))}
        known = [background[value] for value in facet_values.values() if value in background]
        trusted_prompt = prompts.render(
            "facts",
            short=short_caption,
            modality=modality,
            facts="\n".join(f"- {name}: {value}" for name, value in facet_values.items())
            or "- none besides the short caption",
            knowledge="\n".join(f"- {text}" for text in known) or "- none",
            marks=prompts.sections["marks" if boxes else "no marks"],
        )
        view_prompt = prompts.render(
            "preference", modality=modality, checklist=prompts.sections[f"checklist: {checklist}"]
        )
        description, view_caption = yield [
            teacher_prompts.build_request(sample, trusted_prompt, response_format, images=[boxed]),
            teacher_prompts.build_request(sample, view_prompt, TEXT_FORMAT, images=[image]),
        ]
        merge_prompt = prompts.render(
            "merge",
            modality=modality,
            trusted=description.caption,
            seen=view_caption,
            order=prompts.sections[f"order: {order}"],
        )
        (final,) = yield [teacher_prompts.build_request(sample, merge_prompt, TEXT_FORMAT)]
        n_words, mention = len(final.split()), _MARK_MENTION.search(final)
        if n_words < min_words:
            return Drop(sample.id, "too_short", f"{n_words} words")
        if mention:
            return Drop(sample.id, "mentions_marks", mention[0])
        return _build_sample(sample, final, description.caption, seed)

    return TeacherStep(KIND, dialogue, prompts.tag)


def _build_sample(sample: Sample, final: str, trusted_caption: str, seed: int) -> Sample:
    is_changed = teacher_prompts.normalize_answer(
        trusted_caption
    ) != teacher_prompts.normalize_answer(final)
    # The mask is left out, and so is its position.
    extra = {name: value for name, value in sample.meta.extra.items() if name != "mask"}
    return teacher_prompts.derive_sample(
        sample,
        KIND,
        extra={teacher_prompts.ALTERNATIVE: trusted_caption} if is_changed else None,
        messages=teacher_prompts.qa_messages(seeded_instruction(KIND, sample, seed), final, 1),
        images=sample.images[:1],
        gold=None,
        choices=(),
        meta=replace(sample.meta, kind="caption", extra=extra),
    )


def _short_caption(sample: Sample, template: str | None) -> str:
    if template is None:
        return answer_text(sample).strip()
    values = {name: sample.meta.facet(name) for name in re.findall(r"\{(\w+)\}", template)}
    # A caption with a gap would be taken for a fact.
    if None in values.values():
        return ""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]] or "", template)


def _read_boxes(sample: Sample, pixels: Pixels) -> list[BoundingBox] | None:
    """The regions of a sample, empty where it has none; None where they are invalid."""
    mask, boxes_json = sample.meta.extra.get("mask"), sample.meta.extra.get("boxes")
    if mask is not None:
        if not mask.isdecimal() or int(mask) >= len(sample.images):
            return None
        return mask_to_boxes(pixels.gray(sample.images[int(mask)]))
    if boxes_json is None:
        return []
    try:
        boxes = [BoundingBox(*(int(value) for value in row)) for row in json.loads(boxes_json)]
    except (ValueError, TypeError):
        return None
    header = pixels.header(sample.images[0])
    inside = all(
        0 <= box.left <= box.right < header.width and 0 <= box.top <= box.bottom < header.height
        for box in boxes
    )
    return boxes if inside else None


def _checklist_and_order(modality: str) -> tuple[str, str]:
    name = f"{modality.casefold()} "
    for words, checklist, order in _MODALITIES:
        # Two letters, as in "ct", occur inside other words.
        patterns = (word if len(word) > 2 else rf"\b{word}\b" for word in words)
        if any(re.search(pattern, name) for pattern in patterns):
            return checklist, order
    return "general", "plain"
