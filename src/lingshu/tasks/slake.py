"""SLAKE: questions about radiology images in English and Chinese, with organ, modality and kind.

License: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from functools import partial

from lingshu.core.rows import RowError
from lingshu.core.types import Task
from lingshu.scoring import yes_no
from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, concatenate, image_samples, pick

VARIANTS = {
    "slake": "SLAKE, English and Chinese: questions about radiology images with organ, modality and"
    " kind; 836 closed and 1,258 open questions.",
    "slake_en": "SLAKE, English: questions about radiology images with organ, modality and kind; the"
    " English half (1,061, a number that is not verified).",
    "slake_zh": "SLAKE, Chinese: questions about radiology images with organ, modality and kind; the"
    " Chinese half (1,033 = 2,094 - 1,061, not verified).",
}


def convert_row(raw: Row, languages: tuple[str, ...] = ("en", "zh")) -> Row:
    """A row of test.json; rows in another language are dropped as other_language."""
    if raw["q_lang"] not in languages:
        raise RowError(f"other_language: the row is in {raw['q_lang']!r}.")
    if raw["answer"] is None:
        raise RowError("empty_answer: the row has no answer.")
    gold = str(raw["answer"])
    # A closed question may also be answered by one of two things it names ("Left" or "Right").
    closed_kind = "yes_no" if yes_no.as_polarity(gold) else "closed"
    return {
        "id": f"slake-{raw['qid']}",
        **pick(raw, question="question", language="q_lang", modality="modality"),
        **pick(raw, organ="location", task="content_type"),
        "gold": gold,
        "images": [raw["img_name"]],
        "group": str(raw["img_name"]).split("/")[0],
        "kind": "open" if raw["answer_type"] == "OPEN" else closed_kind,
    }


def _variant(
    name: str,
    title: str,
    expected_n: int,
    *languages: str,
    published: tuple[str, str] | None = None,
) -> Task:
    kinds = ("yes_no", "closed", "open")
    return benchmark(
        name, title=title, license="CC-BY-4.0",
        repo=HubRepo("BoKelvin/SLAKE", ("test.json",), archives=("imgs.zip",)),
        convert_row=partial(convert_row, languages=languages),
        synthetic=concatenate(*(image_samples(*kinds, language=code) for code in languages)),
        language=languages[0] if len(languages) == 1 else None, expected_n=expected_n,
        unverified=("expected_n",) if len(languages) == 1 else (),
        facets=("kind", "language", "modality", "organ", "task"), published=published,
    )  # fmt: skip


_PUBLISHED = ("multimodal", "SLAKE")
TASKS = {
    "slake": _variant(
        "slake", "SLAKE, English and Chinese", 2094, "en", "zh", published=_PUBLISHED
    ),
    "slake_en": _variant("slake_en", "SLAKE, English", 1061, "en"),
    "slake_zh": _variant("slake_zh", "SLAKE, Chinese", 1033, "zh"),
}
