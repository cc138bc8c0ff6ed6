"""Wrong answers made of right ones by rule: the other side, the denial, another organ or modality,
another number. English and Chinese.

A rule changes one thing and leaves the rest of the answer as it stands, so that the error is known
exactly. Whether the changed answer is wrong of this image no rule can see: an image may show the
liver and the kidney.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from lingshu.core.reply_text import CJK
from lingshu.core.teacher_prompts import seeded_choice
from lingshu.core.types import Drop, Sample
from lingshu.ops._qa_items import qa_item
from lingshu.ops._sample_fields import answer_text as right_answer

KINDS = ("laterality", "negation", "organ", "modality", "number")


class InjectedError(NamedTuple):
    """A wrong answer, which rule made it, and the words that the rule put in place of others."""

    text: str
    kind: str
    original: str
    replacement: str


def inject_error(
    answer: str, *, name: str, kinds: Sequence[str] = KINDS, question: str = "", seed: int = 0
) -> InjectedError | None:
    """One wrong answer made of a right one, by a rule drawn from `name` and the seed among those
    that fit; None where none fits.

    `question` is what it answers: words that stand there are not put into the answer.
    """
    errors = [error for kind in kinds if (error := _RULES[kind](answer, question, name, seed))]
    return seeded_choice(errors, f"{name} flaw", seed) if errors else None


def inject_error_into_sample(
    sample: Sample, *, kinds: Sequence[str], seed: int
) -> InjectedError | Drop:
    """A wrong answer to a sample's question, or why there is none; one that a scorer takes for
    right is none.
    """
    item = qa_item(sample)
    if isinstance(item, str):
        return Drop(sample.id, item)
    remaining = list(kinds)
    while remaining:
        error = inject_error(
            right_answer(sample), name=sample.id, kinds=remaining, question=item.question, seed=seed
        )
        if error is None:
            break
        if not item.is_correct(error.text):
            return error
        remaining.remove(error.kind)
    return Drop(sample.id, "no_error", f"no rule fits the answer ({', '.join(kinds)})")


# --- one thing for its opposite
# --------------------------------------------------------------------------------------

_OPPOSITE_SIDES = {
    "left": "right", "right": "left", "bilateral": "unilateral", "unilateral": "bilateral", "左": "右", "右": "左", "双侧": "单侧",
    "单侧": "双侧",
}  # fmt: skip
# 左右 is a pair, "right" before these words no side, and "left" behind these no side either.
_SIDE = re.compile(
    r"\bleft\b(?!\s+(?:untreated|alone|over))|\bright\b(?!\s+(?:answer|now|away))|\b(?:bi|uni)lateral\b|(?<!右)左(?!右)|(?<!左)右(?!左)|[双单]侧",
    re.I,
)

_CONJUNCTIONS = re.compile(
    r"(?:[\s,、]|\b(?:and|or|as well as|the|a|in|on|of|at|with)\b|[和或与及在])+$", re.I
)  # between two that are named together

_OPPOSITES = {
    "yes": "no", "no": "yes", "present": "absent", "absent": "present", "normal": "abnormal", "abnormal": "normal", "with": "without",
    "without": "with", "positive": "negative", "negative": "positive", "true": "false", "false": "true", "benign": "malignant",
    "malignant": "benign", "是": "否", "否": "是", "不是": "是", "没有": "有", "有": "没有", "未见": "可见",
    "可见": "未见", "正常": "异常",
    "异常": "正常", "阳性": "阴性", "阴性": "阳性", "良性": "恶性", "恶性": "良性", "存在": "不存在",
    "不存在": "存在", "对": "不对", "不对": "对",
    "无": "有", "是的": "不是", "不正常": "正常", "可以": "不可以", "不可以": "可以", "包含": "不包含", "不包含": "包含",
}  # fmt: skip
# Denials of a sentence first: in "There is no mass" it is the "no" that turns, and "No, there is
# none" turns at its head.
_NEGATION_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(there (?:is|are)) no (?=evidence|sign)", re.I), r"\1 "),
    (re.compile(r"\b(there is) no (?=[aeiou])", re.I), r"\1 an "),
    (re.compile(r"\b(there is) no ", re.I), r"\1 a "),
    (re.compile(r"\b(there are) no ", re.I), r"\1 "),
    (re.compile(r"\b(is|are|was|were|does|do|has|have|can) not ", re.I), r"\1 "),
    (re.compile(r"\b(there (?:is|are)) (?:an? )?(?=\w)", re.I), r"\1 no "),
)
# In Chinese a word may begin anywhere, so only those stand here that rarely are part of another
# one.
_ZH_OPPOSITE = re.compile(
    r"^(?:不是|没有|不存在|不对|是的|是|否|有|无|对)(?=$|[,，。])"
    r"|不是|没有|未见|可见|不正常|正常|异常|阳性|阴性|良性|恶性|不存在|存在|不可以|可以|不包含|包含"
)
_EN_OPPOSITE = re.compile(
    r"\b(?:yes|no|present|absent|normal|abnormal|without|with|positive|negative|true|false|benign|malignant)\b",
    re.I,
)


def _names_both_sides(answer: str) -> bool:
    """Whether both sides of one and the same thing are named."""
    sides = list(_SIDE.finditer(answer))
    for first, second in pairwise(sides):
        noun_phrase = _CONJUNCTIONS.sub("", answer[first.end() : second.start()]).strip()
        if _OPPOSITE_SIDES[first[0].casefold()] == second[0].casefold() and answer[
            second.end() :
        ].strip().casefold().startswith(noun_phrase.casefold()):
            return True
    return False


def _contains_opposites(
    pattern: re.Pattern[str], opposites: Mapping[str, str], answer: str
) -> bool:
    """Whether a word and its opposite stand in an answer."""
    present = {match[0].casefold() for match in pattern.finditer(answer)}
    return any(opposites[word] in present for word in present)


def _swap_laterality(answer: str, question: str, name: str, seed: int) -> InjectedError | None:  # noqa: ARG001 - one signature for all rules
    """Every side for the other one; "the left lung and the right lung" stays, for turned round it
    says the same.
    """
    first_side = _SIDE.search(answer)
    if first_side is None or _names_both_sides(answer):
        return None
    text = _SIDE.sub(
        lambda match: _match_case(_OPPOSITE_SIDES[match[0].casefold()], match[0]), answer
    )
    return InjectedError(
        text,
        "laterality",
        first_side[0],
        _match_case(_OPPOSITE_SIDES[first_side[0].casefold()], first_side[0]),
    )


def _flip_negation(answer: str, question: str, name: str, seed: int) -> InjectedError | None:  # noqa: ARG001
    """The first yes, no, denial or opposite turned round.

    An answer of more than one clause would contradict itself, and stays.
    """
    # "Yes, there is a mass" turned at its head alone would say two things.
    head = re.match(
        r"\s*(yes|no)\b[\s,.:;]*(?=\S)|\s*(?:是的|是|否|有|没有|不是|对|不对)[,，。;；](?=\S)",
        answer,
        re.I,
    )
    if head:
        return None
    for pattern, template in _NEGATION_RULES:
        match = pattern.search(answer)
        if match:
            text = pattern.sub(template, answer, count=1)
            return InjectedError(text, "negation", match[0].strip(), match.expand(template).strip())
    match = _EN_OPPOSITE.search(answer) or _ZH_OPPOSITE.search(answer)
    # "With or without" has no opposite.
    if (
        match is None
        or _contains_opposites(_EN_OPPOSITE, _OPPOSITES, answer)
        or _contains_opposites(_ZH_OPPOSITE, _OPPOSITES, answer)
    ):
        return None
    replacement = _match_case(_OPPOSITES[match[0].casefold()], match[0])
    return InjectedError(
        answer[: match.start()] + replacement + answer[match.end() :],
        "negation",
        match[0],
        replacement,
    )


# --- one thing for another of its kind
# -------------------------------------------------------------------------------

_ORGANS = (
    ("liver", "kidney", "spleen", "pancreas", "stomach", "gallbladder", "bladder", "lung", "heart", "brain", "esophagus", "trachea",
     "colon", "rectum", "uterus", "prostate", "thyroid", "aorta"),
    ("lungs", "kidneys", "breasts"),
    ("frontal lobe", "parietal lobe", "temporal lobe", "occipital lobe"),
    ("upper lobe", "lower lobe", "middle lobe"),
    ("肝脏", "肾脏", "脾脏", "胰腺", "胃", "胆囊", "膀胱", "肺", "心脏", "大脑", "食管", "气管",
     "结肠", "直肠", "子宫", "前列腺", "甲状腺", "主动脉"),
    ("额叶", "顶叶", "颞叶", "枕叶"),
    ("肝", "肾", "脾"),
)  # fmt: skip
# A pancreas has no left one: beside a side only organs that come in pairs stand for each other.
_PAIRED_ORGANS = (
    ("lung", "kidney", "breast", "adrenal gland"),
    ("lungs", "kidneys", "breasts", "adrenal glands"),
    *_ORGANS[2:4],
    ("肺", "肾脏", "乳腺", "肾上腺"),
)
_BOTH_SIDES = re.compile(r"\b(?:both|bilateral)\b|双|两侧", re.I)
_MODALITIES = (
    # Before the modalities: "T2 weighted MRI" with another sequence is still a sentence.
    ("T1", "T2", "FLAIR", "DWI"),
    ("CT", "MRI", "X-ray", "ultrasound", "PET", "mammography", "endoscopy"),
    ("axial", "coronal", "sagittal"),
    ("横断面", "冠状面", "矢状面"),
    ("核磁共振", "超声", "X光", "内镜"),
    ("磁共振", "超声", "X光", "内镜"),
)


_HYPERNYMS = {"mammography": "X-ray"}  # what a word is a kind of, which is no wrong answer
# Letters around an English word make it another one, and so does the hyphen of extra-axial. Of a
# Chinese word only places may stand beside it: 左肺 is a lung, 肺炎 is none.
_CJK_BEFORE, _CJK_AFTER = (
    rf"(?:(?<![{CJK}])|(?<=[左右双两上中下侧的在]))",
    rf"(?:(?![{CJK}])|(?=[左右上中下内外部侧的和]))",
)


def _pattern(group: Sequence[str]) -> re.Pattern[str]:
    # The longest first: 肾上腺 before 肾.
    words = sorted(group, key=len, reverse=True)
    latin, cjk = (
        "|".join(re.escape(word) for word in words if word.isascii() == is_ascii)
        for is_ascii in (True, False)
    )
    parts = [rf"(?<![A-Za-z0-9-])(?:{latin})(?![A-Za-z0-9-])"] if latin else []
    return re.compile(
        "|".join([*parts, rf"{_CJK_BEFORE}(?:{cjk}){_CJK_AFTER}"] if cjk else parts), re.I
    )


def _swap_organ(answer: str, question: str, name: str, seed: int) -> InjectedError | None:
    rule = _PAIRED_RULE if _SIDE.search(answer) or _BOTH_SIDES.search(answer) else _ORGAN_RULE
    return rule(answer, question, name, seed)


def _swap_rule(
    kind: str, groups: Sequence[Sequence[str]]
) -> Callable[[str, str, str, int], InjectedError | None]:
    """A rule that puts another word of its group for the first one found."""
    patterns = [(_pattern(group), group) for group in groups]

    def rule(answer: str, question: str, name: str, seed: int) -> InjectedError | None:
        context = f"{answer}\n{question}".casefold()
        for pattern, group in patterns:
            match = pattern.search(answer)
            hypernym = _HYPERNYMS.get(match[0].casefold()) if match else None
            candidates = [
                word for word in group if word.casefold() not in context and word != hypernym
            ]
            if match and candidates:
                replacement = _match_case(
                    seeded_choice(candidates, f"{name} {kind}", seed), match[0]
                )
                return InjectedError(
                    answer[: match.start()] + replacement + answer[match.end() :],
                    kind,
                    match[0],
                    replacement,
                )
        return None

    return rule


_ORGAN_RULE, _PAIRED_RULE = _swap_rule("organ", _ORGANS), _swap_rule("organ", _PAIRED_ORGANS)


# --- another number
# --------------------------------------------------------------------------------------------------

_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_ZH_NUMBERS = "一二三四五六七八"
# Neither T2 nor L5 nor 3rd, whose letters belong to them.
_NUMBER = re.compile(
    rf"(?<![\w.])\d+(?:\.\d+)?(?!\w*\d|st\b|nd\b|rd\b|th\b)|\b(?:{'|'.join(_NUMBER_WORDS)})\b|(?:[{_ZH_NUMBERS}]|两)(?=[个处枚条颗块])",
    re.I,
)


def _change_number(answer: str, question: str, name: str, seed: int) -> InjectedError | None:  # noqa: ARG001
    """The first number for another: a whole one by one or two, a decimal one doubled or tripled."""
    match = _NUMBER.search(answer)
    if match is None:
        return None
    replacement = _different_number(match[0], f"{name} number", seed)
    if replacement == match[0]:  # twice 0.0
        return None
    return InjectedError(
        answer[: match.start()] + replacement + answer[match.end() :],
        "number",
        match[0],
        replacement,
    )


def _different_number(number: str, name: str, seed: int) -> str:
    if number[0].isdecimal():
        if "." in number:
            n_decimals = len(number.partition(".")[2])
            return f"{float(number) * seeded_choice((2, 3), name, seed):.{n_decimals}f}"
        value = int(number)
        return str(
            seeded_choice(
                [v for v in (value - 2, value - 1, value + 1, value + 2) if v > 0], name, seed
            )
        )
    words: Sequence[str] = _NUMBER_WORDS if number.isascii() else _ZH_NUMBERS
    index = 1 if number == "两" else list(words).index(number.casefold())
    neighbors = [words[i] for i in (index - 1, index + 1) if 0 <= i < len(words)]
    return _match_case(seeded_choice(neighbors, name, seed), number)


def _match_case(word: str, reference: str) -> str:
    """A word written as another one: all in capitals, or with one."""
    if len(reference) > 3 and reference.isupper():  # LIVER, and not CT
        return word.upper()
    return (
        word[:1].upper() + word[1:] if reference[:1].isupper() and not reference.isupper() else word
    )


_RULES: Mapping[str, Callable[[str, str, str, int], InjectedError | None]] = {
    "laterality": _swap_laterality,
    "negation": _flip_negation,
    "organ": _swap_organ,
    "modality": _swap_rule("modality", _MODALITIES),
    "number": _change_number,
}
