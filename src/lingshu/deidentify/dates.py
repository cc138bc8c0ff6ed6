"""Dates in every written form, to be removed, or shifted with their form and intervals kept.

A year alone does not identify. A day and a month without a year, or two digits for a year, count
where the words around them mark a date: 3/5 is also a strength and 12/10/98 a size.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from operator import attrgetter
from typing import NamedTuple

from lingshu.deidentify.packs import load_packs
from lingshu.deidentify.words import Token, fold

_HAN_DIGITS = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "○": 0, "元": 1}
# The first years of the Japanese eras, less one.
_ERAS = {
    "令和": 2018, "平成": 1988, "昭和": 1925, "大正": 1911, "明治": 1867,
    "R": 2018, "H": 1988, "S": 1925, "T": 1911,
}  # fmt: skip
_NUMERIC = re.compile(
    r"(?<![A-Za-z0-9_./-])(?P<a>\d{1,4})(?P<s>[./|-]| \. )(?P<b>\d{1,2})(?P=s)(?P<c>\d{4}|\d\d)"
    r"(?![A-Za-z0-9_/-]|\.\d)(?=(?:[\sT]+\d|[^\d]|$))"
)
_ISO_TIME = re.compile(r"(?<![\w./-])(?P<a>\d{4})(?P<s>-)(?P<b>\d\d)-(?P<c>\d\d)(?=T\d)")
_COMPACT = re.compile(r"(?<!\d)((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?!\d)")
_COMPACT_DAY_FIRST = re.compile(r"(?<!\d)(0[1-9]|[12]\d|3[01])(0[1-9]|1[0-2])((?:19|20)\d\d)(?!\d)")
_DAY_MONTH = re.compile(r"(?<![\w./-])(\d{1,2})([/.])(\d{1,2})(\.?)(?![\w/]|[.-]\d)")
_CJK_DATE = re.compile(
    r"(?:(?P<era>令和|平成|昭和|大正|明治)\s?)?(?P<y>[\d〇零○一二三四五六七八九元]{1,4})\s?年"
    r"(?:\s?(?P<m>[\d一二三四五六七八九十]{1,3})\s?月"
    r"(?:\s?(?P<d>[\d一二三四五六七八九十]{1,3})\s?[日号])?)?"
    r"|(?<![\d一二三四五六七八九十])(?P<m2>[\d一二三四五六七八九十]{1,3})\s?月"
    r"\s?(?P<d2>[\d一二三四五六七八九十]{1,3})\s?[日号]"
)
_ERA_SHORT = re.compile(r"(?<![\w.])([RHST])(\d{1,2})\.(\d{1,2})\.(\d{1,2})(?![\d.])")
_UNIT = re.compile(
    r"\s*(?:mm|cm|ml|mg|kg|iu|%|x\b|×|gy|hu|units?|patients|cases|slices|lesions?|nodules?"
    r"|voxels|months|weeks|days|hours|st\b|nd\b|rd\b|th\b)",
    re.I,
)
_ENDS = re.compile(r"\s*(?:$|[.,;:)(\]\n/–-]|[A-ZÀ-Ý]|and\b|et\b|und\b|y\b|at \d|\d\d?[:h]\d\d)")
# Month names that are also words or units: not a date in lower case without a year.
_AMBIGUOUS = frozenset(
    map(fold, ("may", "mar", "march", "mars", "mai", "set", "ago", "out", "dec"))
)
_STRENGTHS = (2, 3, 5, 6, 10)


class DateSpan(NamedTuple):
    """A date in a text: its characters, its day, and its text for another day.

    `day` is None where the text names no day; `render` is None where the form cannot be kept.
    """

    start: int
    end: int
    day: date | None
    render: Callable[[date], str] | None = None


def find_dates(
    text: str, words: list[Token], known: frozenset[date] = frozenset()
) -> list[DateSpan]:
    """The dates of a text, in order; `known` are those of the study's header, in any form."""
    found: list[DateSpan] = []
    if any(c.isdigit() for c in text):
        found += _numeric(text, words, known)
    plain = {word.plain for word in words}
    names = month_names()
    if not plain.isdisjoint(names) or re.search(r"\d[A-Za-z]{3}\d", text):
        found += _named(text, words, known)
    if "年" in text or "月" in text or _ERA_SHORT.search(text):
        found += _cjk(text)
    found.sort(key=lambda one: (one.start, -one.end))
    return [s for i, s in enumerate(found) if not any(o.end > s.start for o in found[:i])]


def shift_text(span: DateSpan, days: int) -> str | None:
    """The text of a date `days` later, None where it has no day or its form cannot be kept."""
    if span.day is None or span.render is None:
        return None
    return span.render(span.day + timedelta(days=days))


