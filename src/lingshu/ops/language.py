"""Language of a sample: English, Chinese or another, detected by script and function words; uncertain
ones are not guessed.

Chinese is distinguished from Japanese by the absence of kana, English from other Latin-script
languages by function words. A text too short for evidence, or with as much for one as for another,
keeps the language that its source stated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from lingshu.core.files import read_json
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.ops._sample_fields import answer_text, check_choice, message_texts

_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
# Every letter that is neither Latin nor Han: Cyrillic, Greek beyond single symbols, Arabic, Hangul,
# Thai, Devanagari, ...
_OTHER_SCRIPT = re.compile(
    r"[\u0400-\u1dff\u2de0-\u2dff\ua000-\ud7ff\u3040-\u30ff\uff66-\uffdc]|[\u0370-\u03ff]{3,}"
)
_WORD = re.compile(r"[a-zA-Z\u00c0-\u024f\u1e00-\u1eff]+")


@cache
def _function_words() -> dict[str, frozenset[str]]:
    word_lists = read_json(Path(__file__).with_name("_function_words.json"))
    return {language: frozenset(words.split()) for language, words in word_lists.items()}


def step(*, keep: Sequence[str] = (), on_uncertain: str = "keep", field: str = "all") -> MapStep:
    """Write `en`, `zh` or `other` to `meta.language`, and optionally drop other languages.

    Args:
        keep: languages to keep, such as ["en", "zh"]; empty keeps all and only tags.
        on_uncertain: `keep` or `drop` samples whose language is neither detected nor stated.
        field: `all` examines the whole dialogue, `answer` what is trained on.

    Drops: language_NAME, language_unsure.
    """
    check_choice("language", "on_uncertain", on_uncertain, ("keep", "drop"))
    check_choice("language", "field", field, ("all", "answer"))

    def tag(sample: Sample, _: Pixels) -> Sample | Drop:
        is_answer, stated = field == "answer", sample.meta.language
        texts = [answer_text(sample)] if is_answer else [*message_texts(sample), *sample.choices]
        detected = detect_language("\n".join(texts))
        name = detected or stated
        if name is None:
            return sample if on_uncertain == "keep" else Drop(sample.id, "language_unsure")
        if keep and name not in keep:
            return Drop(sample.id, f"language_{name}")
        if name == stated:
            return sample
        tagged = replace(sample, meta=replace(sample.meta, language=name))
        return with_extra(tagged, {"stated_language": stated} if stated is not None else {})

    return MapStep(lambda: tag)


def detect_language(text: str) -> str | None:
    """`en`, `zh`, `other`, or None where the text does not tell."""
    n_han, n_kana = len(_HAN.findall(text)), len(_KANA.findall(text))
    n_other = sum(map(len, _OTHER_SCRIPT.findall(text)))
    words = [word.casefold() for word in _WORD.findall(text)]
    # Two Han characters, or five letters of another script, carry about as much as one word.
    weights = {"zh": n_han / 2, "other": n_other / 5, "latin": float(len(words))}
    dominant = max(weights, key=lambda name: weights[name])
    if weights[dominant] < 1 or weights[dominant] < 0.5 * sum(weights.values()):
        return None
    if dominant == "latin":
        return _classify_latin(words)
    return "zh" if dominant == "zh" and n_kana <= 0.1 * n_han else "other"


def _classify_latin(words: list[str]) -> str | None:
    hits = {
        language: sum(word in function_words for word in words)
        for language, function_words in _function_words().items()
    }
    n_words, english = len(words), hits.pop("en")
    foreign = max(hits.values())
    # Letters that English does not use; names (Sjögren, Ménière) are far rarer than one in ten.
    n_non_ascii = sum(not word.isascii() for word in words)
    min_english = max(0.12 * n_words, 2 if n_words > 6 else 1)
    if english > 1.3 * foreign and english >= min_english and n_non_ascii <= 0.1 * n_words:
        return "en"
    is_marked = foreign >= 0.15 * n_words or n_non_ascii >= 0.1 * n_words
    if foreign > 1.3 * english and foreign >= 2 and is_marked:
        return "other"
    is_unlike = n_non_ascii >= 0.2 * n_words and english < 0.12 * n_words
    return "other" if is_unlike and n_words >= 4 else None
