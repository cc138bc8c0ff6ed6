"""The identifiers of a study's header in a text, however the text writes them.

Names and locations are compared as plain words (words.py), with their endings, small misspellings,
initials, and the joints and spaces between their parts; numbers without separators and leading
zeros. A value that is also an ordinary word ("White", "Long", "Unknown") counts only where the text
marks it as a name: next to another part of the name, or by a rule of rules.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from lingshu.deidentify.header import StudyIdentifiers
from lingshu.deidentify.names import is_ordinary, long_eponym_spans
from lingshu.deidentify.packs import load_packs, ordinary_words
from lingshu.deidentify.spans import IdentifierSpan
from lingshu.deidentify.words import (
    CJK,
    HAN,
    Token,
    eponyms,
    fold,
    han_pattern,
    has_clinical_ending,
    is_kana,
    romaji,
    tokens,
)

# A value of these alone names nobody.
_ANONYMOUS_WORDS = frozenset(map(fold, ["unknown", "anonymous", "anonymized", "anon", "ymous", "none", "null", "test", "patient", "phantom", "self", "na", "nn", "xxx", "xx", "xxxx", "dr", "mr", "mrs", "ms", "md", "doctor", "physician", "staff", "tech", "technologist", "operator", "emergency", "department", "radiology", "hospital", "clinic", "unspecified", "unnamed", "default", "admin", "user", "service", "doe", "john", "jane", "qa", "qc", "demo", "sample", "no", "name", "noname", "deidentified", "removed", "redacted", "right", "left", "chest"]))  # fmt: skip
_GAP = re.compile(r"[\s.,'’`´\-_/()\u00b7\u30fb\u3000^]{0,3}")
_DOTTED = frozenset(
    [
        "po",
        "iv",
        "im",
        "am",
        "pm",
        "ie",
        "eg",
        "ca",
        "cm",
        "sc",
        "qd",
        "bid",
        "tid",
        "ap",
        "pa",
        "lr",
        "no",
        "op",
        "sp",
        "cc",
        "ed",
        "er",
        "or",
        "us",
        "ct",
        "mr",
        "ii",
        "ad",
        "dc",
        "cf",
        "vs",
        "ph",
        "va",
        "ta",
        "mm",
    ]
)
_MARKS = frozenset(map(fold, ["of", "for", "by", "with", "from", "to", "in", "and", "patient", "pt", "mr", "mrs", "ms", "dr", "told", "informed", "seen", "called", "consent", "re", "name"]))  # fmt: skip
_NUMBER_MARKS = frozenset(map(fold, ["patient", "pt", "mrn", "id", "no", "nr", "number", "file", "record", "chart", "exam", "accession", "acc", "case", "ref", "pat", "fall", "num", "study", "order", "room"]))  # fmt: skip
# Endings of names that are declined, in plain form: Slavic, Greek, German, Finnish, Latin.
_ENDINGS = frozenset(
    ("", *["a", "u", "y", "i", "e", "o", "s", "om", "oi", "ou", "m", "em", "im", "ym", "ei", "ej", "ov", "ova", "ovi", "ou", "os", "is", "as", "es", "on", "ia", "iu", "aia", "oia", "ogo", "omu", "ykh", "ymi", "uiu", "uju", "ami", "am", "iem", "ego", "emu", "ie", "ii", "in", "ina", "ine", "inoi", "oiu", "ii", "aya", "ski", "ska", "skiej", "skiego", "iej", "iego", "sky", "skaia", "skoi", "skogo", "oj", "eho", "emu", "ho", "mu", "ech", "ich", "ych", "ne", "n", "ssa", "lla", "lle"])
)  # fmt: skip
_SHORT_ID = 5
_FEWEST_FUZZY, _FUZZY_TWO = 6, 10


class _Target(NamedTuple):
    kind: str
    rule: str
    ordinary: bool


class StudyMatcher:
    """Finds the values of a study's headers in texts."""

    def __init__(self, identifiers: StudyIdentifiers) -> None:
        self.dates = identifiers.dates
        self._targets: dict[str, _Target] = {}
        self._numbers: dict[str, bool] = {}
        self._cjk: dict[str, str] = {}
        self._romanized: set[str] = set()
        self._patterns: list[re.Pattern[str]] = []
        self._initials: set[str] = set()
        self._address_words: dict[str, frozenset[str]] = {}
        for person in identifiers.people:
            self._add_person(person)
        for location in identifiers.locations:
            self._add_location(location)
        for number in identifiers.numbers:
            self._add_number(number)
        for text in identifiers.texts:
            self._add_text(text)
        self._prefixes = {
            one[:size]
            for one in (*self._targets, *self._numbers)
            for size in range(1, len(one) + 1)
        }
        self._fuzzy = [
            one for one, target in self._targets.items()
            if target.kind == "name" and not target.ordinary and len(one) >= _FEWEST_FUZZY
        ]  # fmt: skip
        self._stems: dict[str, list[str]] = {}
        for one, target in self._targets.items():
            if target.kind == "name" and not target.ordinary and len(one) >= 4:
                self._stems.setdefault(one[:3], []).append(one)

    # --- the dictionary

    def _add_person(self, person: str) -> None:
        for group in person.split("="):
            parts = [part for part in re.split(r"[\^,;()]+", group) if part.strip()]
            words = [word for part in parts for word in tokens(part)]
            plain = [word.plain for word in words]
            if not words or set(plain) <= _ANONYMOUS_WORDS:
                continue
            if CJK.search(group):
                self._add_cjk(parts)
                continue
            for word in words:
                if word.plain not in _ANONYMOUS_WORDS and not _is_number(word.plain):
                    self._add_word(word.plain, "name", "header name")
            for part in parts:
                joined = "".join(word.plain for word in tokens(part))
                if len(tokens(part)) > 1 and joined not in self._targets:
                    self._add_word(joined, "name", "header name")
            self._add_latin_forms(parts)

    def _add_latin_forms(self, parts: list[str]) -> None:
        """Initials, and the Chinese and kana spellings of a name in Latin letters."""
        names = [one for part in parts[:2] for one in tokens(part)[:1]]
        if len(names) == 2:
            first, second = names[0].text[0].upper(), names[1].text[0].upper()
            self._initials |= {first + second, second + first}
            family, given = ("".join(w.plain for w in tokens(part)) for part in parts[:2])
            found = han_pattern(family.lower() + given.lower(), surnames=_chinese_surnames())
            if found:
                pattern, size = found
                # Two syllables are also words; then the text has to say who is meant.
                before, after = ("", "") if size > 2 else _HAN_SIDES
                self._patterns.append(re.compile(f"{before}(?P<x>{pattern}){after}"))
            self._romanized |= {one for one in (family, given) if len(one) >= 4}
        elif len(parts) == 1 and len(tokens(parts[0])) == 1:
            self._romanized.add(tokens(parts[0])[0].plain)

    def _add_cjk(self, parts: list[str]) -> None:
        parts = [re.sub(r"\s+", "", part) for part in parts]
        if all(is_kana(part) for part in parts):
            self._romanized |= {romaji(part) for part in parts if len(part) >= 2}
        for part in ("".join(parts[:2]), *parts):
            if len(part) >= 2 and not is_kana(part):
                self._cjk.setdefault(part, "name")

    def _add_word(self, plain: str, kind: str, rule: str) -> None:
        if len(plain) < 2 or plain in _ANONYMOUS_WORDS:
            return
        ordinary = plain in ordinary_words() or plain in _DOTTED
        self._targets.setdefault(plain, _Target(kind, rule, ordinary))

    def _add_location(self, location: str) -> None:
        words = tokens(location)
        kept = frozenset(word.plain for word in words)
        if CJK.search(location) and len(location) >= 3:
            self._cjk.setdefault(re.sub(r"\s+", "", location), "location")
        for word in words:
            distinct = len(word.plain) >= 4 and word.plain not in ordinary_words()
            if distinct and not CJK.search(word.text) and not word.plain.isdigit():
                digits = any(map(str.isdigit, word.plain))
                if not digits or len(word.plain) >= _SHORT_ID:
                    self._targets.setdefault(
                        word.plain, _Target("location", "header location", False)
                    )
                    self._address_words[word.plain] = kept

    def _add_number(self, number: str) -> None:
        plain = re.sub(r"[\W_]+", "", number).casefold()
        digits = re.sub(r"\D", "", number)
        if not digits or set(digits) == {"0"} or len(plain) < 2:
            return
        for one in {plain, digits if len(digits) >= _SHORT_ID else plain}:
            one = one.lstrip("0")
            sure = len(one) >= _SHORT_ID and not (one.isdigit() and one.endswith("000"))
            self._numbers[one] = self._numbers.get(one, False) or sure

    def _add_text(self, text: str) -> None:
        """Capitalized words within a sentence of free text that no medical text writes."""
        for before, word in zip(words := tokens(text), words[1:], strict=False):
            starts = "." in text[before.end : word.start]
            title_case = word.capitalized and not word.all_capitals and word.text.isalpha()
            if title_case and not starts and len(word.text) >= 4 and not is_ordinary(word):
                self._targets.setdefault(word.plain, _Target("name", "header text", False))

    # --- the search

    def find(self, text: str, words: list[Token]) -> Iterator[IdentifierSpan]:
        """The spans of a text that the header names."""
        found = list(self._word_spans(text, words))
        names = {(span.start, span.end) for span, target in found if not target.ordinary}
        protected = long_eponym_spans(words)
        for span, target in found:
            if target.ordinary and not self._is_marked(
                text, words, span, names | {(s.start, s.end) for s, _ in found if s != span}
            ):
                continue
            if target.ordinary and any(a <= span.start and span.end <= b for a, b in protected):
                continue
            yield span
        for value, kind in self._cjk.items():
            start = text.find(value)
            while start >= 0:
                if len(value) > 2 or kind != "name" or _stands_alone(text, start, start + 2):
                    yield IdentifierSpan(start, start + len(value), kind, f"header {kind}")
                start = text.find(value, start + 1)
        for pattern in self._patterns:
            for match in pattern.finditer(text):
                yield IdentifierSpan(*match.span("x"), "name", "header name in Han characters")
        yield from self._initial_spans(text)

    def _word_spans(
        self, text: str, words: list[Token]
    ) -> Iterator[tuple[IdentifierSpan, _Target]]:
        i = 0
        while i < len(words):
            hit = self._longest(text, words, i)
            if hit:
                j, target = hit
                start, end = words[i].start, words[j].end
                if target.kind == "location":
                    start, end = self._address(text, words, i, j)
                yield IdentifierSpan(start, end, target.kind, target.rule), target
                i = j + 1
                continue
            yield from self._single(words[i])
            i += 1

    def _longest(self, text: str, words: list[Token], i: int) -> tuple[int, _Target] | None:
        """The longest run of words from `i` that, joined, is a value of the header."""
        joined, best = "", None
        for j in range(i, min(i + 24, len(words))):
            if j > i and not _GAP.fullmatch(text, words[j - 1].end, words[j].start):
                break
            joined += words[j].plain
            joined = joined.lstrip("0") if j == i or joined.isdigit() else joined
            if joined not in self._prefixes:
                # The fold of a whole differs from that of its parts only around digraphs.
                break
            target = self._targets.get(joined)
            if target and self._is_name_form(text, words, i, j, target, joined):
                best = j, target
            if joined in self._numbers and self._is_number_form(text, words, i, j, joined):
                best = j, _Target("id", "header number", False)
        return best

    def _is_name_form(
        self, text: str, words: list[Token], i: int, j: int, target: _Target, joined: str
    ) -> bool:
        if i == j:
            # Ng is a name, ng a unit, NG a tube.
            return len(joined) > 2 or words[i].text.istitle() or target.ordinary
        spaced = any(" " in text[words[k].end : words[k + 1].start] for k in range(i, j))
        plain = all(word.plain in ordinary_words() for word in words[i : j + 1])
        return not (spaced and plain and any(len(word.text) > 1 for word in words[i : j + 1]))

    def _is_number_form(self, text: str, words: list[Token], i: int, j: int, joined: str) -> bool:
        if not self._numbers[joined]:
            before = words[i - 1] if i else None
            gap = text[before.end : words[i].start] if before else ""
            marked = before is not None and before.plain in _NUMBER_MARKS
            return (
                marked
                and not gap.strip(" .:#")
                and not re.match(r"\s?(?:%|mm|cm|ml|of\b|/)", text[words[j].end :][:6])
            )
        return True

    def _single(self, word: Token) -> Iterator[tuple[IdentifierSpan, _Target]]:
        """A word that is nearly a name: declined, misspelt, or the start of a run of kana."""
        if is_kana(word.text):
            for size in range(len(word.text), 1, -1):
                if romaji(word.text[:size]) in self._romanized:
                    target = _Target("name", "header name in kana", False)
                    yield IdentifierSpan(word.start, word.start + size, "name", target.rule), target
                    return
            return
        plain = word.plain
        if len(plain) < 4 or plain in ordinary_words() or any(map(str.isdigit, plain)):
            return
        for name in self._stems.get(plain[:3], ()):
            if _same_stem(name, plain):
                target = _Target("name", "header name, declined", False)
                yield IdentifierSpan(word.start, word.end, "name", target.rule), target
                return
        if len(plain) >= _FEWEST_FUZZY - 1 and self._is_misspelt(plain):
            target = _Target("name", "header name, misspelt", False)
            yield IdentifierSpan(word.start, word.end, "name", target.rule), target

    def _is_misspelt(self, plain: str) -> bool:
        from rapidfuzz.distance import OSA

        for name in self._fuzzy:
            limit = 2 if len(name) >= _FUZZY_TWO else 1
            near = abs(len(name) - len(plain)) <= limit and name[0] == plain[0]
            if near and OSA.distance(name, plain, score_cutoff=limit) <= limit:
                return not has_clinical_ending(plain)
        return False

    def _address(self, text: str, words: list[Token], i: int, j: int) -> tuple[int, int]:
        """The words of an address around one of its own."""
        own = self._address_words.get(words[i].plain, frozenset())
        start, end, k = words[i].start, words[j].end, i - 1
        while k >= 0 and words[k].plain in own and _GAP.fullmatch(text, words[k].end, start):
            start, k = words[k].start, k - 1
        k = j + 1
        while (
            k < len(words) and words[k].plain in own and _GAP.fullmatch(text, end, words[k].start)
        ):
            end, k = words[k].end, k + 1
        return start, end

    def _is_marked(
        self, text: str, words: list[Token], span: IdentifierSpan, names: set[tuple[int, int]]
    ) -> bool:
        """Whether an ordinary word is a name here: next to another part of the name, or by form."""
        written = text[span.start : span.end]
        if not written[:1].isupper():
            return False
        for start, end in names:
            gap = text[end : span.start] if end <= span.start else text[span.end : start]
            near = len(gap) <= 2 and not gap.strip(" ,.-") and text[start].isupper()
            if near and ("." not in gap or end - start == 1):
                return True
        if any(word.plain in _hard_words() for word in words if word.start == span.start):
            return False
        i = next(k for k, word in enumerate(words) if word.start == span.start)
        if not i or (written.isupper() and len(written) > 1):
            return False
        before, after = words[i - 1], text[span.end : span.end + 1]
        if text[before.end : span.start] != " " or before.plain not in _MARKS:
            return False
        return after in ("", ",", ".", ";", ")") and before.text.islower()

    def _initial_spans(self, text: str) -> Iterator[IdentifierSpan]:
        if not self._initials:
            return
        for match in re.finditer(r"(?<![\w.])([A-Z])\.\s?([A-Z])\.(?!\s?[A-Z]\.)", text):
            pair = match[1] + match[2]
            if pair in self._initials and pair.lower() not in _DOTTED:
                yield IdentifierSpan(match.start(), match.end(), "name", "header initials")


