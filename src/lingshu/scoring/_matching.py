"""Whether a reply in words gives an accepted answer: equal to it, or a sentence that holds it whole
and nothing against it.

"The lesion is in the left lung" and "chest X-ray" give "left lung" and "X-ray"; "left and right
lung", "lung cancer", "noncontrast" and "the lung is not visible" do not give "left lung", "cancer
of the lung", "contrast" and "lung". A synonym is not the answer, and less than the answer is not
either: both are for a judge to decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

from lingshu.core.reply_text import (
    CJK,
    is_empty,
    is_refusal,
    make_score,
    require_golds,
    to_plain_text,
)
from lingshu.core.types import Sample, Score
from lingshu.scoring._options import is_negated
from lingshu.scoring.exact import extract_answers, normalized_forms

_SENTENCE = re.compile(r"(?<!\d)\.(?:\s|$)|[!?;\n]")
_TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{CJK}]|[^\W\d_{CJK}]+(?:'[a-z]+)?\d*|[,+<>%±/&]|-(?=\d)")
_QUANTITY = re.compile(
    r"(?:about\s+|approximately\s+|~\s*|约\s*)?(-?\d+(?:\.\d+)?)\s*([a-zµμ]+|厘米|毫米|毫升|克|毫克)\.?",
    re.I,
)
# A unit as a multiple of the first of its kind.
_UNITS: dict[str, tuple[str, Decimal]] = {
    name: (kind, Decimal(factor))
    for kind, names in {
        "mm": {"mm": "1", "millimeter": "1", "millimetre": "1", "毫米": "1", "cm": "10", "centimeter": "10",
               "centimetre": "10", "厘米": "10", "m": "1000", "um": "0.001", "µm": "0.001", "μm": "0.001"},
        "ml": {"ml": "1", "milliliter": "1", "millilitre": "1", "毫升": "1",
               "cc": "1", "l": "1000", "liter": "1000", "litre": "1000"},
        "mg": {"mg": "1", "毫克": "1", "g": "1000", "gram": "1000", "克": "1000", "kg": "1000000",
               "ug": "0.001", "µg": "0.001", "μg": "0.001"},
        "minute": {"minute": "1", "min": "1", "hour": "60", "h": "60", "day": "1440", "week": "10080"},
    }.items()
    for name, factor in names.items()
}  # fmt: skip
# Where the gold says one of a row and the reply another, the reply says something else, whatever it
# says besides.
_OPPOSITES = (
    ("left|左", "right|右", "both|bilateral|双"),
    ("upper|superior|上", "lower|inferior|下", "middle|中"),
    ("anterior|ap|前", "posterior|pa|后"),
    ("medial|内", "lateral|外"),
    ("axial|transverse|横", "coronal|冠", "sagittal|矢"),
    ("male|man|男", "female|woman|女"),
    ("unilateral|单", "bilateral|双"),
    ("t1", "t2"),
    ("ct", "mri|mr", "ultrasound|us", "pet"),
    ("benign|良", "malignant|恶"),
    ("high|increased|高", "low|decreased|低"),
    ("acute|急", "chronic|慢"),
)
_OPPOSITE_BY_WORD = {
    word: (group, position)
    for group, members in enumerate(_OPPOSITES)
    for position, names in enumerate(members)
    for word in names.split("|")
}
_ARTICLES = {"a", "an", "the"}
_HEDGE = re.compile(
    r"\b(?:but|however|although|though|or|either|whether|might|may|could|unclear|instead|rather|not|n't|cannot)\b|n't\b|但|或|可能|不"
)
# Words that end the name of a thing, or follow one without naming another.
_CONTINUATION_WORDS = frozenset((
    "of", "in", "on", "at", "is", "are", "was", "were", "appear", "appears", "seem", "seems", "has", "have", "which", "that",
    "meaning", "indicating", "suggesting", "focusing", "with", "from", "to", "for", "as", "because", "due", "seen", "shown",
    "visible", "located", "present", "this", "using", "by", "during", "used", "scan", "scanner", "image", "images", "view",
    "plane", "side", "sided", "lobe", "machine", "technique", "weighted", "modality", "artifact", "imaging", "sequence", "area",
    "region", "flair", "dwi", "stir",
))  # fmt: skip
_GENERIC_NOUNS = frozenset((
    "image", "images", "scan", "scans", "view", "views", "picture", "mri", "ct", "x-ray", "ray", "radiograph", "section", "slice",
    "film", "side", "sides", "part", "region", "area", "level",
))  # fmt: skip
_CLAUSE_OPENERS = frozenset((
    "which", "that", "meaning", "indicating", "suggesting", "focusing", "showing", "with", "as", "because", "where", "while",
    "specifically", "likely", "in", "on",
))  # fmt: skip
# As `_tokens` writes them: "denies" and "lacks" are "deny" and "lack".
_NEGATIONS = frozenset(("non", "no", "without", "deny", "denied", "denying", "lack", "lacking"))
_NEGATION_BIGRAMS = frozenset(
    (("negative", "for"), ("lack", "of"), ("free", "of"), ("absence", "of"), ("clear", "of"))
)
_INTRO_WORDS = frozenset((
    "in", "on", "at", "from", "based", "according", "given", "for", "with", "within", "due", "overall", "therefore", "thus",
    "here",
))  # fmt: skip
_ZH_PREFIX = re.compile(
    r"^(?:这(?:张|幅|个)?(?:图像|图片|影像)?(?:中|里)?(?:的\w{1,8}?)?(?:是|为|位于)|图(?:像|片)?中?的?\w{0,8}?(?:是|为|位于)|是|在|位于)"
)
_ZH_SUFFIX = re.compile(r"(?:部位?|侧|加权(?:成?像)?|扫描|图像|成像|检查)$")


def grade(sample: Sample, reply: str) -> Score:
    """The score of a reply in words: 1.0 where it gives an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    golds = [to_plain_text(gold) for gold in require_golds(sample)]
    answers = extract_answers(reply)
    if is_empty(answers[0]):
        return Score(None, "empty")
    for answer in answers:
        if any(answers_match(answer, gold) for gold in golds):
            return make_score(is_correct=True, prediction=answer)
    if is_refusal(answers[0]):
        return Score(None, "refused")
    first_sentence = _SENTENCE.split(answers[0], maxsplit=1)[0][:600]
    is_correct = not _HEDGE.search(answers[0][:2000].casefold()) and any(
        contains_answer(first_sentence, gold, sample.question) for gold in golds
    )
    return make_score(is_correct=is_correct, prediction=answers[0])


