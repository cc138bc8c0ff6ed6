"""Cleaning doctors' replies from consultation sites by rule: greetings, names, site phrases,
contacts and signatures are removed.

The paper has HealthCareMagic-100k and iCliniq-10k rewritten by a language model before use (section
2.1.4); this is the part that needs none, for runs without a teacher and as the first pass before
one. It removes whole sentences that only greet, thank, advertise or sign, at the beginning and end
of a reply, and what identifies a person anywhere in it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, partial
from pathlib import Path

from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Message, Sample, with_extra
from lingshu.deidentify.scrub import scrub
from lingshu.ops._sample_fields import check_minimum, format_counts, map_message, with_messages

_SENTENCE = re.compile(
    r"[^.!?。！？\n]+(?:[.!?。！？]+(?=\s|$|[\u4e00-\u9fff“])|[。！？]+|\.(?=\S)[^\n.!?]*)*[.!?]*|\n+"
)
_GREETING_WORD = (
    r"(?:hi|hello|hey|dear|greetings|good (?:morning|afternoon|evening|day)|namaste|salam)"
)
_GREETING = re.compile(
    rf"{_GREETING_WORD}\s+(?:\[NAME\]|there|doctor|sir|madam)?\s*[,!]\s*|(?:您好|你好)[，,]\s*",
    re.IGNORECASE,
)
_TITLED = re.compile(r"\b(?:Dr|DR|dr|Mr|MR|Mrs|MRS|Ms|Prof)\.?\s*(?=\[NAME\])")
_NAME = re.compile(r"\s*\[NAME\](?:,?\s*(?:MD|MBBS|M\.D\.|MRCP|FRCS|DNB)\b)*")
_CONTACT = re.compile(r"\[(?:PHONE|EMAIL|URL)\]")
_WORD, _HAN = re.compile(r"[^\W\u4e00-\u9fff]+"), re.compile(r"[\u4e00-\u9fff]")


@cache
def _edge_sentences() -> dict[str, re.Pattern[str]]:
    """Patterns of whole sentences that open and close a reply, by the sections of the data file."""
    text = Path(__file__).with_name("_reply_edges.txt").read_text(encoding="utf-8")
    patterns = {}
    for block in text.strip().split("\n\n"):
        name, *lines = block.splitlines()
        alternatives = "|".join(line.replace("GREETING", _GREETING_WORD) for line in lines)
        pattern = rf"\s*(?:{alternatives})\s*[.!,。！]*\s*"
        patterns[name] = re.compile(pattern, re.IGNORECASE)
    return patterns


def step(*, min_words: int = 8, max_edge_sentences: int = 6) -> MapStep:
    """Clean every assistant turn.

    Args:
        min_words: a reply of fewer words after cleaning is dropped (two Chinese characters count as
            one word).
        max_edge_sentences: how many sentences at each end may be removed as greeting or signature.

    Drops: reply_too_short. Changed samples carry the note `cleaned`: counts of what was removed.
    """
    check_minimum("clean_replies", 0, min_words=min_words, max_edge_sentences=max_edge_sentences)

    def clean_sample(sample: Sample, _: Pixels) -> Sample | Drop:
        counts: Counter[str] = Counter()

        def clean(message: Message) -> Message:
            n_texts = sum(isinstance(part, str) for part in message.parts)
            if message.role != "assistant" or n_texts != 1:
                return message
            options = {"max_edge_sentences": max_edge_sentences, "counts": counts}
            return map_message(message, partial(clean_reply, **options))

        messages = list(map(clean, sample.messages))
        if not counts:
            return sample
        replies = [message.text for message in messages if message.role == "assistant"]
        if any(_count_words(reply) < min_words for reply in replies):
            return Drop(sample.id, "reply_too_short", format_counts(counts))
        return with_extra(with_messages(sample, messages), {"cleaned": format_counts(counts)})

    return MapStep(lambda: clean_sample)


def clean_reply(text: str, *, max_edge_sentences: int, counts: Counter[str]) -> str:
    """A reply without greeting, signature and identifiers; `counts` is added to."""
    opening, closing = _edge_sentences()["opening"], _edge_sentences()["closing"]
    # Identifiers first: the full stop of "Dr." would end a sentence before the name.
    scrubbed = scrub(text)
    counts.update(scrubbed.counts)
    sentences = _SENTENCE.findall(_TITLED.sub("", scrubbed.text))
    first, last = 0, len(sentences)
    while first < min(max_edge_sentences, last):
        if sentences[first].strip() and not opening.fullmatch(sentences[first]):
            break
        counts["greeting"] += bool(sentences[first].strip())
        first += 1
    while last > max(first, len(sentences) - max_edge_sentences):
        if sentences[last - 1].strip() and not closing.fullmatch(sentences[last - 1]):
            break
        counts["closing"] += bool(sentences[last - 1].strip())
        last -= 1
    # A sentence that names a contact is meaningless without it.
    cleaned = "".join(s for s in sentences[first:last] if not _CONTACT.search(s)).strip()
    greeting = _GREETING.match(cleaned)
    if greeting:
        counts["greeting"] += 1
        cleaned = cleaned[greeting.end() :]
    if not +counts:
        counts.clear()
        return text
    cleaned = _NAME.sub("", cleaned).strip()
    return cleaned[:1].upper() + cleaned[1:]


def _count_words(text: str) -> int:
    return len(_WORD.findall(text)) + len(_HAN.findall(text)) // 2
