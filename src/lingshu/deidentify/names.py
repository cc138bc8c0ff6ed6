"""Names of people in scripts with spaces: where a name ends, and names that no label announces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from lingshu.deidentify.packs import also_names, load_packs, never_names, ordinary_words
from lingshu.deidentify.spans import IdentifierSpan
from lingshu.deidentify.words import (
    CJK,
    Token,
    eponym_words,
    eponyms,
    fold,
    given_names,
    has_clinical_ending,
)

_MAX_NAME_WORDS = 6
_EPONYM_NOUNS = frozenset(map(fold, ["disease", "syndrome", "sign", "cyst", "fracture", "lesion", "tumor", "tumour", "palsy", "chorea", "lymphoma", "sarcoma", "neuroma", "node", "nodes", "shunt", "catheter", "tube", "drain", "line", "filter", "valve", "prosthesis", "procedure", "operation", "incision", "maneuver", "manoeuvre", "position", "classification", "score", "scale", "criteria", "grade", "type", "stage", "stain", "units", "ligament", "duct", "gland", "pouch", "fascia", "canal", "contracture", "defect", "deformity", "dislocation", "hernia", "nodule", "arteritis", "thyroiditis", "dementia", "malformation", "tetralogy", "ataxia", "paralysis", "phenomenon", "test", "reflex", "view", "angle", "line", "triangle", "ring", "esophagus", "diverticulum", "body", "bodies", "cells", "fluid", "lactate", "pacemaker", "scanner", "rod", "rods", "wire", "wires", "society", "type"]))  # fmt: skip


def is_ordinary(word: Token) -> bool:
    """Whether a word is no sign of a name by itself."""
    return word.plain in ordinary_words() or has_clinical_ending(word.plain)


def name_end(text: str, words: list[Token], start: int, level: str, *, lower: bool) -> int | None:
    """The index of the last word of a name that begins at word `start`, None if there is none.

    After a title one ordinary word in capitals is a name; otherwise one of the words must be no
    ordinary word, or all of them must be ordinary words that are names too.
    """
    last, distinct, named = None, 0, 0
    for i in range(start, min(start + _MAX_NAME_WORDS, len(words))):
        word = words[i]
        gap = text[words[i - 1].end : word.start] if i > start else ""
        if i > start and not _continues(gap, words[i - 1], word, level):
            break
        if word.plain in particles() and _leads_to_name(words, i):
            continue
        if len(word.text) == 1 and word.text.isupper() and not CJK.match(word.text):
            last = last if last is None else i
            continue
        if _ends_name(text, words, i, start, level):
            break
        ordinary = is_ordinary(word)
        if not word.capitalized:
            if (
                ordinary
                or not lower
                or len(word.text) < 3
                or i > start + 1
                or words[start].capitalized
            ):
                break
        elif ordinary:
            also = word.plain in also_names() or word.plain in eponym_words()
            follows = last is not None and gap == " " and not word.all_capitals
            if (
                not also
                and not (level == "title" and (last is None or follows))
                and not (level == "label" and follows)
            ):
                break
        named += ordinary
        distinct += not ordinary
        last = i
    if last is None or _is_eponym(words, start, last, level):
        return None
    sure = distinct or (level == "title" and named) or (level == "label" and named >= 2)
    return last if sure else None


def _ends_name(text: str, words: list[Token], i: int, start: int, level: str) -> bool:
    """Whether a word can be no part of a name, whatever stands around it."""
    word = words[i]
    if len(word.text) == 1 or CJK.match(word.text) or any(map(str.isdigit, word.text)):
        return True
    # IU X-ray writes XXXX where a name was.
    if word.plain in never_names() or word.plain in title_words() or set(word.plain) == {"x"}:
        return True
    if i > start:
        degree = word.plain in _credentials() and word.all_capitals
        return degree or text[word.end : word.end + 2].lstrip()[:1] in (":", "：", "=")
    short = word.all_capitals and len(word.text) <= 5
    return level == "cue" and short and not _in_capitals(text, word)


def _in_capitals(text: str, word: Token) -> bool:
    """Whether the words around one are in capitals too, so that they say nothing."""
    around = text[max(0, word.start - 24) : word.start] + text[word.end : word.end + 24]
    return not any(map(str.islower, around))


def _continues(gap: str, before: Token, word: Token, level: str) -> bool:
    """Whether two words can belong to one name, by what is between them."""
    if "\n" in gap or len(gap) > 3:
        return False
    if "." in gap:
        return len(before.text) <= 2 and not gap.strip(". ")
    if "," in gap:
        return (
            level == "label" or (before.all_capitals and word.all_capitals) or len(word.text) == 1
        )
    return not gap.strip(" \u00a0'’-")


def _leads_to_name(words: list[Token], i: int) -> bool:
    """Whether a particle is followed by a name: "van den Berg", but not "de la lesión"."""
    for word in words[i + 1 : i + 4]:
        if word.plain not in particles():
            return word.capitalized and word.plain not in never_names()
    return False


def _is_eponym(words: list[Token], start: int, last: int, level: str) -> bool:
    after = words[last + 1].plain if last + 1 < len(words) else ""
    name = tuple(word.plain for word in words[start : last + 1])
    return (
        level != "label"
        and after in _EPONYM_NOUNS
        and (name in eponyms() or level != "title" or name[-1:] in eponyms())
    )


@cache
def title_words() -> frozenset[str]:
    """Folded titles of one word, and what may follow one (Dr. med.)."""
    phrases = (phrase for pack in load_packs() for phrase in pack.phrases["title"])
    titles = {fold(phrase) for phrase in phrases if " " not in phrase}
    return frozenset(titles | {"med", "univ", "dent", "habil", "dipl"}) - {"d", "m"}


@cache
def particles() -> frozenset[str]:
    """Folded parts of names in lower case."""
    return frozenset(word for pack in load_packs() for word in pack.particles)


@cache
def _credentials() -> frozenset[str]:
    return frozenset(word for pack in load_packs() for word in pack.credentials)


@cache
def _verbs() -> frozenset[str]:
    return frozenset(word for pack in load_packs() for word in pack.verbs)


def names_without_label(text: str, words: list[Token]) -> Iterator[IdentifierSpan]:
    """Names without a word before them: before credentials or verbs, and LAST, FIRST."""
    for i, word in enumerate(words):
        if word.plain in _credentials() and (
            word.text.isupper() or word.plain in ("phd", "mbchb", "pharmd")
        ):
            yield from _before_credentials(text, words, i)
        elif word.plain in _verbs() and i:
            yield from _before_verb(text, words, i)
        if word.plain in given_names() and word.capitalized:
            yield from _around_given_name(text, words, i)
    yield from _last_first(text, words)


def _before_credentials(text: str, words: list[Token], i: int) -> Iterator[IdentifierSpan]:
    """Given and family name before ", MD": at least one of them is not an ordinary word."""
    start, j, distinct = i, i - 1, 0
    while j >= 0 and i - j <= 5:
        word = words[j]
        gap = text[word.end : words[j + 1].start]
        if (
            "\n" in gap
            or gap.strip(" ,.'’-")
            or ("." in gap and len(word.text) > 1 and word.plain != "m")
        ):
            break
        if j < i - 1 and "," in gap and not word.all_capitals:
            break
        particle = word.plain in particles() and start < i
        initial = len(word.text) == 1 and word.text.isupper()
        name = (
            word.capitalized
            and len(word.text) > 1
            and word.plain not in never_names()
            and word.text.isalpha()
        )
        if name and is_ordinary(word) and word.plain not in also_names():
            name = False
        if not (particle or initial or name):
            break
        distinct += name and not is_ordinary(word)
        start, j = j, j - 1
    if start < i - 1 and distinct:
        last = max(k for k in range(start, i))
        yield IdentifierSpan(words[start].start, words[last].end, "name", "name before a degree")


def _before_verb(text: str, words: list[Token], i: int) -> Iterator[IdentifierSpan]:
    word = words[i - 1]
    begins = i == 1 or text[words[i - 2].end : word.start].strip() in (".", ";", ":")
    alone = begins and text[word.end : words[i].start] == " " and words[i].text.islower()
    name = word.capitalized and not word.all_capitals and word.text.isalpha()
    if alone and name and not is_ordinary(word):
        yield IdentifierSpan(word.start, word.end, "name", "name before a verb")


def _around_given_name(text: str, words: list[Token], i: int) -> Iterator[IdentifierSpan]:
    """A given name and the family name next to it, in either order: Anna Kern, KERN Anna."""
    for j in (i + 1, i - 1):
        if not 0 <= j < len(words) or starts_long_eponym(words, min(i, j)):
            continue
        first, second = sorted((words[i], words[j]))
        gap = text[first.end : second.start]
        if gap not in (" ", "  ") and not (gap == ", " and first.all_capitals):
            continue
        after = words[max(i, j) + 1].plain if max(i, j) + 1 < len(words) else ""
        if after not in _EPONYM_NOUNS and _is_family_name(words[j], words[i]):
            rule = "name with a given name"
            yield IdentifierSpan(first.start, second.end, "name", rule)


def _is_family_name(word: Token, given: Token) -> bool:
    """Whether a word can be the family name of a given name next to it."""
    if not word.capitalized or len(word.text) < 2 or not word.text.isalpha():
        return False
    if word.plain in never_names() or word.plain in title_words() or CJK.match(word.text):
        return False
    if not is_ordinary(word):
        return True
    surname = word.plain in eponym_words() or word.plain in also_names()
    return surname and not is_ordinary(given) and not word.all_capitals


_LAST_FIRST = re.compile(
    r"^\s*(?P<x>[A-Z][A-Z'’-]{2,30},\s?[A-Z][A-Z'’-]{1,30}(?:\s[A-Z]\.?)?)(?=\s*(?:[-–:(|]|$))",
    re.M,
)


def _last_first(text: str, words: list[Token]) -> Iterator[IdentifierSpan]:
    for match in _LAST_FIRST.finditer(text):
        inside = [word for word in words if match.start("x") <= word.start < match.end("x")]
        if any(not is_ordinary(word) for word in inside if len(word.text) > 1):
            yield IdentifierSpan(*match.span("x"), "name", "LAST, FIRST at the start of a line")


def long_eponym_spans(words: list[Token]) -> list[tuple[int, int]]:
    """Where the text writes an eponym of several words: Le Fort, Ann Arbor, Sister Mary Joseph."""
    found = ((word, starts_long_eponym(words, i)) for i, word in enumerate(words))
    return [(word.start, words[size - 1].end) for word, size in found if size]


def starts_long_eponym(words: list[Token], i: int) -> int:
    """The index after an eponym of several words that begins at word `i`, 0 if there is none."""
    for phrase in _long_eponyms().get(words[i].plain, ()):
        if tuple(one.plain for one in words[i : i + len(phrase)]) == phrase:
            return i + len(phrase)
    return 0


@cache
def _long_eponyms() -> dict[str, list[tuple[str, ...]]]:
    table: dict[str, list[tuple[str, ...]]] = {}
    for phrase in eponyms():
        if len(phrase) > 1:
            table.setdefault(phrase[0], []).append(phrase)
    return table
