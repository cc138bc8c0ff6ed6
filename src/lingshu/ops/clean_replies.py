"""Cleaning doctors' replies from consultation sites by rule: greetings, names, site phrases,
contacts and signatures go.

The paper has HealthCareMagic-100k and iCliniq-10k rewritten by a language model before use (section
2.1.4); this is the part that needs none, for runs without a teacher and as the first pass before
one. It removes whole sentences that only greet, thank, advertise or sign, at the begin and end of a
reply, and what identifies a person anywhere in it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Message, Sample, with_extra
from lingshu.deidentify import rules
from lingshu.ops._sample_fields import format_counts, require

_SENTENCE = re.compile(
    r"[^.!?。！？\n]+(?:[.!?。！？]+(?=\s|$|[\u4e00-\u9fff“])|[。"
    r"！？]+|\.(?=\S)[^\n.!?]*)*[.!?]*|\n+"
)
_GREETING_WORD = (
    r"(?:hi|hello|hey|dear|greetings|good (?:morning|afternoon|evening|day)|namaste|salam)"
)
_OPENING = re.compile(
    rf"\s*(?:{_GREETING_WORD}\b[^.!?\n]{{0,40}}"
    r"|(?:warm )?welcome (?:to|back)\b.{0,80}|(?:many )?thank(?:s| you)\b.{0,20}\b(?:for|to)\b.{0,20}\b(?:writ|us|ask|contact|"
    r"query|question|post|consult|choos|trust|sharing|approach|reach).{0,60}"
    r"|i (?:have )?(?:just )?(?:gone|went|read|reviewed|understood|understand|can understand) (?:through |carefully )?(?:your|"
    r"all the) (?:query|question|concern|case|history|details|problem|message)s?\b.{0,60}"
    r"|(?:this is|i am|i'm|my name is) (?:dr\b|doctor\b|\[NAME\]).{0,60}"
    r"|(?:您好|你好|患者您好|患者你好|亲)[，,！!。 ]{0,3})\s*[.!,。！]*\s*",
    re.IGNORECASE,
)  # fmt: skip
_CLOSING = re.compile(
    r"\s*(?:(?:i )?(?:do )?hope (?:this|that|i have|i've|it|my|the|you)\b.{0,60}\b(?:help|answer|clear|useful|query|question|"
    r"information|well|recover|soon).{0,40}"
    r"|(?:please )?(?:feel free|do not hesitate|don't hesitate|let me know|revert back|get back|write (?:back )?to us|"
    r"contact (?:us|me)|consult me)\b.{0,120}"
    r"|if you have (?:any )?(?:further|more|additional|other|any)\b.{0,100}|(?:in case of )?any (?:further|more) (?:quer|"
    r"question|doubt).{0,80}"
    r"|for (?:more|further) (?:information|quer|question|doubt|follow).{0,160}|(?:i )?wish(?:ing)? you\b.{0,80}|"
    r"(?:wish you )?(?:a )?(?:good|best|speedy) (?:health|luck|recovery|wishes).{0,40}"
    r"|take care\b.{0,30}|have a (?:nice|good|great|healthy)\b.{0,40}|(?:thanks|thank you|thanking you)(?:\s+(?:and|"
    r"&)\s+regards)?[\s,]*(?:[A-Z]\S*\s*){0,4}"
    r"|(?:with )?(?:best|kind|warm)?\s*(?:regards|wishes)\b.{0,80}|(?:yours )?sincerely\b.{0,60}|\[NAME\](?:[,\s].{0,40})?"
    r"|(?:please )?(?:rate|click|accept|close) (?:this|my|the)\b.{0,60}(?:answer|discussion|question|reply).{0,40}"
    r"|.{0,60}\b(?:chat ?doctor|health ?care ?magic|HCM|icliniq|premium question|direct question|bit\.ly)\b.{0,80}|.{0,60}-->.*"
    r"|(?:希望|以上)[^。！]{0,20}(?:帮助|帮到您|有用|建议)[^。！]{0,12}|祝(?:您|你)?[^。！]{0,16}|(?:如|若)(?:有|您)[^。！]{0,20}(?:咨询|疑问|"
    r"联系)[^。！]{0,12})\s*[.!,。！]*\s*",
    re.IGNORECASE,
)  # fmt: skip
_GREETING = re.compile(
    rf"{_GREETING_WORD}\s+(?:\[NAME\]|there|doctor|sir|madam)?\s*[,!]\s*|(?:您好|你好)[，,]\s*",
    re.IGNORECASE,
)
_TITLED = re.compile(r"\b(?:Dr|DR|dr|Mr|MR|Mrs|MRS|Ms|Prof)\.?\s*(?=\[NAME\])")
_NAME = re.compile(r"\s*\[NAME\](?:,?\s*(?:MD|MBBS|M\.D\.|MRCP|FRCS|DNB)\b)*")
_CONTACT = re.compile(r"\[(?:PHONE|EMAIL|URL)\]")


def step(*, min_words: int = 8, max_edge_sentences: int = 6) -> MapStep:
    """Clean every assistant turn.

    Args:
        min_words: a reply of fewer words after cleaning is dropped (two Chinese characters count as
            one word).
        edge: how many sentences at each end may be removed as greeting or signature.

    Drops: reply_too_short. Changed samples carry the note `cleaned` with the counts of what went.
    """
    require(min_words >= 0, f"clean_replies: min_words is {min_words}; it must be at least 0.")
    require(
        max_edge_sentences >= 0,
        f"clean_replies: edge is {max_edge_sentences}; it must be at least 0.",
    )

    def clean_sample(sample: Sample, _: Pixels) -> Sample | Drop:
        counts: Counter[str] = Counter()
        messages = tuple(
            _clean_message(message, max_edge_sentences, counts)
            if message.role == "assistant"
            else message
            for message in sample.messages
        )
        if not counts:
            return sample
        if any(
            _count_words(message.text) < min_words
            for message in messages
            if message.role == "assistant"
        ):
            return Drop(sample.id, "reply_too_short", format_counts(counts))
        gold = (
            (messages[-1].text,)
            if sample.answered and sample.gold == (sample.messages[-1].text,)
            else sample.gold
        )
        return with_extra(
            replace(sample, messages=messages, gold=gold), {"cleaned": format_counts(counts)}
        )

    return MapStep(lambda: clean_sample)


def _clean_message(message: Message, max_edge_sentences: int, counts: Counter[str]) -> Message:
    texts = [part for part in message.parts if isinstance(part, str)]
    if len(texts) != 1:
        return message
    cleaned = clean_reply(texts[0], max_edge_sentences=max_edge_sentences, counts=counts)
    return replace(
        message, parts=tuple(cleaned if isinstance(part, str) else part for part in message.parts)
    )


def clean_reply(text: str, *, max_edge_sentences: int, counts: Counter[str]) -> str:
    """A reply without greeting, signature and identifiers; `counts` is added to."""
    # Identifiers first: the full stop of "Dr." would end a sentence before the name.
    scrubbed, identifier_counts = rules.scrub_text(text)
    counts.update(identifier_counts)
    sentences = _SENTENCE.findall(_TITLED.sub("", scrubbed))
    first, last = 0, len(sentences)
    while first < min(max_edge_sentences, last) and (
        not sentences[first].strip() or _OPENING.fullmatch(sentences[first])
    ):
        counts["greeting"] += bool(sentences[first].strip())
        first += 1
    while last > max(first, len(sentences) - max_edge_sentences) and (
        not sentences[last - 1].strip() or _CLOSING.fullmatch(sentences[last - 1])
    ):
        counts["closing"] += bool(sentences[last - 1].strip())
        last -= 1
    # A sentence that names a way to reach somebody says nothing without it.
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
    return (
        len(re.findall(r"[^\W\u4e00-\u9fff]+", text))
        + len(re.findall(r"[\u4e00-\u9fff]", text)) // 2
    )
