"""Words of a text in one spelling, and which of them are ordinary words and not names.

Folding makes equal what one name may look like: case, accents, ue for ü, Cyrillic, Greek and kana
in Latin letters. Ordinary words are those of the rule packs, of English medical text
(word_lists/english.txt) and eponyms (word_lists/eponyms.txt).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

_WORDS = Path(__file__).with_name("word_lists")
HAN = "\u3400-\u4dbf\u4e00-\u9fff々〇"
KANA = "\u3041-\u3096\u30a1-\u30fc\uff66-\uff9f"
CJK = re.compile(f"[{HAN}{KANA}\uac00-\ud7a3]")
# A run of one script; underscores separate, as in names of files.
_TOKEN = re.compile(
    f"[{HAN}]+|[\u3041-\u3096]+|[\u30a1-\u30fc\uff66-\uff9f]+|[\uac00-\ud7a3]+"
    f"|[^\\W_{HAN}{KANA}\uac00-\ud7a3]+"
)
_LETTERS = str.maketrans({
    "ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "a", "œ": "o", "þ": "th",
    # Cyrillic (BGN/PCGN without its apostrophes) and Greek (ELOT 743)
    **dict(zip("абвгдезийклмнопрстуфыэ", "abvgdeziiklmnoprstufye", strict=True)),
    "ё": "e", "ж": "zh", "х": "kh", "ц": "ts", "ч": "ch", "ш": "sh", "щ": "shch", "ю": "iu",
    "я": "ia", "ь": "", "ъ": "", "і": "i", "є": "ie", "ї": "i", "ґ": "g",
    **dict(zip("αβγδεζηικλμνξοπρσςτυφω", "avgdeziiklmnxoprsstyfo", strict=True)),
    "θ": "th", "χ": "ch", "ψ": "ps",
})  # fmt: skip
_DIGRAPHS = re.compile(r"(?<=[aou])e|aa|(?<=o)u")
_KANA_ROWS = {
    "": "アイウエオ", "k": "カキクケコ", "g": "ガギグゲゴ", "s": "サシスセソ", "z": "ザジズゼゾ",
    "t": "タチツテト", "d": "ダヂヅデド", "n": "ナニヌネノ", "h": "ハヒフヘホ", "b": "バビブベボ",
    "p": "パピプペポ", "m": "マミムメモ", "r": "ラリルレロ",
}  # fmt: skip
# Hepburn, where it departs from the rows.
_KANA = {c: row + v for row, cs in _KANA_ROWS.items() for c, v in zip(cs, "aiueo", strict=True)} | {
    "ヤ": "ya", "ユ": "yu", "ヨ": "yo", "ワ": "wa", "ヲ": "o", "ン": "n", "シ": "shi", "ジ": "ji",
    "チ": "chi", "ヂ": "ji", "ツ": "tsu", "ヅ": "zu", "フ": "fu", "ー": "", "ヴ": "vu",
}  # fmt: skip
_SMALL_Y = {"ャ": "a", "ュ": "u", "ョ": "o"}
# Endings of rare medical words, which no list holds.
_CLINICAL_ENDING = re.compile(
    r"(?:itis|[oi]sis|om(?:a|as|e|en|atous)|ectom(?:y|ies|ie|ia)|plast(?:y|ies|ie|ia)"
    r"|(?:gra|thera|pa)ph?(?:y|ies|ie|ia|hic)|scop(?:y|ies|ie|ia|ic)|[aou]emia|uria|algia|[ao]gram(?:s|m|me)?"
    r"|olog(?:y|ic|ical|ie|ia)|ectas(?:is|es|ia)|steno(?:sis|se|tic)|megaly|rrh(?:ea|age|agic|agia)|oscopic"
    r"|penia|phil(?:ia|s)?|cyte?s?|(?:cillin|mycin|statin|prazole|olol|sartan|mab|parin|azole)e?"
    r"|tion(?:s|al)?|ungen?|al|ic|ous|ing|ed|ly|ness|ment|able|ible|ular)$"
)  # fmt: skip


class Token(NamedTuple):
    """A run of letters and digits in a text, and its plain form."""

    start: int
    end: int
    text: str
    plain: str

    @property
    def capitalized(self) -> bool:
        return self.text[:1].isupper()

    @property
    def all_capitals(self) -> bool:
        return len(self.text) > 1 and self.text.isupper()


def tokens(text: str) -> list[Token]:
    """The words and numbers of a text, in order."""
    return [Token(m.start(), m.end(), m[0], fold(m[0])) for m in _TOKEN.finditer(text)]


@lru_cache(maxsize=1 << 15)
def fold(word: str) -> str:
    """A word in the one spelling in which words are compared."""
    if not word.isascii():
        word = unicodedata.normalize("NFKC", word)
        if CJK.search(word):
            return romaji(word) if is_kana(word) else word
        plain = unicodedata.normalize("NFKD", word.casefold())
        plain = "".join(c for c in plain if not unicodedata.combining(c))
        word = plain.translate(_LETTERS)
    word = word.lower()
    return _DIGRAPHS.sub(_shorter, word) if len(word) > 3 else word


def _shorter(match: re.Match[str]) -> str:
    return match[0][:-1]


def is_kana(word: str) -> bool:
    return re.fullmatch(f"[{KANA}]+", word) is not None


def romaji(word: str) -> str:
    """Kana in Latin letters, long vowels as short ones."""
    word = unicodedata.normalize("NFKC", word)
    sounds: list[str] = []
    double = False
    for char in word:
        char = chr(ord(char) + 0x60) if "\u3041" <= char <= "\u3096" else char
        if char == "ッ":
            double = True
            continue
        if char in _SMALL_Y and sounds:
            base = sounds[-1][:-1]
            sounds[-1] = base + ("" if base[-1:] in ("j", "h") else "y") + _SMALL_Y[char]
            continue
        sound = _KANA.get(char, char)
        sounds.append(sound[:1] + sound if double else sound)
        double = False
    return _DIGRAPHS.sub(_shorter, re.sub(r"uu", "u", "".join(sounds)))


@cache
def english_words() -> frozenset[str]:
    """Folded words that English medical texts write in lower case."""
    text = (_WORDS / "english.txt").read_text(encoding="utf-8")
    return frozenset(map(fold, _uncommented(text)))


@cache
def given_names() -> frozenset[str]:
    """Common given names, as the one spelling of `fold`."""
    text = (_WORDS / "given_names.txt").read_text(encoding="utf-8")
    return frozenset(map(fold, _uncommented(text)))


@cache
def eponyms() -> frozenset[tuple[str, ...]]:
    """Names of diseases, signs, devices and makers, each as its plain words."""
    text = (_WORDS / "eponyms.txt").read_text(encoding="utf-8")
    phrases = ",".join(line for line in text.splitlines() if not line.startswith("#")).split(",")
    return frozenset(tuple(t.plain for t in tokens(p)) for p in phrases if p.strip())


@cache
def eponym_words() -> frozenset[str]:
    return frozenset(word for phrase in eponyms() for word in phrase)


def _uncommented(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            yield from line.split()


def has_clinical_ending(plain: str) -> bool:
    """Whether a word ends as terms of medicine and inflected words do, and few names."""
    return len(plain) > 6 and _CLINICAL_ENDING.search(plain) is not None


@cache
def _pinyin() -> dict[str, str]:
    lines = (_WORDS / "pinyin.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def han_pattern(romanized: str, *, surnames: Iterable[str]) -> tuple[str, int] | None:
    """A pattern of Chinese names that are read as `romanized`, and their number of characters.

    The first character is a surname. None where the letters are not pinyin.
    """
    for syllables in _syllables(romanized):
        if not 2 <= len(syllables) <= 4:
            continue
        for size in (2, 1):
            first = [name for name in surnames if len(name) == size and _reads(name, syllables)]
            if first and len(syllables) > size:
                given = "".join(f"[{_pinyin()[one]}]" for one in syllables[size:])
                return f"(?:{'|'.join(first)}){given}", len(syllables)
    return None


def _reads(name: str, syllables: list[str]) -> bool:
    return all(char in _pinyin()[one] for char, one in zip(name, syllables, strict=False))


def _syllables(letters: str, limit: int = 5) -> Iterator[list[str]]:
    if not letters:
        yield []
        return
    for size in range(min(6, len(letters)), 0, -1) if limit else ():
        if letters[:size] in _pinyin():
            for rest in _syllables(letters[size:], limit - 1):
                yield [letters[:size], *rest]
