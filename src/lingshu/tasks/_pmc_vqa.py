"""PMC-VQA in its two test splits: choices about figures of PubMed Central articles.

Licence: CC BY-SA (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/RadGenome/PMC-VQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import RowError
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import letter_for_text

LICENSE = "CC-BY-SA"


def make_repo(table: str, archive: str) -> HubRepo:
    return HubRepo("RadGenome/PMC-VQA", (table,), archives=(archive,))


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns Figure_path, Question, Choice A ...

    Choice D and Answer (a letter), whose heads stand with blanks in some files.
    """
    columns = {str(key).strip(): value for key, value in raw.items() if key is not None}
    choices = [columns[f"Choice {name}"] for name in "ABCD"]
    # A last line that was cut short has no value in its last columns.
    if None in choices:
        raise RowError("bad_choices", "an option is missing.")
    if columns["Answer"] is None or not str(columns["Answer"]).strip():
        raise RowError("empty_answer", "the row has no answer.")
    return {
        "question": columns["Question"].strip(),
        "choices": [
            str(choice).strip().removeprefix(f"{name}:").strip()
            for name, choice in zip("ABCD", choices, strict=True)
        ],
        "gold": str(columns["Answer"]).strip(),
        "images": [columns["Figure_path"]],
        "group": columns["Figure_path"],
    }


def convert_text_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of `row` where Answer is the text of an option, and `Answer_label` its letter
    where it is given (not verified).
    """
    fields = convert_row(raw)
    label = next((value for key, value in raw.items() if str(key).strip() == "Answer_label"), None)
    return {
        **fields,
        "gold": str(label).strip() if label else letter_for_text(fields["gold"], fields["choices"]),
    }
