"""CMMLU, seven medical subjects of its test split: Chinese choices of four.

License: CC BY-NC 4.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/haonan-li/cmmlu

The repository is a script with an archive of tables; the tables are read here without the script.
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, pick, text_choice_samples

SUBJECTS = (
    "anatomy", "clinical_knowledge", "college_medicine", "genetics", "nutrition",
    "traditional_chinese_medicine", "virology",
)  # fmt: skip


def convert_row(raw: Row) -> Row:
    """A row of test/<subject>.csv."""
    return {
        **pick(raw, question="Question", gold="Answer"),
        "choices": [raw[name] for name in "ABCD"],
        "subject": str(raw["_file"]).rsplit("/", 1)[-1].removesuffix(".csv"),
    }


TASK = benchmark(
    "cmmlu_med", title="CMMLU medical (seven subjects)", license="CC-BY-NC-4.0",
    repo=HubRepo(
        "haonan-li/cmmlu", tuple(f"test/{name}.csv" for name in SUBJECTS), ("cmmlu*.zip",)
    ),
    unverified=("license",), convert_row=convert_row, language="zh", facets=("subject",),
    synthetic=text_choice_samples(4, language="zh", subject="made up"),
)  # fmt: skip
