"""Medical entities in answers: finding terms in text, and the spans that a sample carries from
curation to training.

A sample's spans lie in `meta.extra["entities"]` as JSON, `[[turn, start, end, words], ...]`: `turn`
is the position of an assistant message, `start` and `end` count characters of its text, and `words`
are those characters, so that a text that was edited afterwards is noticed. A sample without the key
was never marked; `[]` says that it was, and holds no term.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.types import Sample

ENTITIES = "entities"
# Terms are looked up by their first characters, so that a dictionary of any size costs little more
# than a small one.
_PREFIX_LENGTH = 4
# Scripts that write words without blanks between them; their terms need no boundary.
_UNSPACED_SCRIPTS = re.compile(
    r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
_WHITESPACE = re.compile(r"\s\s|[^\S ]")
_DASHES = dict.fromkeys(range(0x2010, 0x2016), "-")


class Span(NamedTuple):
    """Characters `start` to `end` of message `turn`, and what they read."""

    turn: int
    start: int
    end: int
    text: str


class NormalizedText(NamedTuple):
    """A text for comparing, and for each of its characters the first and the last but one character
    it stands for.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


def normalize_text(text: str) -> NormalizedText:
    """NFKC and case-folded, each run of blanks one blank, every dash a hyphen; with the way back to
    the original characters.
    """
    if text.isascii() and not _WHITESPACE.search(text):
        return NormalizedText(text.lower(), range(len(text)), range(1, len(text) + 1))
    chars: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    while position < len(text):
        end = position + 1
        # What composes has to be normalised together: a letter and the marks behind it.
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
    """A dictionary to look for in texts; a term of blanks alone is left out.

    `plurals` also finds English plurals of terms that are words in the singular, `hyphens` the same
    term with a blank, a hyphen or nothing between its parts.
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
        self.n_terms = len(variants)
        for term in sorted(variants, key=lambda term: (-len(term), term)):
            self._by_prefix[term[:_PREFIX_LENGTH]].append(term)

    def find(self, text: str) -> list[tuple[int, int]]:
        """Where terms stand in a text: the longest at each place, from left to right, none
        overlapping another.

        A letter or digit at the end of a term must not go on as a word: `ct` is not found in
        "structure". Terms in scripts without blanks between words need no such boundary.
        """
        normalized = normalize_text(text)
        spans, position = [], 0
        while position < len(normalized.text):
            end = (
                self._longest_match(normalized.text, position)
                if _is_word_boundary(normalized.text, position)
                else None
            )
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
    """Whether a word may begin or end between the characters before and at `at`."""
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
        variants |= {
            changed
            for old, new in (("-", " "), (" ", "-"), ("-", ""))
            if len(changed := term.replace(old, new)) > 1
        }
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
    if end in ("us", "um"):
        return (
            f"{term}es" if end == "us" else f"{term}s",
            f"{stem}i" if end == "us" else f"{stem}a",
        )
    if end[1] == "y" and end[0] not in "aeiou":
        return (f"{term[:-1]}ies",)
    if end[1] == "a":
        return (f"{term}s", f"{term}e", f"{term}ta")
    return (f"{term}es",) if end[1] in "sxz" or end in ("ch", "sh") else (f"{term}s",)


# --- what a sample carries
# -------------------------------------------------------------------------------------------


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
    encoded = json.dumps([list(span) for span in spans], ensure_ascii=False)
    return replace(
        sample, meta=replace(sample.meta, extra={**sample.meta.extra, ENTITIES: encoded})
    )


def spans_of(sample: Sample) -> list[Span] | None:
    """The spans that a sample carries; None where it was never marked.

    Raises:
        InputError: they cannot be read, or do not fit the text: it was changed after it was marked.
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
        raise InputError(
            f"its entities are no [[turn, start, end, words], ...] ({error}); mark them anew."
        ) from error
    for turn, start, end, text in spans:
        message = sample.messages[turn] if 0 <= turn < len(sample.messages) else None
        if (
            message is None
            or message.role != "assistant"
            or not 0 <= start < end
            or message.text[start:end] != text
        ):
            raise InputError(
                f"its entity at {start} to {end} of message {turn} is not there; mark it after the"
                " last change of its text."
            )
    return spans