# --- digits


def _numeric(text: str, words: list[Token], known: frozenset[date]) -> Iterator[DateSpan]:
    matches = [*_NUMERIC.finditer(text), *_ISO_TIME.finditer(text)]
    # One text writes all its dates in one order; 03/17/2024 tells which.
    month_first = any(int(match["b"]) > 12 for match in matches if len(match["c"]) > 2)
    for match in matches:
        parts = match["a"], match["b"], match["c"]
        for order in _orders(parts, month_first=month_first):
            day = _day(*(int(parts[i]) for i in order), two_digits=len(parts[order[0]]) == 2)
            if day and (day in known or _is_date(text, match, words, parts, order)):
                form = _numeric_form(parts, order, match["s"])
                yield DateSpan(match.start(), match.end(), day, form)
                break
    for match in _COMPACT.finditer(text):
        day = _day(int(match[1]), int(match[2]), int(match[3]))
        if day:
            yield DateSpan(match.start(), match.end(), day, lambda d: f"{d:%Y%m%d}")
    for match in _COMPACT_DAY_FIRST.finditer(text):
        day = _day(int(match[3]), int(match[2]), int(match[1]))
        if day:
            yield DateSpan(match.start(), match.end(), day, lambda d: f"{d:%d%m%Y}")
    for match in _DAY_MONTH.finditer(text):
        first, second = int(match[1]), int(match[3])
        if match[2] == "." and not match[4]:
            continue
        pairs = [(first, second)] if match[2] == "." else [(second, first), (first, second)]
        valid = [(d, m) for d, m in pairs if 1 <= m <= 12 and 1 <= d <= 31]
        strength = match[2] == "/" and (second in _STRENGTHS and first <= second)
        measured = strength or _UNIT.match(text, match.end())
        if valid and not measured and _has_cue(text, match.start(), words, strict=True):
            yield DateSpan(match.start(), match.end(), None)


def _orders(parts: tuple[str, str, str], *, month_first: bool) -> Iterator[tuple[int, int, int]]:
    """Which part is the year, the month, the day: as most of the world, else as the US, first."""
    if len(parts[0]) == 4:
        yield 0, 1, 2
    elif len(parts[0]) <= 2:
        yield (2, 0, 1) if month_first else (2, 1, 0)
        yield (2, 1, 0) if month_first else (2, 0, 1)


def _day(year: int, month: int, day: int, *, two_digits: bool = False) -> date | None:
    if two_digits:
        year += 1900 if year > 40 else 2000
    if not 1880 <= year <= 2099:
        return None
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _is_date(
    text: str,
    match: re.Match[str],
    words: list[Token],
    parts: tuple[str, str, str],
    order: tuple[int, int, int],
) -> bool:
    if len(parts[order[0]]) == 4:
        return True
    if _UNIT.match(text, match.end()):
        return False
    marked = (
        _has_cue(text, match.start(), words)
        or ":" in text[max(0, match.start() - 3) : match.start()]
    )
    unambiguous = max(int(parts[0]), int(parts[1])) > 12 or match["s"] == "/"
    return marked or bool(unambiguous and _ENDS.match(text, match.end()))


def _numeric_form(
    parts: tuple[str, str, str], order: tuple[int, int, int], separator: str
) -> Callable[[date], str]:
    widths = [len(part) for part in parts]
    padded = [part.startswith("0") or len(part) > 1 for part in parts]

    def render(day: date) -> str:
        values = [0, 0, 0]
        for value, index in zip((day.year, day.month, day.day), order, strict=True):
            values[index] = value % 100 if widths[index] == 2 and index == order[0] else value
        return separator.join(
            f"{value:0{widths[i]}d}" if padded[i] else str(value) for i, value in enumerate(values)
        )

    return render


def _has_cue(text: str, start: int, words: list[Token], *, strict: bool = False) -> bool:
    """Whether one of the three words before a position announces a date (the last, if strict)."""
    if re.search(r"(?:d\.?o\.?b|f\.? ?nac)\.?:?\s*$", text[max(0, start - 12) : start], re.I):
        return True
    last = bisect_right(words, start, key=attrgetter("end"))
    before = words[max(0, last - 3) : last]
    gap = text[before[-1].end : start] if before else "x"
    if len(gap) > 3 or set(gap) - set(" :.,\u00a0"):
        return False
    near = before[-1:] if strict else before
    cues = _cues()
    if (
        strict
        and near
        and near[0].plain in ("on", "from", "to", "of", "with", "a", "de", "le", "el", "en")
    ):
        # "on 3/17" is a date, "from 4/7" need not be one.
        return near[0].plain in ("on", "le", "el") or bool(
            len(before) > 1 and before[-2].plain in _comparisons()
        )
    return any(word.plain in cues for word in near)


