"""MedFrameQA: choices that compare two to five frames of medical videos, 2,851 by some accounts
(not verified).

License: CC BY 4.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/SuhaoYu1020/MedFrameQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import image_samples


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns question_id, question, options (texts without letters), correct_answer, system,
    organ, modality, video_id.

    The frames stand in image_1 ... image_5. video_id is the group where it is given (not verified
    for this repository).
    """
    return {
        "id": raw["question_id"],
        "question": raw["question"],
        "choices": raw["options"],
        "gold": raw["correct_answer"],
        "group": raw.get("video_id") or raw["question_id"],
        "modality": raw.get("modality"),
        "organ": raw.get("organ"),
        "system": raw.get("system"),
    }


TASK = benchmark(
    "medframeqa",
    title="MedFrameQA",
    repo=HubRepo("SuhaoYu1020/MedFrameQA", ("data/test-*.parquet",)),
    license="CC-BY-4.0",
    unverified=("expected_n", "license"),
    convert_row=convert_row,
    synthetic=image_samples("choice", n_images=4, n_options=4, organ="made up", system="made up"),
    expected_n=2851,
    facets=("modality", "organ", "system"),
)
