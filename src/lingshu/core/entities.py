"""Medical entities in answers: finding terms in text, and the spans that a sample carries.

A sample's spans are JSON in `meta.extra["entities"]`, `[[turn, start, end, text], ...]`: `turn` is
the index of an assistant message, `start` and `end` count characters of its text, `text` repeats
them to notice a later edit. Without the key a sample was never marked; `[]`: no term was found.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.types import Sample, with_extra

ENTITIES = "entities"
# Terms are indexed by their first characters, so that a large dictionary costs little more.
_PREFIX_LENGTH = 4
# Scripts without blanks between words; their terms need no boundary.
_UNSPACED_SCRIPTS = re.compile(
    r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
_WHITESPACE = re.compile(r"\s\s|[^\S ]")
_DASHES = dict.fromkeys(range(0x2010, 0x2016), "-")


class Span(NamedTuple):
    """Characters `start` to `end` of message `turn`, and their text."""

    turn: int
    start: int
    end: int
    text: str


class NormalizedText(NamedTuple):
    """A text to compare, and the start and end of the original characters of each of its own."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


def normalize_text(text: str) -> NormalizedText:
    """NFKC, case-folded, blanks as one blank, dashes as hyphens; with original positions."""
    if text.isascii() and not _WHITESPACE.search(text):
        return NormalizedText(text.lower(), range(len(text)), range(1, len(text) + 1))
    chars: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    while position < len(text):
        end = position + 1
        # A letter and its combining marks are normalized together.
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        chunk = _normalize_chars(text[position:end])
        for character in " " if chunk.isspace() else chunk:
            if character == " " and chars and chars[-1] == " ":
                ends[-1] = end
                continue
            chars.append(character)
            starts.append(position)
            ends.append(end)
        position = end
    return NormalizedText("".join(chars), starts, ends)


def _normalize_chars(text: str) -> str:
    normalized = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", normalized).translate(_DASHES)


class EntityMatcher:
    """A dictionary of terms to find in texts.

    `plurals` also finds English plurals of singular terms, `hyphens` the same term with a blank, a
    hyphen or nothing between its parts.
    """

    def __init__(
        self, terms: Iterable[str], *, plurals: bool = False, hyphens: bool = False
    ) -> None:
        self._by_prefix: dict[str, list[str]] = defaultdict(list)
        variants: set[str] = set()
        for term in terms:
            variants.update(
                _variants(normalize_text(term).text.strip(), plurals=plurals, hyphens=hyphens)
            )
        variants.discard("")
        for term in sorted(variants, key=lambda term: (-len(term), term)):
            self._by_prefix[term[:_PREFIX_LENGTH]].append(term)

    def find(self, text: str) -> list[tuple[int, int]]:
        """Start and end of the terms in a text: from each position the longest, without overlaps.

        A term ends at a word boundary, so `ct` is not found in "structure", except in scripts
        without blanks between words.
        """
        normalized = normalize_text(text)
        spans, position = [], 0
        while position < len(normalized.text):
            end = None
            if _is_word_boundary(normalized.text, position):
                end = self._longest_match(normalized.text, position)
            if end is None:
                position += 1
            else:
                spans.append((normalized.starts[position], normalized.ends[end - 1]))
                position = end
        return spans

    def _longest_match(self, text: str, position: int) -> int | None:
        ends = [
            position + len(term)
            for size in range(1, _PREFIX_LENGTH + 1)
            for term in self._by_prefix.get(text[position : position + size], ())
            if (len(term) >= _PREFIX_LENGTH or len(term) == size)
            and text.startswith(term, position)
            and _is_word_boundary(text, position + len(term))
        ]
        return max(ends, default=None)


def _is_word_boundary(text: str, position: int) -> bool:
    """Whether a word may start or end before the character at `position`."""
    return position in (0, len(text)) or not (
        _is_word_char(text[position - 1]) and _is_word_char(text[position])
    )


def _is_word_char(character: str) -> bool:
    return (
        character.isalnum() or character == "_" or unicodedata.combining(character) > 0
    ) and not _UNSPACED_SCRIPTS.match(character)


def _variants(term: str, *, plurals: bool, hyphens: bool) -> set[str]:
    variants = {term}
    if hyphens:
        changes = [term.replace(*pair) for pair in (("-", " "), (" ", "-"), ("-", ""))]
        variants |= {changed for changed in changes if len(changed) > 1}
    if plurals:
        variants |= {plural for variant in tuple(variants) for plural in _plurals(variant)}
    return variants


def _plurals(term: str) -> tuple[str, ...]:
    stem, end = term[:-2], term[-2:]
    if len(term) < 4 or not re.fullmatch("[a-z]{2}", end):
        return ()
    if end == "is":
        return (f"{stem}es",)
    if end in ("ex", "ix"):
        return (f"{term}es", f"{stem}ices")
    if end == "us":
        return (f"{term}es", f"{stem}i")
    if end == "um":
        return (f"{term}s", f"{stem}a")
    if end[1] == "y" and end[0] not in "aeiou":
        return (f"{term[:-1]}ies",)
    if end[1] == "a":
        return (f"{term}s", f"{term}e", f"{term}ta")
    return (f"{term}es",) if end[1] in "sxz" or end in ("ch", "sh") else (f"{term}s",)


def find_spans(sample: Sample, matcher: EntityMatcher) -> list[Span]:
    """The terms in every assistant turn of a sample, in order."""
    return [
        Span(turn, start, end, message.text[start:end])
        for turn, message in enumerate(sample.messages)
        if message.role == "assistant"
        for start, end in matcher.find(message.text)
    ]


def with_spans(sample: Sample, spans: Sequence[Span]) -> Sample:
    """The sample with its spans in `meta.extra`."""
    return with_extra(sample, {ENTITIES: json.dumps(spans, ensure_ascii=False)})


def spans_of(sample: Sample) -> list[Span] | None:
    """The spans that a sample carries; None if it was never marked.

    Raises:
        InputError: they cannot be read, or the text was changed after it was marked.
    """
    encoded = sample.meta.extra.get(ENTITIES)
    if encoded is None:
        return None
    try:
        spans = [
            Span(int(turn), int(start), int(end), str(text))
            for turn, start, end, text in json.loads(encoded)
        ]
    except (ValueError, TypeError) as error:
        problem = f"its entities are not [[turn, start, end, text], ...] ({error})"
        raise InputError(f"{problem}; mark them again.") from error
    for turn, start, end, text in spans:
        messages = sample.messages[turn : turn + 1] if turn >= 0 else ()
        answers = [message.text for message in messages if message.role == "assistant"]
        if not 0 <= start < end or [answer[start:end] for answer in answers] != [text]:
            problem = f"its entity at {start} to {end} of message {turn} is not there"
            raise InputError(f"{problem}; mark it after the last change of its text.")
    return spans
