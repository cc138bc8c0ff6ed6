"""OmniMedVQA, its open-access part: 88,996 choices about 82,059 images of twelve modalities.

Licence: open ones, mixed by source. Revision: resolved at download. Link:
https://huggingface.co/datasets/foreverbeliever/OmniMedVQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import Repo
from lingshu.tasks._shared import benchmark, letter_of
from lingshu.tasks._twins import pictures


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys question_id, question_type, question, gt_answer, image_path, option_A ... option_D,
    modality_type, dataset.

    gt_answer is the text of an option; of two equal options the first is meant.
    """
    choices = [raw[f"option_{name}"] for name in "ABCD" if raw.get(f"option_{name}") is not None]
    return {
        "id": raw["question_id"],
        "question": raw["question"],
        "choices": choices,
        "gold": letter_of(raw["gt_answer"], choices),
        "images": [raw["image_path"]],
        "group": raw["image_path"],
        "modality": raw.get("modality_type") or raw.get("modality"),
        "task": raw["question_type"],
        "dataset": raw.get("dataset"),
    }


TASK = benchmark(
    "omnimedvqa",
    title="OmniMedVQA (open access)",
    repo=Repo(
        "foreverbeliever/OmniMedVQA",
        ("QA_information/Open-access/*.json", "OmniMedVQA/QA_information/Open-access/*.json"),
        archives=("OmniMedVQA.zip",),
    ),
    licence="mixed open licences",
    row=row,
    twin=pictures("choice"),
    n=88996,
    by=("modality", "task"),
    published=("multimodal", "OmniMedVQA"),
)
