"""The options of a multiple-choice question: their letters, their texts, and where a text speaks of
them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.scoring._text import plain, words

_LABEL = re.compile(r"^\s*[(\[]?([A-Za-z])(?:[)\]]?\s*[.:,)\]]|[)\]]|\s)\s*(?=\S)")
_NEGATED_BEFORE = re.compile(
    r" (?:not|no|without|never|nor|neither|isn't|wasn't|aren't|doesn't|cannot|exclude[sd]?|excluding|eliminate[sd]?|rules?"
    r" out|ruled out"
    r"|(?:not|\w+n't) (?:think|believe|suspect|say)(?: that)?"
    r"(?: it's| (?:it|this|that|there|the answer|the diagnosis) (?:is|would be|could be|shows))?"
    r"|rather than|instead of|unlike|against|不 是|不 支 持|没 有|未 见|无|非|排 除|而 非)"
    r"(?: (?:a|an|the|any|be|evidence|sign|signs|features?|of|for|likely|consistent|with|suggestive|indicative|suggest|show|see|seen"
    r"|typical|compatible|due|to|caused|by|definite|obvious))* $"
)
_NEGATED_AFTER = re.compile(
    r"^ (?:(?:is|are|was|were|seems?|can be|could be|would be) (?:also |very |less |highly |most )*"
    r"(?:not|unlikely|likely|wrong|incorrect|excluded|ruled out|absent|eliminated|implausible)"
    r"|isn't|wasn't|不 正 确|错 误|可 排 除|被 排 除)(?: (\w+))?"
)


class Option(NamedTuple):
    """One option: its letter, its text without it, the text's `words` form, and that form behind
    its letter.
    """

    letter: str
    text: str
    form: str
    lettered: tuple[str, ...]


@lru_cache(maxsize=4096)
def options(choices: tuple[str, ...]) -> tuple[Option, ...]:
    """Options with their letters.

    Letters are taken off only where all choices carry theirs in order: "C. difficile" stays.
    """
    texts = [plain(choice) for choice in choices]
    labels = [_LABEL.match(text) for text in texts]
    letters = [chr(ord("A") + place) for place in range(len(texts))]
    if len(texts) > 1 and all(
        label and label[1].upper() == letter for label, letter in zip(labels, letters, strict=True)
    ):
        texts = [text[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
    return tuple(_option(letter, text) for letter, text in zip(letters, texts, strict=True))


def _option(letter: str, text: str) -> Option:
    form = words(text)
    marks = (" ", " | ") if form.strip() else ()
    return Option(letter, text, form, tuple(f" {letter.lower()}{mark}{form[1:]}" for mark in marks))


@lru_cache(maxsize=4096)
def _longest_first(known: tuple[Option, ...]) -> tuple[Option, ...]:
    return tuple(sorted(known, key=lambda option: -len(option.form)))


@lru_cache(maxsize=4096)
def traits(known: tuple[Option, ...]) -> tuple[bool, bool]:
    """Whether yes and no are among the options, and whether any option's text is a single
    character.
    """
    return {" yes ", " no "} <= {option.form for option in known}, any(
        len(option.form) == 3 for option in known
    )


@lru_cache(maxsize=4096)
def gold_letters(golds: tuple[str, ...], choices: tuple[str, ...]) -> frozenset[str]:
    """The letters of the accepted answers, each given as a letter, as an option's text, or as both
    ("B. Cyst").

    Raises:
        InputError: a gold that is no option.
    """
    known = options(choices)
    found = set()
    for gold in golds:
        told = plain(gold).strip()
        bare = told.strip("()[]. ").upper()
        same = [
            option.letter
            for option in known
            if option.form == words(told)
            or f"{option.letter} {option.form}" == f"{bare[:1]} {words(told[1:])}"
        ]
        if len(bare) == 1 and any(option.letter == bare for option in known):
            found.add(bare)
        elif same:
            # Two options of one text: the first is the one that the source means.
            found.add(same[0])
        else:
            raise InputError(
                f"the gold {gold!r} is none of the {len(known)} options; give its letter or the"
                " text of the option."
            )
    return frozenset(found)


def opening_option(form: str, known: Sequence[Option]) -> list[Option]:
    """The options whose text opens a `words` form, longest only; single letters and signs do not
    count as texts.
    """
    found = [option for option in known if len(option.form) > 3 and form.startswith(option.form)]
    longest = max((len(option.form) for option in found), default=0)
    return [option for option in found if len(option.form) == longest]


def named_options(form: str, known: tuple[Option, ...]) -> list[Option]:
    """The options whose texts stand in a `words` form and are not denied there.

    A text inside a longer option's text is not named by it; two options of the same text are both
    named.
    """
    taken: list[tuple[int, int]] = []
    named: dict[str, Option] = {}
    for option in _longest_first(known):
        if option.form not in form or _like_a_letter(option.form, len(known)):
            continue
        spans = _places(form, option.form)
        free = [
            (a, b)
            for a, b in spans
            if not any(a >= c and b <= d and (b - a) < (d - c) for c, d in taken)
        ]
        taken += free
        if any(not denied(form, a, b) for a, b in free):
            named[option.letter] = option
    return [named[letter] for letter in sorted(named)]


def affirmed(form: str, text: str) -> bool:
    """Whether a text stands in a `words` form somewhere where it is not denied."""
    return text in form and any(not denied(form, a, b) for a, b in _places(form, text))


def _like_a_letter(text: str, options: int) -> bool:
    """A text that reads like an option's letter, or like a word of one letter, is not looked for;
    nor is none at all.
    """
    return len(text) < 3 or (
        len(text) == 3 and (text[1] in "ai" or 0 <= ord(text[1]) - ord("a") < options)
    )


def _places(form: str, text: str) -> list[tuple[int, int]]:
    found, start = [], form.find(text)
    # A text named a thousand times is named no better than one named a few times.
    while start >= 0 and len(found) < 64:
        found.append((start, start + len(text)))
        start = form.find(text, start + len(text) - 1)
    return found


def denied(form: str, start: int, end: int) -> bool:
    """Whether what stands from the blank at `start` to past the one before `end`, in a `words`
    form, is denied there.
    """
    if _NEGATED_BEFORE.search(form[max(0, start - 80) : start + 1]):
        return True
    after = _NEGATED_AFTER.match(form[end - 1 : end + 60])
    return after is not None and not (" likely" in after[0] and " less " not in after[0])


def option_within(form: str, known: Sequence[Option]) -> list[Option]:
    """The options that hold every word of a short reply, such as "T2" for "T2-weighted MRI"."""
    said = set(form.split())
    mine = said - _EMPTY_WORDS - _DENIALS - {"|"}
    if not mine or len(mine) > 8:
        return []
    # "Not benign" is no "Benign lesion", and "a fracture" is no "No fracture".
    return [
        option
        for option in known
        if mine <= (own := set(option.form.split())) and said & _DENIALS == own & _DENIALS
    ]


_DENIALS = frozenset(("no", "not", "none"))


_EMPTY_WORDS = frozenset(
    (
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "is",
        "are",
        "it",
        "this",
        "that",
        "and",
        "or",
        "with",
        "的",
        "是",
    )
)
