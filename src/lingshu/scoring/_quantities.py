"""Numbers with their units, bounds and ranges, written in one way."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import NamedTuple

_WORDS = {
    word: str(number)
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
        ]
    )
}
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.I)
_BOUNDS = (
    (re.compile(r"\b(?:no|not)\s+(?:more|greater|larger|higher|longer)\s+than\s+(?=[\d.])|\b(?:at\s+most|up\s+to|maximum(?:\s+of)?)\s+(?=[\d.])|(?:不超过|至多|最多)\s*(?=\d)|<=\s*(?=[\d.])", re.I), "≤"),
    (re.compile(r"\b(?:no|not)\s+(?:less|fewer|smaller|lower)\s+than\s+(?=[\d.])|\b(?:at\s+least|minimum(?:\s+of)?)\s+(?=[\d.])|(?:至少|不少于|不低于)\s*(?=\d)|>=\s*(?=[\d.])", re.I), "≥"),
    (re.compile(r"\b(?:less|fewer|smaller|lower|shorter)\s+than\s+(?=[\d.])|\b(?:under|below)\s+(?=[\d.])|(?:小于|低于|少于)\s*(?=\d)", re.I), "<"),
    (re.compile(r"\b(?:more|greater|larger|higher|longer)\s+than\s+(?=[\d.])|\b(?:over|above|exceed(?:s|ing)?)\s+(?=[\d.])|(?:大于|高于|超过|多于)\s*(?=\d)", re.I), ">"),
)  # fmt: skip
_PERCENT = re.compile(r"(?<=\d)\s*(?:percent|per\s+cent|%)", re.I)
_BETWEEN = re.compile(r"\bbetween\s+(?P<low>\d[\d.]*)\s*(?P<unit>%?)\s+and\s+(?=\d)", re.I)
_RANGE = re.compile(r"(?<=\d)\s*%?\s*(?:\bto\b|[-–—~至])\s*(?=\d)", re.I)
_TIMES = re.compile(r"(?<=\d)\s*[×✕*]\s*(?=\d)")
_BARE_POINT = re.compile(r"(?<![\w.])\.(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"(?<![\w.])(?P<number>\d{1,12}(?:\.\d{1,9})?)(?!\.?\d)(?P<unit>\s*-?(?:[a-zµμ]+|厘米|毫米|毫升|克|毫克)(?![a-z\d]))?", re.I)  # fmt: skip


class Unit(NamedTuple):
    """A unit as a multiple of the one that stands for its kind."""

    kind: str
    factor: Decimal


@cache
def units() -> Mapping[str, Unit]:
    """Units by name, from open_words.json."""
    path = Path(__file__).with_name("open_words.json")
    kinds = json.loads(path.read_text(encoding="utf-8"))["units"]
    return {
        name: Unit(kind, Decimal(factor))
        for kind, factors in kinds.items()
        for name, factor in factors.items()
    }


def normalize_quantities(text: str) -> str:
    """A text whose quantities are written alike: digits, one unit a kind, "<" for "less than", "5-10%"
    for "5 to 10 percent".
    """
    text = _WORD.sub(lambda word: _WORDS[word[0].casefold()], text)
    if not any(map(str.isdigit, text)):
        return text
    text = _BARE_POINT.sub("0.", _THOUSANDS.sub("", text))
    for pattern, sign in _BOUNDS:
        text = pattern.sub(sign, text)
    text = _PERCENT.sub("%", text)
    text = _RANGE.sub("-", _BETWEEN.sub(r"\g<low>\g<unit>-", text))
    return _NUMBER.sub(_in_base_unit, _TIMES.sub(" x ", text))


def _in_base_unit(match: re.Match[str]) -> str:
    number = Decimal(match["number"])
    name = (match["unit"] or "").strip(" -")
    unit = units().get(name.casefold()) or units().get(name.casefold().removesuffix("s"))
    if unit is None:
        return f"{number.normalize():f}{match['unit'] or ''}"
    return f"{(number * unit.factor).normalize():f} {unit.kind}"
