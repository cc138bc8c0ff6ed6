"""PMC-VQA in its two test splits: choices about figures of PubMed Central articles.

Licence: CC BY-SA (unverified). Revision: resolved at download. Link: https://huggingface.co/datasets/RadGenome/PMC-VQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import BadRow
from lingshu.sources.hub import Repo

LICENCE = "CC-BY-SA"


def repo(table: str, archive: str) -> Repo:
    return Repo("RadGenome/PMC-VQA", (table,), archives=(archive,))


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns Figure_path, Question, Choice A ... Choice D and Answer, whose heads stand with blanks in some files.

    Answer is a letter in test_2.csv; in test_clean.csv it is the text, with `Answer_label` the letter (not verified).
    """
    told = {str(key).strip(): value for key, value in raw.items() if key is not None}
    choices = [str(told[f"Choice {name}"]) for name in "ABCD"]
    gold = str(told.get("Answer_label") or told["Answer"]).strip()
    if not gold:
        raise BadRow("empty_answer", "the row has no answer.")
    return {
        "question": told["Question"].strip(),
        "choices": [choice.strip().removeprefix(f"{name}:").strip() for name, choice in zip("ABCD", choices, strict=True)],
        "gold": gold,
        "images": [told["Figure_path"]],
        "group": told["Figure_path"],
    }
