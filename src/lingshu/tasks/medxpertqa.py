"""MedXpertQA: exam questions at expert level, with images (MM) and without (Text).

License: MIT. Revision: resolved at download. Link:
https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA
"""

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, image_samples, pick, text_choice_samples

VARIANTS = {
    "medxpertqa_mm": "MedXpertQA MM: 2,000 exam choices of five options, each with one to six images.",
    "medxpertqa_text": "MedXpertQA Text: 2,450 exam choices of ten options.",
}
FACETS = ("task", "system", "question_type")
_SYNTHETIC_FACETS: Any = {"task": "made up", "system": "made up", "question_type": "Reasoning"}


def convert_row(raw: Row) -> Row:
    """`options` is {letter: text} or a list of {letter, content}; the question repeats them behind
    "Answer Choices:". `images` may be missing.
    """
    options, label = raw["options"], raw["label"]
    if not isinstance(options, Mapping):
        options = {option["letter"]: option["content"] for option in options}
    images = raw.get("images") or ()
    return {
        "question": raw["question"].split("\nAnswer Choices:")[0].strip(),
        **pick(raw, id="id", group="id", task="medical_task", system="body_system"),
        "question_type": raw["question_type"],
        "choices": options,
        "gold": label if isinstance(label, str) else label[0],
        "images": [
            image["image_path"] if isinstance(image, Mapping) else image for image in images
        ],
    }


TASKS = {
    "medxpertqa_mm": benchmark(
        "medxpertqa_mm", title="MedXpertQA MM", license="MIT",
        repo=HubRepo("TsinghuaC3I/MedXpertQA", ("MM/test.jsonl",), archives=("images.zip",)),
        convert_row=convert_row, expected_n=2000, facets=FACETS,
        synthetic=image_samples("choice", n_images=3, n_options=5, **_SYNTHETIC_FACETS),
        published=("multimodal", "MedXpertQA-MM"),
    ),
    "medxpertqa_text": benchmark(
        "medxpertqa_text", title="MedXpertQA Text", license="MIT",
        repo=HubRepo("TsinghuaC3I/MedXpertQA", ("Text/test.jsonl",)),
        convert_row=convert_row, expected_n=2450, facets=FACETS,
        known_counts=((2500, "a count that the paper uses in its totals only"),),
        synthetic=text_choice_samples(10, **_SYNTHETIC_FACETS),
        published=("textual", "MedXpertQA-Text"),
    ),
}  # fmt: skip