@cache
def _cues() -> frozenset[str]:
    return frozenset(cue for pack in load_packs() for cue in pack.date_cues)


@cache
def _comparisons() -> frozenset[str]:
    words = "compared comparison study film exam examination dated prior ct mri radiograph xray images compare"
    return frozenset(map(fold, words.split()))


# --- names of months


@cache
def month_names() -> Mapping[str, int]:
    """Folded names of months in all languages and their numbers."""
    return {
        fold(name): number
        for pack in load_packs()
        for number, names in enumerate(pack.months, 1)
        for name in names
    }


@cache
def _month_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    names = {name for pack in load_packs() for month in pack.months for name in month}
    names |= {fold(name) for name in names}
    month = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    ordinals = {word for pack in load_packs() for word in pack.ordinals}
    spelled = "|".join(sorted(map(re.escape, ordinals), key=len, reverse=True))
    link = r"(?:\s+(?:of|de|del)\s+|[ \u00a0-]?(?:of )?)"
    year = r"(?:(?:,?[ \u00a0-]*|\s+(?:de|del|of)\s+)(?P<y>(?:18|19|20)\d\d)|[ -]?['’](?P<q>\d\d)|-(?P<q2>\d\d)"
    late = year + r"| (?P<q3>\d\d)(?!\d|\s?(?:[a-z%°:]|[.,]\d)))"
    year += ")"
    day = rf"(?:(?P<d>3[01]|[12]\d|0?[1-9])(?P<o>st|nd|rd|th|er|º|ª|\.)?|(?P<w>{spelled}))"
    return (
        re.compile(
            rf"(?<![\w./])(?P<all>{day}{link}(?P<m>{month})\b\.?(?:{late})?|"
            rf"(?P<d3>\d{{1,2}})(?P<m3>{month})(?P<y3>(?:19|20)?\d\d))(?!\d)",
            re.I,
        ),
        re.compile(
            rf"\b(?P<all>(?P<m>{month})\.?(?:[ \u00a0-](?P<d>3[01]|[12]\d|0?[1-9])(?P<o>st|nd|rd|th)?(?!\d)"
            rf"(?:{year})?|(?:,?[ \u00a0-]|\s+(?:de|del|of)\s+)(?P<y4>(?:19|20)\d\d)))(?!\d)",
            re.I,
        ),
    )


def _named(text: str, words: list[Token], known: frozenset[date]) -> Iterator[DateSpan]:
    for index, pattern in enumerate(_month_patterns()):
        for match in pattern.finditer(text):
            span = _named_span(text, match, words, known, month_first=index == 1)
            if span:
                yield span


def _named_span(
    text: str,
    match: re.Match[str],
    words: list[Token],
    known: frozenset[date],
    *,
    month_first: bool,
) -> DateSpan | None:
    groups = match.groupdict()
    name = groups["m"] or groups.get("m3") or ""
    month = month_names()[fold(name)]
    year_text = (
        groups["y"]
        or groups["q"]
        or groups["q2"]
        or groups.get("q3")
        or groups.get("y3")
        or groups.get("y4")
    )
    number = groups["d"] or groups.get("d3")
    day_number = int(number) if number else _ordinal(groups.get("w"))
    start, end = match.span("all")
    if year_text is None:
        if day_number is None or not 1 <= day_number <= 31:
            return None
        if any((d.month, d.day) == (month, day_number) for d in known) and not _UNIT.match(
            text, end
        ):
            return DateSpan(start, end, None)
        if not _is_day_of_month(text, match, words, month_first=month_first):
            return None
        return DateSpan(start, end, None)
    year = int(year_text)
    day = _day(year, month, day_number or 1, two_digits=len(year_text) == 2)
    if day is None:
        return None
    return DateSpan(start, end, day, _named_form(match, name))


def _ordinal(word: str | None) -> int | None:
    if not word:
        return None
    for pack in load_packs():
        if word.lower() in pack.ordinals:
            return pack.ordinals.index(word.lower()) + 1
    return None


