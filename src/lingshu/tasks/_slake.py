"""SLAKE in its three readings: English, Chinese, and both.

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lingshu.core.rows import RowError
from lingshu.scoring import yes_no
from lingshu.sources.hub import HubRepo

LICENSE = "CC-BY-4.0"
REPO = HubRepo("BoKelvin/SLAKE", ("test.json",), archives=("imgs.zip",))
FACETS = ("kind", "language", "modality", "organ", "task")


def make_converter(*languages: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Rows of these languages; those of another are dropped as other_language."""
    return partial(convert_row, languages)


def convert_row(languages: tuple[str, ...], raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys qid, img_name, question, answer, q_lang, location, modality, answer_type,
    content_type of test.json.
    """
    if raw["q_lang"] not in languages:
        raise RowError("other_language", f"the row is in {raw['q_lang']!r}.")
    if raw["answer"] is None:
        raise RowError("empty_answer", "the row has no answer.")
    gold = str(raw["answer"])
    # A closed question may also be answered by one of two things it names ("Left" or "Right").
    kind = (
        "open"
        if raw["answer_type"] == "OPEN"
        else "yes_no"
        if yes_no.as_polarity(gold)
        else "closed"
    )
    return {
        "id": f"slake-{raw['qid']}",
        "question": raw["question"],
        "gold": gold,
        "images": [raw["img_name"]],
        "group": str(raw["img_name"]).split("/")[0],
        "language": raw["q_lang"],
        "kind": kind,
        "modality": raw["modality"],
        "organ": raw["location"],
        "task": raw["content_type"],
    }
