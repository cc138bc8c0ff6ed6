"""PathVQA: questions about pathology figures from textbooks; 3,362 yes/no and 3,357 open ones in
the test split.

License: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/flaviagiammarino/path-vqa

Also reads a test.jsonl whose rows name their figure in `image_id`, with an image folder.
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, image_samples, pick


def convert_row(raw: Row) -> Row:
    """The columns of the hub, or with `image_id` rows that name their figure."""
    fields = pick(raw, question="question", gold="answer")
    if "image_id" not in raw:
        return {**fields, "same_image": True}
    return {**fields, "images": [f"{raw['image_id']}.jpg"], "group": raw["image_id"]}


TASK = benchmark(
    "path_vqa", title="PathVQA", license="MIT", unverified=("license",),
    repo=HubRepo("flaviagiammarino/path-vqa", ("data/test-*.parquet", "test.jsonl"), single_table=True),
    convert_row=convert_row, synthetic=image_samples("yes_no", "open"),
    expected_n=6719, facets=("kind",), published=("multimodal", "PathVQA"),
)  # fmt: skip
