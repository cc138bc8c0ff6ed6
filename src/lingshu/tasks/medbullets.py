"""Medbullets: exam choices for the second and third step of the United States exam.

License: none stated. Revision: resolved at download. Links:
https://huggingface.co/datasets/tuenguyen/Medical-Eval-MedBullets_op4 and
https://huggingface.co/datasets/LangAGI-Lab/medbullets_op5

Which of the two versions a published table prints is not documented.
"""

from lingshu.core.types import Task
from lingshu.sources.hub import HubRepo
from lingshu.tasks import benchmark, convert_exam_row, text_choice_samples

VARIANTS = {
    "medbullets_op4": "Medbullets with four options: 308 exam choices for the second and third step"
    " of the United States exam.",
    "medbullets_op5": "Medbullets with five options: 308 exam choices for the second and third step"
    " of the United States exam.",
}
convert_row = convert_exam_row


def _variant(name: str, n_options: int, number: str, repo: HubRepo) -> Task:
    return benchmark(
        name, title=f"Medbullets ({number} options)", license="none stated", unverified=("files",),
        repo=repo, convert_row=convert_row, synthetic=text_choice_samples(n_options),
        expected_n=308, published=("textual", "Medbullets"),
    )  # fmt: skip


_OP4 = HubRepo("tuenguyen/Medical-Eval-MedBullets_op4", ("data/train-*.parquet",))
_OP5 = HubRepo("LangAGI-Lab/medbullets_op5", ("data/*.parquet",))
TASKS = {
    "medbullets_op4": _variant("medbullets_op4", 4, "four", _OP4),
    "medbullets_op5": _variant("medbullets_op5", 5, "five", _OP5),
}
