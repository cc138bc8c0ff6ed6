"""OmniMedVQA, its open-access part: 88,996 choices about 82,059 images of twelve modalities.

License: open ones, mixed by source. Revision: resolved at download. Link:
https://huggingface.co/datasets/foreverbeliever/OmniMedVQA
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, image_samples, letter_for_text, pick


def convert_row(raw: Row) -> Row:
    """Options in option_A ... option_D; gt_answer is the text of one, the first of equal ones."""
    choices = [raw[f"option_{name}"] for name in "ABCD" if raw.get(f"option_{name}") is not None]
    return {
        **pick(raw, ("dataset",), id="question_id", question="question", task="question_type"),
        "choices": choices,
        "gold": letter_for_text(raw["gt_answer"], choices),
        "images": [raw["image_path"]],
        "group": raw["image_path"],
        "modality": raw.get("modality_type") or raw.get("modality"),
    }


TASK = benchmark(
    "omnimedvqa", title="OmniMedVQA (open access)", license="mixed open licenses",
    repo=HubRepo(
        "foreverbeliever/OmniMedVQA",
        ("QA_information/Open-access/*.json", "OmniMedVQA/QA_information/Open-access/*.json"),
        archives=("OmniMedVQA.zip",),
    ),
    convert_row=convert_row, synthetic=image_samples("choice"), expected_n=88996,
    facets=("modality", "task"), published=("multimodal", "OmniMedVQA"),
)  # fmt: skip
