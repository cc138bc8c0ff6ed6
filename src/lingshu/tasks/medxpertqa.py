"""MedXpertQA: exam questions at expert level, with images (MM) and without (Text).

License: MIT. Revision: resolved at download. Link:
https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import image_samples, text_choice_samples

VARIANTS = {
    "medxpertqa_mm": "MedXpertQA MM: 2,000 exam choices of five options, each with one to six images.",
    "medxpertqa_text": "MedXpertQA Text: 2,450 exam choices of ten options.",
}
FACETS = ("task", "system", "question_type")
_SYNTHETIC_FACETS: Any = {"task": "made up", "system": "made up", "question_type": "Reasoning"}


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys id, question, options, label, images, medical_task, body_system, question_type.

    `options` is {letter: text} or a list of {letter, content}; the question repeats them behind
    "Answer Choices:".
    """
    options, label = raw["options"], raw["label"]
    if not isinstance(options, Mapping):
        options = {option["letter"]: option["content"] for option in options}
    return {
        "id": raw["id"],
        "question": raw["question"].split("\nAnswer Choices:")[0].strip(),
        "choices": options,
        "gold": label if isinstance(label, str) else label[0],
        "images": [
            image["image_path"] if isinstance(image, Mapping) else image
            for image in raw.get("images") or ()
        ],
        "group": raw["id"],
        "task": raw["medical_task"],
        "system": raw["body_system"],
        "question_type": raw["question_type"],
    }


TASKS = {
    "medxpertqa_mm": benchmark(
        "medxpertqa_mm",
        title="MedXpertQA MM",
        repo=HubRepo("TsinghuaC3I/MedXpertQA", ("MM/test.jsonl",), archives=("images.zip",)),
        license="MIT",
        convert_row=convert_row,
        synthetic=image_samples("choice", n_images=3, n_options=5, **_SYNTHETIC_FACETS),
        expected_n=2000,
        facets=FACETS,
        published=("multimodal", "MedXpertQA-MM"),
    ),
    "medxpertqa_text": benchmark(
        "medxpertqa_text",
        title="MedXpertQA Text",
        repo=HubRepo("TsinghuaC3I/MedXpertQA", ("Text/test.jsonl",)),
        license="MIT",
        convert_row=convert_row,
        synthetic=text_choice_samples(10, **_SYNTHETIC_FACETS),
        expected_n=2450,
        known_counts=((2500, "a count that the paper uses in its totals only"),),
        facets=FACETS,
        published=("textual", "MedXpertQA-Text"),
    ),
}
