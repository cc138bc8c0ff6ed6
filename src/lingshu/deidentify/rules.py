"""Identifiers that words around them announce: after titles, labels and cues, and in fixed forms.

The kinds follow the identifiers of the US HIPAA Safe Harbor list (45 CFR 164.514(b)(2)). The words
are in the rule packs (packs/*.toml), one file a language; all packs read every text, because
reports mix languages. Work is linear in the length of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from lingshu.deidentify.names import (
    name_end,
    names_without_label,
    particles,
    starts_long_eponym,
    title_words,
)
from lingshu.deidentify.packs import (
    PatternRule,
    RulePack,
    load_packs,
    ordinary_words,
)
from lingshu.deidentify.spans import IdentifierSpan
from lingshu.deidentify.words import (
    CJK,
    HAN,
    KANA,
    Token,
    has_clinical_ending,
    tokens,
)

_KANA_RUN = re.compile("[\u3041-\u30fc]")
_CONTEXT = 60  # characters before a match that can rule it out
_MAX_PHRASE_WORDS = 5
_PHRASE_GAP = re.compile(r"[\s./'’°ªº-]{0,3}")
_COLON = re.compile(r"[ \t\u00a0]*(?:\([^()\n]{1,20}\)[ \t]*)?\.?[ \t\u00a0]*[:：=][ \t\u00a0]*")
_OPEN = re.compile(r"\.?[ \t\u00a0]*(?:[,(\[–-][ \t]*)?")
_NUMBER = re.compile(
    r"\.?\s{0,3}(?:\([A-Z]{2,6}\)|\))?\s{0,3}(?:(?:is|was|est|étant|ist|lautet|es|le|the|no|nos|number|nummer|nr|num|n[°º])\b\.?\s{0,3}){0,2}"
    r"[°º:#=：]{0,2}\s{0,3}#?\s{0,2}"
    r"(?P<x>[A-Za-z]{0,6}[-_/]?\d[\w/-]{0,30}(?:(?:[ .]|-)\d[\w-]{0,12}){0,7})",
)
_CONTACT = re.compile(
    r"\.?\s{0,3}(?:(?:no|number|us|me|at|on|is|was|nr)\b\.?\s{0,3}){0,2}[:：#=]?\s{0,3}"
    r"(?P<x>[+(]?\d[\d\s()./-]{1,20}\d)(?!\s*(?:mm|cm|ml|mg|%|am\b|pm\b|h\b))",
    re.I,
)
_ACCESSIONS = re.compile(
    r"genbank|\bGEO\b|NCBI|\bPDB\b|EMBL|uniprot|database|sequence|GSE|dbSNP|ensembl", re.I
)
# Labels that are also words of reports: a number after them needs as many digits.
_MIN_DIGITS = {
    "mr": 5, "exam": 5, "record": 5, "chart": 4, "id": 4, "acc": 4, "lot": 4, "sn": 4, "fin": 5, "chi": 6,
    "fall": 5, "dossier": 4, "historia": 4, "lote": 4, "colegiado": 4, "hc": 4, "account": 4, "ins": 6,
    "nhs": 6, "episodio": 4, "akte": 4, "serial": 4, "policy": 4, "avs": 6, "medicare": 4, "udi": 6,
    "accession": 3, "file": 4, "uid": 4,
}  # fmt: skip
_MIN_CONTACT = {
    "call": 7,
    "called to": 7,
    "contact": 7,
    "ring": 5,
    "dial": 4,
    "x": 4,
    "results to": 7,
    "results called to": 7,
    "results": 7,
    "reach at": 7,
    "poste": 3,
    "busca": 3,
    "dw": 3,
    "funk": 3,
}
# Words at the end of a letter, before its signature.
_CLOSINGS = frozenset(
    (
        "regards",
        "sincerely",
        "mit freundlichen grüßen",
        "hochachtungsvoll",
        "cordialement",
        "atentamente",
    )
)


class _Phrase(NamedTuple):
    kind: str
    pack: str
    text: str


def find_identifiers(text: str, words: list[Token]) -> Iterator[IdentifierSpan]:
    """The spans of a text that its own words mark as identifiers; dates are in dates.py."""
    has_cjk = CJK.search(text) is not None
    has_digit = any(char.isdigit() for char in text)
    for pack in load_packs():
        if not pack.is_cjk:
            yield from _pattern_spans(pack, text, has_digit=has_digit)
        elif has_cjk:
            yield from _pattern_spans(pack, text, has_digit=True)
    yield from _phrase_spans(text, words)
    yield from names_without_label(text, words)
    if has_cjk:
        japanese = _KANA_RUN.search(text) is not None
        for pack in load_packs():
            if pack.is_cjk and (pack.name == "ja" or not japanese):
                yield from _cjk_spans(pack, text, japanese=japanese)


# --- fixed forms


def _pattern_spans(pack: RulePack, text: str, *, has_digit: bool) -> Iterator[IdentifierSpan]:
    for rule in pack.patterns:
        if not has_digit and _needs_digit(rule):
            continue
        for match in rule.pattern.finditer(text):
            digits = sum(map(str.isdigit, match["x"]))
            if not rule.min_digits <= digits <= rule.max_digits:
                continue
            start = max(0, match.start() - _CONTEXT)
            if rule.exclude and rule.exclude.search(text[start : match.end()]):
                continue
            yield IdentifierSpan(*match.span("x"), rule.kind, rule.name)


@cache
def _needs_digit(rule: PatternRule) -> bool:
    return rule.kind in ("phone", "id") or (
        rule.kind == "age" and re.search(r"\\d", rule.pattern.pattern) is not None
    )


# --- titles, labels and cues


@cache
def _phrases() -> dict[tuple[str, ...], list[_Phrase]]:
    """Every marking phrase of the packs with spaces, by its plain words."""
    table: dict[tuple[str, ...], list[_Phrase]] = {}
    for pack in load_packs():
        for kind, phrases in pack.phrases.items():
            for phrase in phrases if not pack.is_cjk else ():
                key = tuple(token.plain for token in tokens(phrase))
                entry = _Phrase(kind, pack.name, phrase)
                known = table.setdefault(key, [])
                if all(one.kind != kind or pack.institution_first for one in known):
                    table[key].append(entry)
    return table


@cache
def _phrase_starts() -> frozenset[str]:
    return frozenset(key[0] for key in _phrases())


def _phrase_spans(text: str, words: list[Token]) -> Iterator[IdentifierSpan]:
    starts, table = _phrase_starts(), _phrases()
    for i, word in enumerate(words):
        if word.plain not in starts:
            continue
        key: list[str] = []
        for j in range(i, min(i + _MAX_PHRASE_WORDS, len(words))):
            if j > i and not _PHRASE_GAP.fullmatch(text, words[j - 1].end, words[j].start):
                break
            key.append(words[j].plain)
            for phrase in table.get(tuple(key), ()):
                yield from _after_phrase(text, words, i, j, phrase)


def _after_phrase(
    text: str, words: list[Token], first: int, last: int, phrase: _Phrase
) -> Iterator[IdentifierSpan]:
    rule = f"{phrase.pack} {phrase.kind}: {phrase.text}"
    end = words[last].end
    if phrase.kind == "number":
        yield from _number_after(text, words[first].start, end, phrase, rule)
    elif phrase.kind == "contact":
        match = _CONTACT.match(text, end)
        if match:
            digits = sum(map(str.isdigit, match["x"]))
            if _MIN_CONTACT.get(phrase.text, 4) <= digits <= 15:
                yield IdentifierSpan(*match.span("x"), "phone", rule)
    elif phrase.kind == "institution":
        yield from _institution(text, words, first, last, phrase, rule)
    elif phrase.kind == "location":
        yield from _location_after(text, words, last, rule)
    else:
        yield from _name_after(text, words, first, last, phrase, rule)


def _number_after(
    text: str, start: int, end: int, phrase: _Phrase, rule: str
) -> Iterator[IdentifierSpan]:
    match = _NUMBER.match(text, end)
    if not match:
        return
    value = match["x"].rstrip("-/_ ")
    # A value ends where ordinary words begin; groups of digits belong to it.
    digits = sum(map(str.isdigit, value))
    marked = re.search(r"[:#=：]", text[end : match.start("x")]) is not None
    low = _MIN_DIGITS.get(phrase.text, 3) if not marked else 3
    if digits < low or (
        not marked and re.fullmatch(r"(?:19|20)\d\d|\d+[.,]\d+|\d{1,2}/\d{1,2}", value)
    ):
        return
    if _ACCESSIONS.search(text[max(0, start - _CONTEXT) : match.end()]):
        return
    yield IdentifierSpan(match.start("x"), match.start("x") + len(value), "id", rule)


def _name_after(
    text: str, words: list[Token], first: int, last: int, phrase: _Phrase, rule: str
) -> Iterator[IdentifierSpan]:
    token = words[last]
    level: str | None = phrase.kind
    if phrase.kind == "title":
        level = _title_level(text, words[first], token, phrase)
        if level is None or starts_long_eponym(words, first):
            return
    colon = _COLON.match(text, token.end)
    gap = colon or _OPEN.match(text, token.end)
    assert gap is not None, "the pattern matches nothing too"
    if phrase.kind == "label":
        if not colon:
            return
    elif (
        ("," in gap[0] and phrase.text not in _CLOSINGS)
        or (phrase.kind == "cue" and "(" in gap[0] and not colon)
        or ("." in gap[0] and len(token.text) > 4)
        or (phrase.text == "pt" and token.text.isupper() and not text.isupper())
    ):
        return
    # The next words may be more titles: Frau Kollegin, Hr. OA, Dr. med.
    i = last + 1
    while i < min(last + 5, len(words)) and _is_more_title(words[i]):
        if len(text[words[i - 1].end : words[i].start]) > 3:
            return
        i += 1
    if i >= len(words) or (i == last + 1 and words[i].start != gap.end()):
        return
    lower = colon is not None or (level == "title" and not token.all_capitals)
    end = name_end(text, words, i, level, lower=lower)
    if phrase.text == "d" and end == i:
        return
    if end is not None:
        yield IdentifierSpan(words[i].start, words[end].end, "name", rule)
        yield from _more_names(text, words, end, rule)


def _title_level(text: str, first: Token, last: Token, phrase: _Phrase) -> str | None:
    """How sure a title is: a sure one makes a name of an ordinary word; None where it is none.

    Titles that are also units, words or letters need their capital, their dot or a following name
    that is no ordinary word.
    """
    before = text[max(0, first.start - 3) : first.start].rstrip()[-1:]
    written, after = last.text, text[last.end : last.end + 1]
    if after == "-" or ("ñ" in phrase.text and "n" in written.lower()):
        return None
    if phrase.text in _SURE_TITLES:
        return "title"
    if phrase.text in ("m", "d"):
        return "cue" if after == "." and written.isupper() and before != "." else None
    if phrase.text in ("oa", "oä", "ca", "fa", "aa", "fä"):
        return "cue" if written.isupper() else None
    if (before.isdigit() and len(written) == 2) or written.isupper() or not first.text[0].isupper():
        return None
    return "cue"


_SURE_TITLES = frozenset({
    *["dr", "drs", "mr", "mrs", "ms", "miss", "mister", "prof", "professor", "herr", "herrn", "hrn", "frau", "monsieur", "madame", "mademoiselle", "mme", "mlle"],
    *["docteur", "señora", "señor", "doña", "dña", "dra", "sra", "srta", "doctora"],
    "le dr", "le pr", "la dre", "la dra", "el dr", "dr med", "prof dr", "prof dr med", "frau kollegin", "herr kollege", "frau dr",
    "herr dr", "fr dr", "hr oa", "mr and mrs",
})  # fmt: skip


def _is_more_title(word: Token) -> bool:
    return word.plain in title_words() and (word.capitalized or word.plain in ("med", "dr"))


def _more_names(text: str, words: list[Token], end: int, rule: str) -> Iterator[IdentifierSpan]:
    """Further names of a list: Drs. A, B and C."""
    for _ in range(4):
        i = end + 1
        gap = text[words[end].end : words[i].start] if i < len(words) else "\n"
        if (
            i < len(words)
            and words[i].plain in ("and", "und", "et", "y", "e")
            and not gap.strip(" ,")
        ):
            i += 1
        elif gap.strip() != ",":
            return
        if (
            i >= len(words)
            or not words[i].capitalized
            or text[words[i - 1].end : words[i].start].strip(" ,")
        ):
            return
        more = name_end(text, words, i, "cue", lower=False)
        if more is None:
            return
        yield IdentifierSpan(words[i].start, words[more].end, "name", rule)
        end = more


# --- locations


def _institution(
    text: str, words: list[Token], first: int, last: int, phrase: _Phrase, rule: str
) -> Iterator[IdentifierSpan]:
    """The name of a hospital: capitalized words around "Hospital", one of them not ordinary."""
    if not words[last].capitalized or len(words[first].text) < 3:
        return
    pack = next(pack for pack in load_packs() if pack.name == phrase.pack)
    before = _institution_words(text, words, first, -1)
    follows = pack.institution_first or phrase.pack == "de"
    after = _institution_words(text, words, last, 1) if follows else []
    for run in (before, after):
        named = [word for word in run if not _is_plain(word)]
        saint = (
            any(word.plain in ("st", "saint", "san", "santa", "sankt") for word in run)
            and len(run) > 1
        )
        if named or saint:
            start = min(words[first].start, run[0].start, run[-1].start)
            yield IdentifierSpan(
                start, max(words[last].end, run[0].end, run[-1].end), "location", rule
            )


def _is_plain(word: Token) -> bool:
    return (
        word.plain in ordinary_words()
        or word.plain in particles()
        or len(word.text) < 3
        or has_clinical_ending(word.plain)
    )


def _institution_words(text: str, words: list[Token], at: int, step: int) -> list[Token]:
    run: list[Token] = []
    i = at + step
    while 0 <= i < len(words) and len(run) < 6:
        word, near = words[i], words[i - step]
        low, high = (word.end, near.start) if step < 0 else (near.end, word.start)
        gap = text[low:high]
        if gap.strip(" -'’") and not (gap.strip() == "." and word.plain in ("st", "ste")):
            break
        linking = word.plain in particles() or (
            step < 0 and word.plain in ("of", "and", "for", "s")
        )
        if (
            word.plain in _NOT_OF_INSTITUTIONS
            or not (word.capitalized or linking)
            or any(map(str.isdigit, word.text))
        ):
            break
        run.append(word)
        i += step
    while run and not run[-1].capitalized:
        run.pop()
    return run


_NOT_OF_INSTITUTIONS = frozenset(
    [
        "from",
        "to",
        "at",
        "the",
        "in",
        "seen",
        "by",
        "transferred",
        "prior",
        "outside",
        "aus",
        "dem",
        "vom",
        "du",
        "au",
        "desde",
        "por",
    ]
)


def _location_after(
    text: str, words: list[Token], last: int, rule: str
) -> Iterator[IdentifierSpan]:
    i = last + 1
    while (
        i < len(words)
        and words[i].plain in ("the", "dem", "der", "la", "le", "el", "in", "a")
        and not words[i].capitalized
    ):
        i += 1
    if i >= len(words) or text[words[i - 1].end : words[i].start].strip(" :"):
        return
    end = None
    for j in range(i, min(i + 4, len(words))):
        word = words[j]
        gap = text[words[j - 1].end : word.start]
        if j > i and gap.strip(" -'’"):
            break
        if not word.capitalized or any(map(str.isdigit, word.text)):
            break
        if _is_plain(word) or set(word.plain) == {"x"}:
            break
        end = j
    if end is not None:
        yield IdentifierSpan(words[i].start, words[end].end, "location", rule)


# --- Chinese and Japanese: a name needs a surname and a boundary, for there are no spaces


class _CjkRules(NamedTuple):
    titled: re.Pattern[str]
    labeled: re.Pattern[str]
    cued: re.Pattern[str]
    numbered: re.Pattern[str]
    contact: re.Pattern[str]
    institution: re.Pattern[str]
    not_name: re.Pattern[str]
    not_institution: tuple[str, ...]


@cache
def _cjk_rules(name: str) -> _CjkRules:
    pack = next(pack for pack in load_packs() if pack.name == name)
    surnames = "|".join(pack.surnames)
    titles = "|".join(pack.phrases["title"])
    common = (
        f"|(?:(?<=[，,。；;：:、\\s（(请由经与和者人])|^)[{pack.common_surnames}]"
        if pack.common_surnames
        else ""
    )
    given = (
        f"[{HAN}]{{1,2}}?"
        if name == "zh"
        else f"[ \u3000]?[{HAN}\u3041-\u3096\u30a1-\u30fc]{{1,3}}?"
    )
    titled = f"(?P<x>(?:{surnames}{common})(?:{given})?)[ \u3000]?(?=(?:{titles})(?!素))"
    value = (
        f"[{HAN}·]{{2,4}}"
        if name == "zh"
        else f"[{HAN}\u3041-\u3096\u30a1-\u30fc]{{1,6}}(?:[ \u3000][{HAN}\u3041-\u3096\u30a1-\u30fc]{{1,4}})?"
    )
    labels = "|".join(pack.phrases["label"])
    cues = "|".join(pack.phrases["cue"])
    full = f"(?:{surnames}{'|[' + pack.common_surnames + ']' if pack.common_surnames else ''})(?:{given})"
    stop = "(?=[，,。；;：:、（(\\s]|$|因|于|复查|来诊|女|男|自述|主诉|审核|报告|阅片|会诊|は|が|の|に|より|を)"
    number = "[A-Za-z]{0,4}[-_]?\\d[A-Za-z\\d_-]{0,24}(?: \\d{2,8}){0,3}"
    locations = "|".join(pack.phrases["institution"])
    return _CjkRules(
        re.compile(titled),
        re.compile(
            f"(?:{labels})\\s*(?:[:：]\\s*|[ \u3000]+)(?:[{HAN}]{{1,6}}(?:技師|医師|医|長)[ \u3000])?"
            f"(?P<x>(?:Dr\\.?\\s?)?(?P<n>{value})(?:[（(][{KANA}A-Za-z \u3000]{{3,24}}[)）])?)"
        ),
        re.compile(f"(?:{cues})[ \u3000]?(?P<x>{full}){stop}"),
        re.compile(
            f"(?:{'|'.join(pack.phrases['number'])})\\s*(?:[:：是为は]\\s*)?(?P<x>{number})"
        ),
        re.compile(
            f"(?:{'|'.join(pack.phrases['contact'])})\\s*(?:[:：是为は]\\s*)?(?P<x>[+(]?\\d[\\d\\s()-]{{2,18}}\\d|[A-Za-z][\\w-]{{4,24}})"
        ),
        re.compile(
            f"(?P<x>(?:(?![{pack.not_in_institutions}])[{HAN}\u30a1-\u30fc]){{2,12}}?(?:第[一二三四五六七八九十\\d]{{1,2}})?(?:{locations}))"
        ),
        re.compile("|".join(pack.not_names) or "(?!)"),
        tuple(pack.not_institutions),
    )


def _cjk_spans(pack: RulePack, text: str, *, japanese: bool) -> Iterator[IdentifierSpan]:
    rules = _cjk_rules(pack.name)
    for kind, pattern in (
        ("titled", rules.titled),
        ("labeled", rules.labeled),
        ("cued", rules.cued),
    ):
        for match in pattern.finditer(text):
            value = match["n" if kind == "labeled" else "x"]
            if rules.not_name.match(value) or (
                kind == "labeled" and not _is_cjk_name(value, pack, text, match)
            ):
                continue
            yield IdentifierSpan(*match.span("x"), "name", f"{pack.name} name {kind}")
    for match in rules.numbered.finditer(text):
        yield IdentifierSpan(*match.span("x"), "id", f"{pack.name} number")
    for match in rules.contact.finditer(text):
        yield IdentifierSpan(*match.span("x"), "phone", f"{pack.name} contact")
    # Names of hospitals are read by the grammar of one language.
    for match in rules.institution.finditer(text) if japanese == (pack.name == "ja") else ():
        start = match.start("x") + _plain_prefix(match["x"], rules.not_institution)
        plain = text[start : match.end("x")]
        if len(plain) > 3:
            yield IdentifierSpan(start, match.end("x"), "location", f"{pack.name} institution")


def _plain_prefix(value: str, prefixes: tuple[str, ...]) -> int:
    """The characters before the name of a hospital that belong to the sentence."""
    cut = 0
    while True:
        size = next((len(p) for p in prefixes if value.startswith(p, cut)), 0)
        if not size:
            return cut
        cut += size


def _is_cjk_name(value: str, pack: RulePack, text: str, match: re.Match[str]) -> bool:
    """Whether what follows a label begins as a name does."""
    first = value[:1]
    known = any(value.startswith(name) for name in pack.surnames) or first in pack.common_surnames
    return known and not text.startswith(("者", "員", "师"), match.end("x"))
