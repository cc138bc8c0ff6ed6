"""VQA-RAD: clinicians' questions about radiology images; 251 closed and 200 open ones in the test
split.

License: CC0 1.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/flaviagiammarino/vqa-rad The split shares nearly all its images with
train. `original` also reads the publisher's own json with its image folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import RowError
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import image_samples


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns image, question, answer of the hub, or the keys of the publisher's json (`VQA_RAD
    Dataset Public.json`).
    """
    if "image_name" not in raw:
        return {"question": raw["question"], "gold": raw["answer"], "same_image": True}
    if not str(raw["phrase_type"]).startswith("test"):
        raise RowError("not_test", "the row belongs to the train split.")
    return {
        "id": f"vqa_rad-{raw['qid']}",
        "question": raw["question"],
        "gold": raw["answer"],
        "images": [raw["image_name"]],
        "group": raw["image_name"],
        "organ": raw["image_organ"],
        "task": raw["question_type"],
    }


TASK = benchmark(
    "vqa_rad",
    title="VQA-RAD",
    repo=HubRepo(
        "flaviagiammarino/vqa-rad", ("data/test-*.parquet", "VQA_RAD*.json"), single_table=True
    ),
    license="CC0-1.0",
    unverified=("license",),
    convert_row=convert_row,
    synthetic=image_samples("yes_no", "closed", "open"),
    expected_n=451,
    facets=("kind", "organ", "task"),
    published=("multimodal", "VQA-RAD"),
)