def answers_match(answer: str, gold: str) -> bool:
    """Whether two `plain` texts are one answer: alike in form, one quantity, one list, or one the
    plural of the other.
    """
    normalized, items = normalized_forms(answer)
    normalized_gold, gold_items = normalized_forms(gold)
    if normalized == normalized_gold or (items and items == gold_items):
        return True
    quantity = _parse_quantity(answer)
    return quantity is not None and quantity == _parse_quantity(gold)


def _parse_quantity(text: str) -> tuple[str, Decimal] | None:
    match = _QUANTITY.fullmatch(text.strip())
    unit = match and (
        _UNITS.get(match[2].casefold()) or _UNITS.get(match[2].casefold().removesuffix("s"))
    )
    return (unit[0], Decimal(match[1]) * unit[1]) if match and unit else None


def contains_answer(sentence: str, gold: str, question: str) -> bool:
    """Whether a `plain` sentence holds the gold whole, as its answer, and nothing that contradicts
    it.
    """
    gold_tokens, tokens = _tokenize(gold), _tokenize(sentence)
    if (
        not gold_tokens
        or "," in gold_tokens
        or len(gold_tokens) > len(tokens)
        or (len(gold) < 2 and gold.casefold() in "ai")
    ):
        return False
    if re.search(f"[{CJK}]", gold):
        return (
            _tokenize(_ZH_SUFFIX.sub("", _ZH_PREFIX.sub("", sentence.strip(" .")))) == gold_tokens
        )
    if _contradicts(gold_tokens, tokens) or (
        gold_tokens[0][0].isdigit()
        and re.search(rf"(?:^|[\s(:=])-{re.escape(gold_tokens[0])}(?!\d)", sentence)
    ):
        return False
    question_tokens = set(_tokenize(question))
    starts = [
        i
        for i in range(len(tokens) - len(gold_tokens) + 1)
        if tokens[i : i + len(gold_tokens)] == gold_tokens
    ]
    return any(
        _is_free_standing(tokens, start, start + len(gold_tokens), question_tokens)
        for start in starts
    )


def _tokenize(text: str) -> list[str]:
    normalized = (
        text.casefold().replace("xray", "x-ray").replace("-", " ")
        if not re.search(r"-\d", text)
        else text.casefold()
    )
    return [_singularize(token) for token in _TOKEN.findall(normalized) if token not in _ARTICLES]


def _singularize(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def _contradicts(gold_tokens: Sequence[str], tokens: Sequence[str]) -> bool:
    """Another number than the gold's, or another member of a row of opposites."""
    if any(token[0].isdigit() for token in gold_tokens):
        return any(token[0].isdigit() and token not in gold_tokens for token in tokens)
    gold_members = {_OPPOSITE_BY_WORD[token] for token in gold_tokens if token in _OPPOSITE_BY_WORD}
    groups = {group for group, _ in gold_members}
    return any(
        _OPPOSITE_BY_WORD[token][0] in groups and _OPPOSITE_BY_WORD[token] not in gold_members
        for token in tokens
        if token in _OPPOSITE_BY_WORD
    )


def _is_free_standing(
    tokens: Sequence[str], start: int, end: int, question_tokens: set[str]
) -> bool:
    """Whether the words from start to end are a thing of their own: no part of a list, of another
    name, or denied.
    """
    joined_tokens = f" {' '.join(tokens)} "
    offset = len(" ".join(tokens[:start])) + (1 if start else 0)
    if is_negated(joined_tokens, offset, offset + len(" ".join(tokens[start:end])) + 2) or (
        start and tokens[start - 1] in _NEGATIONS
    ):
        return False
    if tuple(tokens[max(0, start - 2) : start]) in _NEGATION_BIGRAMS:
        return False
    next_token = tokens[end] if end < len(tokens) else None
    if next_token in (",", "and", "&", "/"):
        following = tokens[end + 1] if end + 1 < len(tokens) else ""
        if next_token != "," or following not in _CLAUSE_OPENERS:
            return False
    elif (
        next_token is not None
        and next_token not in _CONTINUATION_WORDS
        and next_token not in question_tokens
        and next_token not in tokens[start:end]
    ):
        return False
    if (
        start
        and tokens[start - 1] == "of"
        and start > 1
        and tokens[start - 2] not in _GENERIC_NOUNS
        and tokens[start - 2] not in question_tokens
    ):
        return False
    return not any(
        _is_list_separator(tokens, i)
        for i, (token, _) in enumerate(pairwise(tokens[: start + 1]))
        if token in (",", "and", "&", "/")
    )


def _is_list_separator(tokens: Sequence[str], index: int) -> bool:
    """Whether a comma or "and" in front of the answer joins things, and does not close "In this
    image, ...".
    """
    return tokens[index] != "," or tokens[0] not in _INTRO_WORDS