def _is_day_of_month(
    text: str, match: re.Match[str], words: list[Token], *, month_first: bool
) -> bool:
    """Whether "May 2" or "2 May" is a date: "May 2 cm nodule" is not."""
    end, name = match.end("all"), match["m"] or ""
    if _UNIT.match(text, end):
        return False
    spelled = match.groupdict().get("w")
    if (spelled and len(name) < 4) or "-" in match["all"]:
        return False
    sure = bool(match["o"] and match["o"] != ".") or bool(spelled)
    ambiguous = fold(name) in _AMBIGUOUS
    if ambiguous and not name[0].isupper() and not sure:
        return False
    if sure or _has_cue(text, match.start("all"), words):
        return True
    if name.isupper() and len(name) <= 3:
        return False
    return bool(_ENDS.match(text, end)) if month_first or ambiguous else True


def _named_form(match: re.Match[str], name: str) -> Callable[[date], str] | None:
    if match.groupdict().get("w"):
        return None
    names, is_full = _months_like(name)
    plain = name.isascii()
    start = match.start("all")
    locations = {
        key: (match.start(key) - start, match.end(key) - start)
        for key, value in match.groupdict().items()
        if value and key != "all"
    }
    full_text = match["all"]

    def render(day: date) -> str:
        month = names[day.month - 1][0 if is_full else -1]
        month = fold(month) if plain and not month.isascii() else month
        month = month.upper() if name.isupper() else month.title() if name[0].isupper() else month
        pieces, last = [], 0
        for key, (first, end) in sorted(locations.items(), key=lambda item: item[1]):
            width = end - first
            new = {
                "m": month,
                "d": f"{day.day:0{width}d}" if full_text[first] == "0" else str(day.day),
                "o": _suffix(day.day, full_text[first:end]),
            }.get(key[:1])
            if new is None:
                new = f"{day.year % 100:02d}" if width == 2 else str(day.year)
            pieces += [full_text[last:first], new]
            last = end
        return "".join([*pieces, full_text[last:]])

    return render


def _months_like(name: str) -> tuple[Sequence[Sequence[str]], bool]:
    """The months of the language of a name, and whether it is a full one; English comes first."""
    packs = sorted((pack for pack in load_packs() if pack.months), key=lambda p: p.name != "en")
    for spelled in (str.lower, fold):
        for pack in packs:
            for names in pack.months:
                if spelled(name) in map(spelled, names):
                    return pack.months, spelled(name) == spelled(names[0])
    raise AssertionError("a month was found by its name")


def _suffix(day: int, old: str) -> str:
    if old.lower() not in ("st", "nd", "rd", "th"):
        return "" if old == "er" and day != 1 else old
    return "th" if 10 < day % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


# --- Chinese and Japanese


def _cjk(text: str) -> Iterator[DateSpan]:
    for match in _CJK_DATE.finditer(text):
        month, number = match["m"] or match["m2"], match["d"] or match["d2"]
        era = match["era"]
        if not month and not era:
            continue
        year = _han_number(match["y"]) if match["y"] else None
        if month and not 1 <= (_han_number(month) or 0) <= 12:
            continue
        if match["y"] and not era and (year is None or not 1880 <= year <= 2099):
            continue
        full = year + _ERAS[era] if era and year else year
        day = (
            _day(full, _han_number(month) or 1, _han_number(number) or 1)
            if full and month and number
            else None
        )
        form = _cjk_form(match) if day and not era and match["y"].isdigit() else None
        yield DateSpan(match.start(), match.end(), day, form)
    for match in _ERA_SHORT.finditer(text):
        day = _day(_ERAS[match[1]] + int(match[2]), int(match[3]), int(match[4]))
        if day:
            yield DateSpan(match.start(), match.end(), day)


def _cjk_form(match: re.Match[str]) -> Callable[[date], str]:
    full_text = re.sub(r"\d+", "{}", match[0])
    return lambda day: full_text.format(day.year, day.month, day.day)


def _han_number(text: str | None) -> int | None:
    """A number in Arabic or Han digits, None where it is none."""
    if not text:
        return None
    if text.isdigit():
        return int(text)
    if "十" in text:
        tens, _, ones = text.partition("十")
        return (_HAN_DIGITS.get(tens, 1) if tens else 1) * 10 + (
            _HAN_DIGITS.get(ones, 0) if ones else 0
        )
    digits = [_HAN_DIGITS.get(char) if not char.isdigit() else int(char) for char in text]
    return None if None in digits else int("".join(map(str, digits)))


def parse_header_dates(values: Iterable[str]) -> frozenset[date]:
    """DICOM dates and date-times (PS3.5, DA and DT) as days; others are left out."""
    days = set()
    for value in values:
        match = re.match(r"\s*(\d{4})[.-]?(\d\d)[.-]?(\d\d)", value)
        day = _day(int(match[1]), int(match[2]), int(match[3])) if match else None
        if day and day.year > 1900:
            days.add(day)
    return frozenset(days)
