"""VQA-RAD: clinicians' questions about radiology images; 251 closed and 200 open ones in the test
split.

License: CC0 1.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/flaviagiammarino/vqa-rad

The split shares nearly all its images with train. Also reads the publisher's own `VQA_RAD Dataset
Public.json` with its image folder.
"""

from lingshu.core.rows import RowError
from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, image_samples, pick


def convert_row(raw: Row) -> Row:
    """The columns of the hub, or with `image_name` the keys of the publisher's json."""
    fields = pick(raw, question="question", gold="answer")
    if "image_name" not in raw:
        return {**fields, "same_image": True}
    if not str(raw["phrase_type"]).startswith("test"):
        raise RowError("not_test: the row belongs to the train split.")
    fields |= pick(raw, organ="image_organ", task="question_type", group="image_name")
    return {**fields, "id": f"vqa_rad-{raw['qid']}", "images": [raw["image_name"]]}


TASK = benchmark(
    "vqa_rad", title="VQA-RAD", license="CC0-1.0", unverified=("license",),
    repo=HubRepo(
        "flaviagiammarino/vqa-rad", ("data/test-*.parquet", "VQA_RAD*.json"), single_table=True
    ),
    convert_row=convert_row, synthetic=image_samples("yes_no", "closed", "open"), expected_n=451,
    facets=("kind", "organ", "task"), published=("multimodal", "VQA-RAD"),
)  # fmt: skip
