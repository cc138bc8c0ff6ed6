"""De-identification of a text: rules, the header of its study, and detectors, in one pass."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

from lingshu.core.pseudonyms import pseudonym
from lingshu.deidentify.dates import find_dates, shift_text
from lingshu.deidentify.matcher import StudyMatcher
from lingshu.deidentify.rules import find_identifiers
from lingshu.deidentify.spans import IdentifierSpan, Scrubbed, merge_spans, replace_spans
from lingshu.deidentify.words import fold, tokens

# What to do with dates: a placeholder, a later or earlier day in the same form, or nothing.
DatePolicy = Literal["remove", "shift", "keep"]
# Work per text is bounded: a longer text is searched in pieces of this size.
MAX_CHARS = 20_000
Detector = Callable[[str], Iterable[IdentifierSpan]]


def scrub(
    text: str,
    study: StudyMatcher | None = None,
    *,
    dates: DatePolicy = "remove",
    shift_days: int = 0,
    detectors: Sequence[Detector] = (),
    wrong: frozenset[str] = frozenset(),
) -> Scrubbed:
    """The text with every identifier replaced by its kind, as [NAME].

    Rules of all languages, the header values of `study` and the spans of `detectors` are united;
    a detector adds spans and removes none. With `dates="shift"` a date moves by `shift_days` and
    keeps its form; one whose form cannot be kept, or that has no year, is removed. `wrong` are
    folded texts that a person found to be no identifier; the header of a study overrides them.
    """
    normal = unicodedata.normalize("NFC", text)
    if len(normal) > MAX_CHARS:
        options = {"dates": dates, "shift_days": shift_days, "wrong": wrong}
        piece = partial(scrub, study=study, detectors=detectors, **options)
        return _in_pieces(normal, piece)
    words = tokens(normal)
    spans = list(find_identifiers(normal, words))
    replacements: dict[IdentifierSpan, str] = {}
    for one in find_dates(normal, words, study.dates if study else frozenset()):
        if dates == "keep":
            continue
        spans.append(span := IdentifierSpan(one.start, one.end, "date", "date"))
        shifted = shift_text(one, shift_days) if dates == "shift" else None
        if shifted is not None:
            replacements[span] = shifted
    for detector in detectors:
        spans += detector(normal)
    if wrong:
        spans = [span for span in spans if fold(normal[span.start : span.end]) not in wrong]
    if study:
        spans += study.find(normal, words)
    merged = merge_spans(spans, normal)
    if not merged:
        return Scrubbed(text, ())
    return Scrubbed(replace_spans(normal, merged, replacements), tuple(merged))


def shift_days_of(key: bytes, patient: str) -> int:
    """By how many days the dates of a patient move: one number, which only the key tells.

    Between one and ten years back, so that no shifted date is the true one or in the future.
    """
    digest = pseudonym(key, "date shift", patient or "unknown") or "0"
    return -(365 + int(digest, 16) % 3287)


def _in_pieces(text: str, scrub_piece: Callable[[str], Scrubbed]) -> Scrubbed:
    """A long text line by line, or cut at a space: an identifier does not span such a cut."""
    pieces, spans, position = [], [], 0
    while position < len(text):
        end = min(position + MAX_CHARS, len(text))
        if end < len(text):
            cut = max(text.rfind("\n", position, end), text.rfind(" ", position, end))
            end = cut + 1 if cut > position else end
        piece = scrub_piece(text[position:end])
        pieces.append(piece.text)
        spans += [s._replace(start=s.start + position, end=s.end + position) for s in piece.spans]
        position = end
    return Scrubbed("".join(pieces), tuple(spans))
