"""PathVQA: questions about pathology figures from textbooks; 3,362 yes/no and 3,357 open ones in
the test split.

Licence: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/flaviagiammarino/path-vqa `original` also reads a test.jsonl whose
rows name their figure in `image_id`, with an image folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import Repo
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns image, question, answer of the hub; with `image_id` also rows that name their
    figure.
    """
    found = {"question": raw["question"], "gold": raw["answer"]}
    if "image_id" not in raw:
        return {**found, "same_image": True}
    return {**found, "images": [f"{raw['image_id']}.jpg"], "group": raw["image_id"]}


TASK = benchmark(
    "path_vqa",
    title="PathVQA",
    repo=Repo("flaviagiammarino/path-vqa", ("data/test-*.parquet", "test.jsonl"), one=True),
    licence="MIT",
    unverified=("licence",),
    row=row,
    twin=pictures("yes_no", "open"),
    n=6719,
    by=("kind",),
    published=("multimodal", "PathVQA"),
)
