"""OmniMedVQA, its open-access part: 88,996 choices about 82,059 images of twelve modalities.

License: open ones, mixed by source. Revision: resolved at download. Link:
https://huggingface.co/datasets/foreverbeliever/OmniMedVQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark, letter_for_text
from lingshu.tasks._synthetic import image_samples


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys question_id, question_type, question, gt_answer, image_path, option_A ... option_D,
    modality_type, dataset.

    gt_answer is the text of an option; of two equal options the first is meant.
    """
    choices = [raw[f"option_{name}"] for name in "ABCD" if raw.get(f"option_{name}") is not None]
    return {
        "id": raw["question_id"],
        "question": raw["question"],
        "choices": choices,
        "gold": letter_for_text(raw["gt_answer"], choices),
        "images": [raw["image_path"]],
        "group": raw["image_path"],
        "modality": raw.get("modality_type") or raw.get("modality"),
        "task": raw["question_type"],
        "dataset": raw.get("dataset"),
    }


TASK = benchmark(
    "omnimedvqa",
    title="OmniMedVQA (open access)",
    repo=HubRepo(
        "foreverbeliever/OmniMedVQA",
        ("QA_information/Open-access/*.json", "OmniMedVQA/QA_information/Open-access/*.json"),
        archives=("OmniMedVQA.zip",),
    ),
    license="mixed open licenses",
    convert_row=convert_row,
    synthetic=image_samples("choice"),
    expected_n=88996,
    facets=("modality", "task"),
    published=("multimodal", "OmniMedVQA"),
)