# Characters before and after a name of two characters, which may also be (part of) a word.
_HAN_SIDES = "(?:(?<=患者)|(?<=病人)|(?<=姓名：)|(?<=姓名:)|(?<=姓名))", f"(?![{HAN}])"
_BEFORE_NAME, _AFTER_NAME = (
    "者人名由经请与和为氏",
    "因于的女男复主先医老教同来自述在是様さ氏は小大患术检",
)


def _stands_alone(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    if not CJK.match(before or " "):
        return not CJK.match(after or " ") or after in _AFTER_NAME
    return before in _BEFORE_NAME and (not CJK.match(after or " ") or after in _AFTER_NAME)


def _is_number(plain: str) -> bool:
    return any(map(str.isdigit, plain))


def _same_stem(name: str, word: str) -> bool:
    """Whether two words differ in endings alone, and the stem is most of the name."""
    size = 0
    while size < min(len(name), len(word)) and name[size] == word[size]:
        size += 1
    if size < max(4, len(name) - 3):
        return False
    return name[size:] in _ENDINGS and word[size:] in _ENDINGS


@cache
def _chinese_surnames() -> tuple[str, ...]:
    pack = next(pack for pack in load_packs() if pack.name == "zh")
    return (*pack.surnames, *pack.common_surnames)


@cache
def _hard_words() -> frozenset[str]:
    """Ordinary words that are never a name without a title: roles, sides, eponyms."""
    english = next(pack for pack in load_packs() if pack.name == "en")
    return english.never | frozenset(
        word for phrase in eponyms() if len(phrase) == 1 for word in phrase
    )
