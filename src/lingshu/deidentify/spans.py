"""Spans of text that identify somebody, and the text without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# Where spans overlap, the kind of the earlier one in this order names the placeholder.
KINDS = ("email", "url", "path", "id", "phone", "date", "age", "location", "name")
# Notes of a sample (meta.extra) with the number of spans by kind and by rule.
KIND_NOTE, RULE_NOTE = "scrubbed", "scrubbed_by"
# Between two spans of one kind: a name of several words is one placeholder.
_JOINTS = frozenset(" ,.-'’^/·\u3000")


class IdentifierSpan(NamedTuple):
    """Characters `start` to `end` of a text: their kind, and the rule that found them."""

    start: int
    end: int
    kind: str
    rule: str


class Scrubbed(NamedTuple):
    """A text without identifiers, and the spans that were replaced, in order."""

    text: str
    spans: tuple[IdentifierSpan, ...]

    @property
    def counts(self) -> Counter[str]:
        """The number of spans of each kind."""
        return Counter(span.kind for span in self.spans)


def count_notes(spans: Iterable[IdentifierSpan], notes: Mapping[str, str]) -> dict[str, str]:
    """KIND_NOTE and RULE_NOTE of a sample: the counts of `spans` added to those of its `notes`."""
    spans = list(spans)
    kinds, rules = parse_counts(notes.get(KIND_NOTE, "")), parse_counts(notes.get(RULE_NOTE, ""))
    kinds.update(span.kind for span in spans)
    rules.update(span.rule for span in spans)
    return {
        note: "; ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        for note, counts in ((KIND_NOTE, kinds), (RULE_NOTE, rules))
        if counts
    }


def parse_counts(note: str) -> Counter[str]:
    """The counts that a note of `count_notes` states."""
    pairs = (entry.rpartition(" ") for entry in note.split("; ") if entry)
    return Counter({name: int(count) for name, _, count in pairs if count.isdigit()})


def merge_spans(spans: Iterable[IdentifierSpan], text: str) -> list[IdentifierSpan]:
    """Spans that overlap, or stand next to each other with one kind, as one; none is lost."""
    merged: list[IdentifierSpan] = []
    for span in sorted(spans):
        last = merged[-1] if merged else None
        if last is None or not _joins(last, span, text):
            merged.append(span)
            continue
        first = min(last, span, key=lambda one: KINDS.index(one.kind))
        merged[-1] = IdentifierSpan(last.start, max(last.end, span.end), first.kind, first.rule)
    return merged


def _joins(last: IdentifierSpan, span: IdentifierSpan, text: str) -> bool:
    if span.start < last.end:
        return True
    gap = text[last.end : span.start]
    return span.kind == last.kind == "name" and len(gap) <= 2 and set(gap) <= _JOINTS


def replace_spans(
    text: str,
    spans: Sequence[IdentifierSpan],
    replacements: Mapping[IdentifierSpan, str] | None = None,
) -> str:
    """The text with `[KIND]`, or the replacement of a span, instead of each of the sorted spans."""
    pieces, position = [], 0
    for span in spans:
        placeholder = (replacements or {}).get(span, f"[{span.kind.upper()}]")
        pieces += [text[position : span.start], placeholder]
        position = span.end
    return "".join([*pieces, text[position:]])
