"""Rule packs: the words and forms of one language that mark identifiers, one TOML file each.

A pack is added as a file; there is no list of languages. Keys, all of them optional:

    never, names_too, words     words that are never names; that are also names; of the clinic
    names.titles                a name follows, even an ordinary word ("Dr. Young")
    names.labels                a name follows after a colon ("Radiologist: ...")
    names.cues                  a name follows if it is not an ordinary word ("discussed with ...")
    names.verbs, credentials    after a name at the start of a sentence; after any name
    names.particles             parts of names in lower case (van, de, bin)
    numbers.labels, contacts.labels, locations.cues, locations.institutions
    dates.months, dates.cues, dates.ordinals
    patterns                    regular expressions: kind, pattern (group x), exclude, digits
    surnames, common_surnames, not_names    of languages without spaces

Phrases are separated by commas where words have spaces between them, else by spaces.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lingshu.deidentify.words import english_words, eponym_words, fold, tokens


@dataclass(frozen=True)
class PatternRule:
    """A regular expression whose group x identifies, with the digits it must have."""

    name: str
    kind: str
    pattern: re.Pattern[str]
    exclude: re.Pattern[str] | None
    min_digits: int
    max_digits: int
    cjk: bool


@dataclass(frozen=True)
class RulePack:
    """The rules of one language; phrases are as the file spells them."""

    name: str
    never: frozenset[str]
    names_too: frozenset[str]
    words: frozenset[str]
    phrases: Mapping[str, Sequence[str]]
    verbs: frozenset[str]
    credentials: frozenset[str]
    particles: frozenset[str]
    months: Sequence[Sequence[str]]
    date_cues: frozenset[str]
    ordinals: Sequence[str]
    patterns: Sequence[PatternRule]
    surnames: Sequence[str]
    common_surnames: str
    not_names: Sequence[str]
    institution_first: bool
    not_institutions: Sequence[str]
    not_in_institutions: str

    @property
    def is_cjk(self) -> bool:
        return bool(self.surnames)


# What a label announces, by the table and key of a pack.
_PHRASES = {
    "title": ("names", "titles"), "label": ("names", "labels"), "cue": ("names", "cues"),
    "number": ("numbers", "labels"), "contact": ("contacts", "labels"),
    "location": ("locations", "cues"), "institution": ("locations", "institutions"),
}  # fmt: skip


@cache
def load_packs() -> tuple[RulePack, ...]:
    """Every pack of this folder, by file name."""
    return tuple(_read_pack(path) for path in sorted(Path(__file__).parent.glob("*.toml")))


def _read_pack(path: Path) -> RulePack:
    content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    names, dates = content.get("names", {}), content.get("dates", {})
    locations = content.get("locations", {})
    cjk = "surnames" in content

    def plain(text: str) -> frozenset[str]:
        return frozenset(map(fold, text.split()))

    def phrases(table: str, key: str) -> list[str]:
        text = " ".join(content.get(table, {}).get(key, "").split())
        parts = text.split() if cjk else text.split(",")
        return sorted({part.strip() for part in parts if part.strip()}, key=len, reverse=True)

    patterns = []
    for number, entry in enumerate(content.get("patterns", ()), 1):
        flags = re.NOFLAG if entry.get("case_sensitive") else re.IGNORECASE
        exclude = re.compile(entry["exclude"], re.I) if "exclude" in entry else None
        low, high = entry.get("digits", (0, 99))
        rule_name = f"{path.stem} {entry['kind']} form {number}"
        patterns.append(
            PatternRule(
                rule_name,
                entry["kind"],
                re.compile(entry["pattern"], flags),
                exclude,
                low,
                high,
                cjk,
            )
        )
    return RulePack(
        name=path.stem,
        never=plain(content.get("never", "")),
        names_too=plain(content.get("names_too", "")),
        words=plain(content.get("words", "")),
        phrases={kind: phrases(*keys) for kind, keys in _PHRASES.items()},
        verbs=plain(names.get("verbs", "")),
        credentials=plain(names.get("credentials", "")),
        particles=plain(names.get("particles", "")),
        months=[month.split() for month in dates.get("months", ())],
        date_cues=plain(dates.get("cues", "")),
        ordinals=dates.get("ordinals", "").split(),
        patterns=patterns,
        surnames=_surnames(content.get("surnames", ""), path.stem),
        common_surnames=content.get("common_surnames", ""),
        not_names=content.get("not_names", "").split(),
        institution_first=locations.get("institution_first", False),
        not_institutions=locations.get("not_institutions", "").split(),
        not_in_institutions=locations.get("not_in_institutions", ""),
    )


def _surnames(text: str, language: str) -> list[str]:
    """Chinese surnames of one character are one run, longer ones and Japanese ones are words."""
    parts = text.split()
    if language == "zh":
        parts = [one for part in parts for one in (part if len(part) > 2 else (part,))]
    return sorted(set(parts), key=len, reverse=True)


@cache
def never_names() -> frozenset[str]:
    """Folded words that are no name even after a title."""
    return frozenset(word for pack in load_packs() for word in pack.never)


@cache
def also_names() -> frozenset[str]:
    """Folded ordinary words that are also names."""
    return frozenset(word for pack in load_packs() for word in pack.names_too)


@cache
def ordinary_words() -> frozenset[str]:
    """Folded words that alone are no sign of a name."""
    marking = {
        token.plain
        for pack in load_packs()
        for phrases in pack.phrases.values()
        for phrase in phrases
        for token in tokens(phrase)
    }
    months = {fold(name) for pack in load_packs() for names in pack.months for name in names}
    packs = {word for pack in load_packs() for word in pack.words | pack.verbs | pack.credentials}
    return frozenset(
        english_words() | eponym_words() | never_names() | also_names() | packs | marking | months
    )
