"""PMC-VQA in its two test splits: choices about figures of PubMed Central articles.

License: CC BY-SA (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/RadGenome/PMC-VQA

Always answering C is right in 37.8% of test_2 (a third party's count: A 13.2, B 35.8, C 37.8, D
13.1%).
"""

from lingshu.core.rows import RowError
from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, image_samples, letter_for_text

VARIANTS = {
    "pmc_vqa": "PMC-VQA, version 2 (test_2.csv): 33,430 choices about non-compound figures of"
    " articles.",
    "pmc_vqa_clean": "PMC-VQA, the split checked by people (test_clean.csv): 2,000 choices about"
    " figures of articles.",
}


def convert_row(raw: Row) -> Row:
    """The columns of the tables; in some files their names have spaces around them."""
    columns = {str(key).strip(): value for key, value in raw.items() if key is not None}
    choices = [columns[f"Choice {letter}"] for letter in "ABCD"]
    # A last line that was cut short has no value in its last columns.
    if None in choices:
        raise RowError("bad_choices: an option is missing.")
    if columns["Answer"] is None or not str(columns["Answer"]).strip():
        raise RowError("empty_answer: the row has no answer.")
    return {
        "question": columns["Question"].strip(),
        "choices": [
            str(choice).strip().removeprefix(f"{letter}:").strip()
            for letter, choice in zip("ABCD", choices, strict=True)
        ],
        "gold": str(columns["Answer"]).strip(),
        "images": [columns["Figure_path"]],
        "group": columns["Figure_path"],
    }


def convert_clean_row(raw: Row) -> Row:
    """As `convert_row`, but Answer is a text and `Answer_label`, if present, its letter."""
    fields = convert_row(raw)
    label = next((value for key, value in raw.items() if str(key).strip() == "Answer_label"), None)
    gold = str(label).strip() if label else letter_for_text(fields["gold"], fields["choices"])
    return {**fields, "gold": gold}


TASKS = {
    "pmc_vqa": benchmark(
        "pmc_vqa", title="PMC-VQA (test_2)", license="CC-BY-SA", unverified=("license",),
        repo=HubRepo("RadGenome/PMC-VQA", ("test_2.csv",), archives=("images_2.zip",)),
        convert_row=convert_row, synthetic=image_samples("choice"), expected_n=33430,
        known_counts=((2000, "the number of test_clean, the task pmc_vqa_clean"),),
        published=("multimodal", "PMC-VQA"),
    ),
    "pmc_vqa_clean": benchmark(
        "pmc_vqa_clean", title="PMC-VQA (test_clean)", license="CC-BY-SA",
        unverified=("license", "columns"),
        repo=HubRepo("RadGenome/PMC-VQA", ("test_clean.csv",), archives=("images.zip",)),
        convert_row=convert_clean_row, synthetic=image_samples("choice"), expected_n=2000,
        known_counts=((33430, "the number of test_2, the task pmc_vqa"),),
    ),
}  # fmt: skip
