"""MedMCQA, validation split: 4,183 choices of four from Indian entrance exams; the labels of its
test split are hidden.

License: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openlifescienceai/medmcqa
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, letter_at, pick, text_choice_samples


def convert_row(raw: Row) -> Row:
    """The options are in opa ... opd; cop is a position from 0, -1 where hidden."""
    return {
        **pick(raw, id="id", question="question"),
        "choices": [raw[f"op{name}"] for name in "abcd"],
        "gold": letter_at(raw["cop"], 4),
        "subject": raw.get("subject_name"),
    }


TASK = benchmark(
    "medmcqa", title="MedMCQA (validation)", license="Apache-2.0", unverified=("license",),
    repo=HubRepo("openlifescienceai/medmcqa", ("data/validation-*.parquet",)),
    convert_row=convert_row, synthetic=text_choice_samples(4, subject="made up"),
    expected_n=4183, facets=("subject",), published=("textual", "MedMCQA"),
)  # fmt: skip
