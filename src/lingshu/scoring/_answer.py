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

from lingshu.core.nouns import Sample, Score
from lingshu.scoring._options import denied
from lingshu.scoring._text import CJK, blank, golds, graded, plain, refuses
from lingshu.scoring.exact import answers_of, forms

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
_ROWS = (
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
_MEMBER = {
    word: (row, place)
    for row, places in enumerate(_ROWS)
    for place, names in enumerate(places)
    for word in names.split("|")
}
_ARTICLES = {"a", "an", "the"}
_DOUBT = re.compile(
    r"\b(?:but|however|although|though|or|either|whether|might|may|could|unclear|instead|rather|not|n't|cannot)\b|n't\b|但|或|可能|不"
)
# Words that end the name of a thing, or follow one without naming another.
_GOES_ON = frozenset((
    "of", "in", "on", "at", "is", "are", "was", "were", "appear", "appears", "seem", "seems", "has", "have", "which", "that",
    "meaning", "indicating", "suggesting", "focusing", "with", "from", "to", "for", "as", "because", "due", "seen", "shown",
    "visible", "located", "present", "this", "using", "by", "during", "used", "scan", "scanner", "image", "images", "view",
    "plane", "side", "sided", "lobe", "machine", "technique", "weighted", "modality", "artifact", "imaging", "sequence", "area",
    "region", "flair", "dwi", "stir",
))  # fmt: skip
_OF_WHAT = frozenset((
    "image", "images", "scan", "scans", "view", "views", "picture", "mri", "ct", "x-ray", "ray", "radiograph", "section", "slice",
    "film", "side", "sides", "part", "region", "area", "level",
))  # fmt: skip
_CLAUSE = frozenset((
    "which", "that", "meaning", "indicating", "suggesting", "focusing", "showing", "with", "as", "because", "where", "while",
    "specifically", "likely", "in", "on",
))  # fmt: skip
# As `_tokens` writes them: "denies" and "lacks" are "deny" and "lack".
_DENYING = frozenset(("non", "no", "without", "deny", "denied", "denying", "lack", "lacking"))
_DENYING_TWO = frozenset(
    (("negative", "for"), ("lack", "of"), ("free", "of"), ("absence", "of"), ("clear", "of"))
)
_LEADS = frozenset((
    "in", "on", "at", "from", "based", "according", "given", "for", "with", "within", "due", "overall", "therefore", "thus",
    "here",
))  # fmt: skip
_ZH_BEFORE = re.compile(
    r"^(?:这(?:张|幅|个)?(?:图像|图片|影像)?(?:中|里)?(?:的\w{1,8}?)?(?:是|为|位于)|图(?:像|片)?中?的?\w{0,8}?(?:是|为|位于)|是|在|位于)"
)
_ZH_AFTER = re.compile(r"(?:部位?|侧|加权(?:成?像)?|扫描|图像|成像|检查)$")


def grade(sample: Sample, reply: str) -> Score:
    """The score of a reply in words: 1.0 where it gives an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    accepted = [plain(gold) for gold in golds(sample)]
    answers = answers_of(reply)
    if blank(answers[0]):
        return Score(None, "empty")
    for answer in answers:
        if any(equal(answer, gold) for gold in accepted):
            return graded(right=True, read=answer)
    if refuses(answers[0]):
        return Score(None, "refused")
    first = _SENTENCE.split(answers[0], maxsplit=1)[0][:600]
    right = not _DOUBT.search(answers[0][:2000].casefold()) and any(
        gives(first, gold, sample.question) for gold in accepted
    )
    return graded(right=right, read=answers[0])


def equal(answer: str, gold: str) -> bool:
    """Whether two `plain` texts are one answer: alike in form, one quantity, one list, or one the
    plural of the other.
    """
    form, items = forms(answer)
    gold_form, gold_items = forms(gold)
    if form == gold_form or (items and items == gold_items):
        return True
    quantity = _quantity(answer)
    return quantity is not None and quantity == _quantity(gold)


def _quantity(text: str) -> tuple[str, Decimal] | None:
    found = _QUANTITY.fullmatch(text.strip())
    unit = found and (
        _UNITS.get(found[2].casefold()) or _UNITS.get(found[2].casefold().removesuffix("s"))
    )
    return (unit[0], Decimal(found[1]) * unit[1]) if found and unit else None


def gives(sentence: str, gold: str, question: str) -> bool:
    """Whether a `plain` sentence holds the gold whole, as its answer, and nothing that contradicts
    it.
    """
    wanted, said = _tokens(gold), _tokens(sentence)
    if (
        not wanted
        or "," in wanted
        or len(wanted) > len(said)
        or (len(gold) < 2 and gold.casefold() in "ai")
    ):
        return False
    if re.search(f"[{CJK}]", gold):
        return _tokens(_ZH_AFTER.sub("", _ZH_BEFORE.sub("", sentence.strip(" .")))) == wanted
    if _contradicts(wanted, said) or (
        wanted[0][0].isdigit()
        and re.search(rf"(?:^|[\s(:=])-{re.escape(wanted[0])}(?!\d)", sentence)
    ):
        return False
    asked = set(_tokens(question))
    places = [i for i in range(len(said) - len(wanted) + 1) if said[i : i + len(wanted)] == wanted]
    return any(_stands_alone(said, place, place + len(wanted), asked) for place in places)


def _tokens(text: str) -> list[str]:
    told = (
        text.casefold().replace("xray", "x-ray").replace("-", " ")
        if not re.search(r"-\d", text)
        else text.casefold()
    )
    return [_singular(token) for token in _TOKEN.findall(told) if token not in _ARTICLES]


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def _contradicts(wanted: Sequence[str], said: Sequence[str]) -> bool:
    """Another number than the gold's, or another member of a row of opposites."""
    if any(token[0].isdigit() for token in wanted):
        return any(token[0].isdigit() and token not in wanted for token in said)
    mine = {_MEMBER[token] for token in wanted if token in _MEMBER}
    rows = {row for row, _ in mine}
    return any(
        _MEMBER[token][0] in rows and _MEMBER[token] not in mine
        for token in said
        if token in _MEMBER
    )


def _stands_alone(said: Sequence[str], start: int, end: int, asked: set[str]) -> bool:
    """Whether the words from start to end are a thing of their own: no part of a list, of another
    name, or denied.
    """
    form = f" {' '.join(said)} "
    place = len(" ".join(said[:start])) + (1 if start else 0)
    if denied(form, place, place + len(" ".join(said[start:end])) + 2) or (
        start and said[start - 1] in _DENYING
    ):
        return False
    if tuple(said[max(0, start - 2) : start]) in _DENYING_TWO:
        return False
    after = said[end] if end < len(said) else None
    if after in (",", "and", "&", "/"):
        following = said[end + 1] if end + 1 < len(said) else ""
        if after != "," or following not in _CLAUSE:
            return False
    elif (
        after is not None
        and after not in _GOES_ON
        and after not in asked
        and after not in said[start:end]
    ):
        return False
    if (
        start
        and said[start - 1] == "of"
        and start > 1
        and said[start - 2] not in _OF_WHAT
        and said[start - 2] not in asked
    ):
        return False
    return not any(
        _lists(said, i)
        for i, (token, _) in enumerate(pairwise(said[: start + 1]))
        if token in (",", "and", "&", "/")
    )


def _lists(said: Sequence[str], comma: int) -> bool:
    """Whether a comma or "and" in front of the answer joins things, and does not close "In this
    image, ...".
    """
    return said[comma] != "," or said[0] not in _LEADS
