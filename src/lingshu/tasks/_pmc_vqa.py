"""PMC-VQA in its two test splits: choices about figures of PubMed Central articles.

Licence: CC BY-SA (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/RadGenome/PMC-VQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import BadRow
from lingshu.sources.hub import Repo
from lingshu.tasks._shared import letter_of

LICENCE = "CC-BY-SA"


def repo(table: str, archive: str) -> Repo:
    return Repo("RadGenome/PMC-VQA", (table,), archives=(archive,))


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns Figure_path, Question, Choice A ...

    Choice D and Answer (a letter), whose heads stand with blanks in some files.
    """
    told = {str(key).strip(): value for key, value in raw.items() if key is not None}
    choices = [told[f"Choice {name}"] for name in "ABCD"]
    # A last line that was cut short has no value in its last columns.
    if None in choices:
        raise BadRow("bad_choices", "an option is missing.")
    if told["Answer"] is None or not str(told["Answer"]).strip():
        raise BadRow("empty_answer", "the row has no answer.")
    return {
        "question": told["Question"].strip(),
        "choices": [
            str(choice).strip().removeprefix(f"{name}:").strip()
            for name, choice in zip("ABCD", choices, strict=True)
        ],
        "gold": str(told["Answer"]).strip(),
        "images": [told["Figure_path"]],
        "group": told["Figure_path"],
    }


def row_with_text(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of `row` where Answer is the text of an option, and `Answer_label` its letter
    where it is given (not verified).
    """
    found = row(raw)
    label = next((value for key, value in raw.items() if str(key).strip() == "Answer_label"), None)
    return {
        **found,
        "gold": str(label).strip() if label else letter_of(found["gold"], found["choices"]),
    }
