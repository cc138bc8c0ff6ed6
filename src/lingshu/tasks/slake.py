"""SLAKE: questions about radiology images in English and Chinese, with organ, modality and kind.

License: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lingshu.core.rows import RowError
from lingshu.core.types import Task
from lingshu.scoring import yes_no
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import concatenate, image_samples

VARIANTS = {
    "slake": "SLAKE, English and Chinese: questions about radiology images with organ, modality and"
    " kind; 836 closed and 1,258 open questions.",
    "slake_en": "SLAKE, English: questions about radiology images with organ, modality and kind; the"
    " English half (1,061, a number that is not verified).",
    "slake_zh": "SLAKE, Chinese: questions about radiology images with organ, modality and kind; the"
    " Chinese half (1,033 = 2,094 - 1,061, not verified).",
}


def convert_row(
    raw: Mapping[str, Any], languages: tuple[str, ...] = ("en", "zh")
) -> Mapping[str, Any]:
    """The keys qid, img_name, question, answer, q_lang, location, modality, answer_type,
    content_type of test.json; rows in another language are dropped as other_language.
    """
    if raw["q_lang"] not in languages:
        raise RowError("other_language", f"the row is in {raw['q_lang']!r}.")
    if raw["answer"] is None:
        raise RowError("empty_answer", "the row has no answer.")
    gold = str(raw["answer"])
    # A closed question may also be answered by one of two things it names ("Left" or "Right").
    closed_kind = "yes_no" if yes_no.as_polarity(gold) else "closed"
    return {
        "id": f"slake-{raw['qid']}",
        "question": raw["question"],
        "gold": gold,
        "images": [raw["img_name"]],
        "group": str(raw["img_name"]).split("/")[0],
        "language": raw["q_lang"],
        "kind": "open" if raw["answer_type"] == "OPEN" else closed_kind,
        "modality": raw["modality"],
        "organ": raw["location"],
        "task": raw["content_type"],
    }


def _variant(
    name: str, title: str, *languages: str, expected_n: int, unverified: tuple[str, ...] = ()
) -> Task:
    return benchmark(
        name,
        title=title,
        repo=HubRepo("BoKelvin/SLAKE", ("test.json",), archives=("imgs.zip",)),
        license="CC-BY-4.0",
        convert_row=partial(convert_row, languages=languages),
        synthetic=concatenate(
            *(image_samples("yes_no", "closed", "open", language=code) for code in languages)
        ),
        language=languages[0] if len(languages) == 1 else None,
        expected_n=expected_n,
        unverified=unverified,
        facets=("kind", "language", "modality", "organ", "task"),
        published=("multimodal", "SLAKE") if name == "slake" else None,
    )


TASKS = {
    "slake": _variant("slake", "SLAKE, English and Chinese", "en", "zh", expected_n=2094),
    "slake_en": _variant(
        "slake_en", "SLAKE, English", "en", expected_n=1061, unverified=("expected_n",)
    ),
    "slake_zh": _variant(
        "slake_zh", "SLAKE, Chinese", "zh", expected_n=1033, unverified=("expected_n",)
    ),
}
