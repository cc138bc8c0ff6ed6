"""Grades a short answer by equality with any accepted answer, once both are written alike.

Case, articles, final punctuation, hyphens ("X ray", "Xray"), number words ("Two" for 2), the order
of a list and nouns that add nothing to an imaging technique ("CT scan" for "CT") make no
difference; every other word does. Where the gold is a yes or no, the reply is read as one.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

import re
from decimal import Decimal

from lingshu.core.reply_text import (
    is_empty,
    is_refusal,
    make_score,
    read_final_turn,
    require_golds,
    to_plain_text,
)
from lingshu.core.types import Sample, Score
from lingshu.scoring import yes_no

RANGE = (0.0, 1.0)

_CUE = re.compile(
    r"(?:\b(?:answer|ans)\b\s*(?:(?:is|would be|should be|must"
    r" be)\b\s*)?[:=]?|(?:答案|回答)(?:应该|应)?(?:是|为)?:?)\s*(?P<tail>[^\n]*)",
    re.I,
)
_CUE_ONLY = re.compile(
    r"^\W*(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|ans|答案)\s*(?:is|是)?\W*$", re.I
)
_SENTENCE = re.compile(r"(?<!\d)\.(?:\s|$)|\.\s+(?=[A-Z])|[!?;\n]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LIST = re.compile(r"\s*(?:,\s*and\b|,|;|&|\band\b|和|与|及)\s*", re.I)
_ATOM = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[a-z]+)?|[+<>%≥≤±=]|(?<![^\s(])-(?=\d)")
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
_DIGITS_BY_WORD = (
    {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
    | {word: str(number) for number, word in enumerate("零一二三四五六七八九十")}
    | {"两": "2"}
)
_ARTICLES = {"a", "an", "the"}
_IMAGING_NOUNS = {"weighted", "image", "images", "imaging", "scan", "scans"}


def extract_answers(reply: str) -> tuple[str, ...]:
    """The answering part of a reply: tag or box, else what follows "answer is", else all.

    Behind "answer is" both the first sentence and the whole line are offered: a full stop may
    belong to "St. Jude".
    """
    turn = read_final_turn(reply)
    if turn.answer is not None:
        return (to_plain_text(turn.answer),)
    text = to_plain_text(turn.text)
    cues = [match["tail"] for match in _CUE.finditer(text) if not is_empty(match["tail"])]
    if cues:
        return _SENTENCE.split(cues[-1], maxsplit=1)[0].strip(), cues[-1].strip()
    return ("" if _CUE_ONLY.match(text) else text,)


def normalize_answer(text: str) -> str:
    """The comparable form of a plain text: its words run together, but never two numbers."""
    atoms = [_normalize_number(atom) for atom in _ATOM.findall(_THOUSANDS.sub("", text.casefold()))]
    content_atoms = [atom for atom in atoms if atom not in _ARTICLES] or atoms
    significant = [atom for atom in content_atoms if atom not in _IMAGING_NOUNS] or content_atoms
    normalized = ""
    for atom in significant:
        joins_numbers = normalized[-1:].isdigit() and atom[0].isdigit()
        normalized += f" {atom}" if joins_numbers else atom
    return normalized


def _normalize_number(atom: str) -> str:
    digits = _DIGITS_BY_WORD.get(atom, atom)
    # Decimal rounds beyond 28 digits; no answer is so long a number.
    if digits[0].isdecimal() and len(digits) <= 28:
        return format(Decimal(digits).normalize(), "f")
    return digits


def normalized_forms(text: str) -> tuple[str, tuple[str, ...]]:
    """The comparable form of a text, and the sorted forms of its items where it is a list."""
    parts = _LIST.split(_THOUSANDS.sub("", text))
    items = sorted(normalize_answer(part) for part in parts if not is_empty(part))
    return normalize_answer(text), tuple(items) if len(items) > 1 else ()


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply equals an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    golds = require_golds(sample)
    if all(yes_no.as_polarity(gold) for gold in golds):
        return yes_no.score(sample, reply)
    answers = extract_answers(reply)
    if is_empty(answers[0]):
        return Score(None, "empty")
    gold_forms, gold_lists = zip(*(normalized_forms(to_plain_text(g)) for g in golds), strict=True)
    for answer in answers:
        normalized, items = normalized_forms(answer)
        if normalized in gold_forms or (items and items in gold_lists):
            return make_score(is_correct=True, prediction=answer)
    if is_refusal(answers[0]):
        return Score(None, "refused")
    return make_score(is_correct=False, prediction=answers[0])
