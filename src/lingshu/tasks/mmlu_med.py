"""MMLU, nine medical subjects of its test split: 1,871 choices of four.

License: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/cais/mmlu
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, letter_at, pick, text_choice_samples

SUBJECTS = (
    "anatomy", "clinical_knowledge", "college_biology", "college_medicine", "high_school_biology",
    "medical_genetics", "nutrition", "professional_medicine", "virology",
)  # fmt: skip


def convert_row(raw: Row) -> Row:
    """The answer is a position from 0."""
    return {
        **pick(raw, question="question", choices="choices"),
        "gold": letter_at(raw["answer"], len(raw["choices"])),
        "subject": raw.get("subject") or str(raw["_file"]).split("/")[0],
    }


TASK = benchmark(
    "mmlu_med", title="MMLU medical (nine subjects)", license="MIT", unverified=("license",),
    repo=HubRepo("cais/mmlu", tuple(f"{subject}/test-*.parquet" for subject in SUBJECTS)),
    convert_row=convert_row, synthetic=text_choice_samples(4, subject="made up"), expected_n=1871,
    known_counts=((1897, "the paper's count, of a split of its own"),
                  (1089, "the variant of six subjects")),
    facets=("subject",), published=("textual", "MMLU-Med"),
)  # fmt: skip
