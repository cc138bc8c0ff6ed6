"""Grades a short answer by equality with any accepted answer, once both are written alike.

Case, articles, final punctuation, hyphens ("X ray", "Xray"), number words ("Two" for 2), the order
of a list and nouns that add nothing to an imaging technique ("CT scan" for "CT") make no
difference; every other word does. Where the gold is a yes or no, the reply is read as one.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

from __future__ import annotations

import re
from decimal import Decimal

from lingshu.core.nouns import Sample, Score
from lingshu.scoring import yes_no
from lingshu.scoring._text import blank, committed, golds, graded, plain, refuses, spoken

RANGE = (0.0, 1.0)

_CUE = re.compile(
    r"(?:\b(?:answer|ans)\b\s*(?:(?:is|would be|should be|must"
    r" be)\b\s*)?[:=]?|(?:答案|回答)(?:应该|应)?(?:是|为)?:?)\s*(?P<tail>[^\n]*)",
    re.I,
)
_ONLY_CUE = re.compile(
    r"^\W*(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|ans|答案)\s*(?:is|是)?\W*$", re.I
)
_SENTENCE = re.compile(r"(?<!\d)\.(?:\s|$)|\.\s+(?=[A-Z])|[!?;\n]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LIST = re.compile(r"\s*(?:,\s*and\b|,|;|&|\band\b|和|与|及)\s*", re.I)
_ATOM = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[a-z]+)?|[+<>%≥≤±=]|(?<![^\s(])-(?=\d)")
_WORDS = (
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
)
_NUMBERS = (
    {word: str(number) for number, word in enumerate(_WORDS)}
    | {word: str(number) for number, word in enumerate("零一二三四五六七八九十")}
    | {"两": "2"}
)
_ARTICLES = {"a", "an", "the"}
_ADDS_NOTHING = {"weighted", "image", "images", "imaging", "scan", "scans"}


def answers_of(reply: str) -> tuple[str, ...]:
    """The part of a reply that answers: its tag or box, else what follows the last "answer is",
    else all of it.

    Behind "answer is" both the first sentence and the whole line are offered: a full stop may
    belong to "St. Jude".
    """
    text = spoken(reply)
    final = committed(text)
    if final is not None:
        return (plain(final),)
    text = plain(text)
    cues = [match["tail"] for match in _CUE.finditer(text) if not blank(match["tail"])]
    if cues:
        return _SENTENCE.split(cues[-1], maxsplit=1)[0].strip(), cues[-1].strip()
    return ("" if _ONLY_CUE.match(text) else text,)


def same_form(text: str) -> str:
    """The comparable form of a plain text: its words run together, but never two numbers."""
    atoms = [_same_number(atom) for atom in _ATOM.findall(_THOUSANDS.sub("", text.casefold()))]
    told = [atom for atom in atoms if atom not in _ARTICLES] or atoms
    kept = [atom for atom in told if atom not in _ADDS_NOTHING] or told
    joined = ""
    for atom in kept:
        joined += " " + atom if joined and joined[-1].isdigit() and atom[0].isdigit() else atom
    return joined


def _same_number(atom: str) -> str:
    known = _NUMBERS.get(atom, atom)
    # Decimal rounds beyond 28 digits; no answer is so long a number.
    return (
        format(Decimal(known).normalize(), "f")
        if known[0].isdecimal() and len(known) <= 28
        else known
    )


def forms(text: str) -> tuple[str, tuple[str, ...]]:
    """The comparable form of a text, and those of its list items in one order (none for a single
    item).
    """
    items = sorted(
        same_form(item) for item in _LIST.split(_THOUSANDS.sub("", text)) if not blank(item)
    )
    return same_form(text), tuple(items) if len(items) > 1 else ()


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply equals an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    accepted = golds(sample)
    if all(yes_no.as_verdict(gold) for gold in accepted):
        return yes_no.score(sample, reply)
    answers = answers_of(reply)
    if blank(answers[0]):
        return Score(None, "empty")
    theirs = [forms(plain(gold)) for gold in accepted]
    for answer in answers:
        form, items = forms(answer)
        if any(form == gold or (items and items == gold_items) for gold, gold_items in theirs):
            return graded(right=True, read=answer)
    if refuses(answers[0]):
        return Score(None, "refused")
    return graded(right=False, read=answers[0])
