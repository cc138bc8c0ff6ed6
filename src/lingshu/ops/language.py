"""Language of a sample: English, Chinese or another, told by script and function words; unsure ones
are not guessed.

Chinese is told from Japanese by the absence of kana, English from other Latin-script languages by
function words. A text too short for evidence, or with as much for one as for another, keeps the
language that its source stated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
_WORD_LISTS = {
    "en": "the of and is are was were with in to a an on at for by from this that these there has have had not no or as be it "
    "its which what "
    "where how does do did can could should will would may your you his her their after before during between showing shows shown seen "
    "demonstrating demonstrates revealed reveals left right any who when i my we if but because than other without within "
    "into through under over each only most more such following using used present clear size lungs heart findings impression "
    "image images view "
    "stained staining stain magnification tissue cells blood bone muscle brain chest liver kidney arrow arrows case depicting "
    "air pattern level",
    "de": "der die das und ist sind mit ein eine einer eines im den dem des von zu auf für nicht bei nach zeigt wird werden "
    "auch als aus oder wie sich",
    "fr": "le la les des du de et est sont avec une un dans pour sur par au aux ce cette que qui ne pas plus ou chez montre "
    "il elle nous vous",
    "es": "el la los las de del y es son con una un en para por que se no al su como más o muestra esta este lo entre paciente",
    "it": "il lo la gli le di del della e è sono con una un in per che non si al nel come più o mostra questa questo tra paziente",
    "pt": "o a os as de do da dos e é são com uma um em para por que não se ao na no como mais ou mostra esta este entre paciente",
    "nl": "de het een en is zijn met van in op voor niet bij naar wordt worden ook als uit of dat die te aan er toont",
    "sv": "och är en ett med av i på för inte till från som den det visar har var eller vid kan också",
    "pl": "i w z na do jest są nie się od oraz po przez dla jak to o ze za lub może który u",
    "tr": "ve bir bu ile için olan olarak da de en çok gibi daha ne var veya hasta sonra",
    "vi": "và là của các một được có trong cho không với người những này khi để từ đã tại",
    "id": "yang dan di dengan untuk pada dari ini tidak adalah atau dalam akan pasien oleh sebagai ke juga",
    "ro": "și este sunt cu un o în de la pe pentru nu din care ca mai sau prin",
    "cs": "a je v na se s do z pro ne že jsou nebo při po jako od u který k",
}  # fmt: skip
_FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _WORD_LISTS.items()}


def step(*, keep: Sequence[str] = (), on_uncertain: str = "keep", field: str = "all") -> MapStep:
    """Write `en`, `zh` or `other` to `meta.language`, and drop samples of other languages if asked.

    Args:
        keep: languages that stay, such as ["en", "zh"]; empty keeps all and only tags.
        unsure: `keep` or `drop` samples whose language can neither be told nor was stated.
        of: `all` looks at the whole dialogue, `answer` at what is learnt.

    Drops: language_NAME, language_unsure.
    """
    check_choice("language", "on_uncertain", on_uncertain, ("keep", "drop"))
    check_choice("language", "field", field, ("all", "answer"))

    def tag(sample: Sample, _: Pixels) -> Sample | Drop:
        detected = detect_language(
            answer_text(sample)
            if field == "answer"
            else "\n".join([*message_texts(sample), *sample.choices])
        )
        name = detected or sample.meta.language
        if name is None:
            return sample if on_uncertain == "keep" else Drop(sample.id, "language_unsure")
        if keep and name not in keep:
            return Drop(sample.id, f"language_{name}")
        return (
            sample if detected in (None, sample.meta.language) else _with_language(sample, detected)
        )

    return MapStep(lambda: tag)


def _with_language(sample: Sample, language: str) -> Sample:
    from dataclasses import replace

    extra = {} if sample.meta.language is None else {"stated_language": sample.meta.language}
    return with_extra(replace(sample, meta=replace(sample.meta, language=language)), extra)


def detect_language(text: str) -> str | None:
    """`en`, `zh`, `other`, or None where the text does not tell."""
    n_han, n_kana, n_other = (
        len(_HAN.findall(text)),
        len(_KANA.findall(text)),
        sum(map(len, _OTHER_SCRIPT.findall(text))),
    )
    words = [word.casefold() for word in _WORD.findall(text)]
    # About two Han characters, or five letters of another script, say as much as one word.
    weights = {"zh": n_han / 2, "other": n_other / 5, "latin": float(len(words))}
    dominant = max(weights, key=lambda name: weights[name])
    if weights[dominant] < 1 or weights[dominant] < 0.5 * sum(weights.values()):
        return None
    if dominant == "zh":
        return "other" if n_kana > 0.1 * n_han else "zh"
    if dominant == "other":
        return "other"
    return _classify_latin(words)


def _classify_latin(words: list[str]) -> str | None:
    hits = {
        language: sum(word in function_words for word in words)
        for language, function_words in _FUNCTION_WORDS.items()
    }
    english = hits.pop("en")
    foreign = max(hits.values())
    # Letters that English does not use; names alone (Sjögren, Ménière) are far rarer than one word
    # in ten.
    n_non_ascii = sum(not word.isascii() for word in words)
    n_words = len(words)
    if (
        english > 1.3 * foreign
        and english >= 0.12 * n_words
        and english >= (2 if n_words > 6 else 1)
        and n_non_ascii <= 0.1 * n_words
    ):
        return "en"
    if (
        foreign > 1.3 * english
        and foreign >= 2
        and (foreign >= 0.15 * n_words or n_non_ascii >= 0.1 * n_words)
    ):
        return "other"
    return (
        "other"
        if n_non_ascii >= 0.2 * n_words and n_words >= 4 and english < 0.12 * n_words
        else None
    )
