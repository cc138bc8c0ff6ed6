"""The Porter stemmer with the departures of nltk's default, which rouge_score uses (Porter 1980,
"An algorithm for suffix stripping").
"""

from __future__ import annotations

import re
from functools import lru_cache

_IRREGULAR = {
    form: base
    for base, forms in {
        "sky": ("sky", "skies"), "die": ("dying",), "lie": ("lying",), "tie": ("tying",), "news": ("news",),
        "inning": ("innings", "inning"), "outing": ("outings", "outing"), "canning": ("cannings", "canning"),
        "howe": ("howe",), "proceed": ("proceed",), "exceed": ("exceed",), "succeed": ("succeed",),
    }.items() for form in forms
}  # fmt: skip
_STEP_2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"), ("alli", "al"),
    ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"),
    ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"), ("fulli", "ful"),
)  # fmt: skip
_STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip
_MEASURE = re.compile("v+c+")


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A lower-case word without its endings."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_step_1a, _step_1b, _step_1c, _step_2, _step_3, _step_4, _step_5):
        word = step(word)
    return word


def _letter_pattern(word: str) -> str:
    """`v` for each vowel and `c` for each consonant; y is a vowel behind a consonant."""
    pattern = ""
    for letter in word:
        is_vowel = letter in "aeiou" or (letter == "y" and pattern.endswith("c"))
        pattern += "v" if is_vowel else "c"
    return pattern


def _measure(word: str) -> int:
    return len(_MEASURE.findall(_letter_pattern(word)))


def _ends_with_cvc(word: str) -> bool:
    """Ends consonant, vowel, consonant other than w, x and y; or is a vowel and a consonant."""
    pattern = _letter_pattern(word)
    return (pattern.endswith("cvc") and word[-1] not in "wxy") or pattern == "vc"


def _ends_with_double_consonant(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _letter_pattern(word)[-1] == "c"


def _step_1a(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    for suffix, replacement in (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")):
        if word.endswith(suffix):
            return word[: -len(suffix)] + replacement
    return word


def _step_1b(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    root = next(
        (
            word[: -len(suffix)]
            for suffix in ("ed", "ing")
            if word.endswith(suffix) and "v" in _letter_pattern(word[: -len(suffix)])
        ),
        None,
    )
    if root is None:
        return word
    if root.endswith(("at", "bl", "iz")):
        return root + "e"
    if _ends_with_double_consonant(root):
        return root if root[-1] in "lsz" else root[:-1]
    return root + "e" if _measure(root) == 1 and _ends_with_cvc(root) else root


def _step_1c(word: str) -> str:
    return (
        word[:-1] + "i"
        if word.endswith("y") and len(word) > 2 and _letter_pattern(word[:-1])[-1] == "c"
        else word
    )


def _step_2(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]):
        return _step_2(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) else word
    return _replace_suffix(word, _STEP_2)


def _step_3(word: str) -> str:
    return _replace_suffix(word, _STEP_3)


def _replace_suffix(word: str, suffixes: tuple[tuple[str, str], ...]) -> str:
    for suffix, replacement in suffixes:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            return root + replacement if _measure(root) else word
    return word


def _step_4(word: str) -> str:
    for suffix in _STEP_4:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            matches = _measure(root) > 1 and (suffix != "ion" or root[-1:] in ("s", "t"))
            return root if matches else word
    return word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        root = word[:-1]
        if _measure(root) > 1 or (_measure(root) == 1 and not _ends_with_cvc(root)):
            word = root
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
