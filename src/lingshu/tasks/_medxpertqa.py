"""MedXpertQA in its two parts, with images and without.

Licence: MIT. Revision: resolved at download. Link:
https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LICENSE = "MIT"
HUB_ID = "TsinghuaC3I/MedXpertQA"
FACETS = ("task", "system", "question_type")


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys id, question, options, label, images, medical_task, body_system, question_type.

    `options` is {letter: text} or a list of {letter, content}; the question repeats them behind
    "Answer Choices:".
    """
    options, label = raw["options"], raw["label"]
    if not isinstance(options, Mapping):
        options = {option["letter"]: option["content"] for option in options}
    images = [
        image["image_path"] if isinstance(image, Mapping) else image
        for image in raw.get("images") or ()
    ]
    return {
        "id": raw["id"],
        "question": raw["question"].split("\nAnswer Choices:")[0].strip(),
        "choices": options,
        "gold": label[0] if isinstance(label, Sequence) and not isinstance(label, str) else label,
        "images": images,
        "group": raw["id"],
        "task": raw["medical_task"],
        "system": raw["body_system"],
        "question_type": raw["question_type"],
    }
