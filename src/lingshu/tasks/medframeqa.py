"""MedFrameQA: choices that compare two to five frames of medical videos, 2,851 by some accounts
(not verified).

License: CC BY 4.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/SuhaoYu1020/MedFrameQA
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, image_samples, pick


def convert_row(raw: Row) -> Row:
    """The options are texts without letters; the frames are in image_1 ... image_5. video_id is the
    group where it is given (not verified for this repository).
    """
    return {
        **pick(raw, ("modality", "organ", "system"), id="question_id", question="question"),
        **pick(raw, choices="options", gold="correct_answer"),
        "group": raw.get("video_id") or raw["question_id"],
    }


TASK = benchmark(
    "medframeqa", title="MedFrameQA", license="CC-BY-4.0", unverified=("expected_n", "license"),
    repo=HubRepo("SuhaoYu1020/MedFrameQA", ("data/test-*.parquet",)), convert_row=convert_row,
    synthetic=image_samples("choice", n_images=4, organ="made up", system="made up"),
    expected_n=2851, facets=("modality", "organ", "system"),
)  # fmt: skip
