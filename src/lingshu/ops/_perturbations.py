"""Wrong answers made from right ones by rule: side, negation, organ, modality or number.

A rule changes one thing and leaves the rest of the answer, so that the error is known exactly. It
cannot see whether the new answer is wrong about this image, which may show both liver and kidney.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.reply_text import CJK
from lingshu.core.teacher_prompts import seeded_choice
from lingshu.core.types import Drop
from lingshu.ops._teacher import QAItem

KINDS = ("laterality", "negation", "organ", "modality", "number")


class InjectedError(NamedTuple):
    """A wrong answer, the rule that made it, and the words it replaced."""

    text: str
    kind: str
    original: str
    replacement: str


class RightAnswer(NamedTuple):
    """An answer to change: `name` and `seed` decide; words of `context` are not inserted."""

    text: str
    context: str
    name: str
    seed: int

    def replaced(self, kind: str, match: re.Match[str], replacement: str) -> InjectedError:
        text = self.text[: match.start()] + replacement + self.text[match.end() :]
        return InjectedError(text, kind, match[0], replacement)


def inject_error(
    answer: str, *, name: str, kinds: Sequence[str] = KINDS, question: str = "", seed: int = 0
) -> InjectedError | None:
    """A wrong answer by one rule of those that apply, by `name` and seed; None without one."""
    right = RightAnswer(answer, f"{answer}\n{question}".casefold(), name, seed)
    errors = [error for kind in kinds if (error := _RULES[kind](right))]
    return seeded_choice(errors, f"{name} flaw", seed) if errors else None


def inject_error_into_item(
    item: QAItem, *, kinds: Sequence[str], seed: int
) -> InjectedError | Drop:
    """A wrong answer to a question; one that a scorer accepts as right does not count."""
    name, remaining = item.sample.id, list(kinds)
    while error := inject_error(
        item.answer, name=name, kinds=remaining, question=item.question, seed=seed
    ):
        if not item.is_correct(error.text):
            return error
        remaining.remove(error.kind)
    return Drop(name, "no_error", f"no rule applies to the answer ({', '.join(kinds)})")


@cache
def _terms() -> dict[str, Any]:
    path = Path(__file__).with_name("_perturbation_terms.json")
    return json.loads(path.read_text(encoding="utf-8"))


# 左右 is a pair; "right" before these words is not a side, nor is "left".
_SIDE = re.compile(
    r"\bleft\b(?!\s+(?:untreated|alone|over))|\bright\b(?!\s+(?:answer|now|away))"
    r"|\b(?:bi|uni)lateral\b|(?<!右)左(?!右)|(?<!左)右(?!左)|[双单]侧",
    re.I,
)
_BOTH_SIDES = re.compile(r"\b(?:both|bilateral)\b|双|两侧", re.I)
# Between two that are named together.
_CONJUNCTIONS = re.compile(
    r"(?:[\s,、]|\b(?:and|or|as well as|the|a|in|on|of|at|with)\b|[和或与及在])+$", re.I
)
# Negations of a sentence first: in "There is no mass" it is the "no" that flips.
_NEGATION_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(there (?:is|are)) no (?=evidence|sign)", re.I), r"\1 "),
    (re.compile(r"\b(there is) no (?=[aeiou])", re.I), r"\1 an "),
    (re.compile(r"\b(there is) no ", re.I), r"\1 a "),
    (re.compile(r"\b(there are) no ", re.I), r"\1 "),
    (re.compile(r"\b(is|are|was|were|does|do|has|have|can) not ", re.I), r"\1 "),
    (re.compile(r"\b(there (?:is|are)) (?:an? )?(?=\w)", re.I), r"\1 no "),
)
# A Chinese word may begin anywhere, so only words that are rarely part of another one are listed.
_ZH_OPPOSITE = re.compile(
    r"^(?:不是|没有|不存在|不对|是的|是|否|有|无|对)(?=$|[,，。])"
    r"|不是|没有|未见|可见|不正常|正常|异常|阳性|阴性|良性|恶性|不存在|存在|不可以|可以|不包含|包含"
)
_EN_OPPOSITE = re.compile(
    r"\b(?:yes|no|present|absent|normal|abnormal|without|with|positive|negative|true|false|benign"
    r"|malignant)\b",
    re.I,
)
# "Yes, there is a mass": flipping its head alone would make it contradict itself.
_VERDICT_WITH_CLAUSE = re.compile(
    r"\s*(yes|no)\b[\s,.:;]*(?=\S)|\s*(?:是的|是|否|有|没有|不是|对|不对)[,，。;；](?=\S)", re.I
)


def _names_both_sides(answer: str) -> bool:
    """Whether both sides of the same thing are named."""
    opposites = _terms()["opposite_sides"]
    for first, second in pairwise(_SIDE.finditer(answer)):
        noun_phrase = _CONJUNCTIONS.sub("", answer[first.end() : second.start()]).strip()
        following = answer[second.end() :].strip().casefold()
        is_opposite = opposites[first[0].casefold()] == second[0].casefold()
        if is_opposite and following.startswith(noun_phrase.casefold()):
            return True
    return False


def _contains_opposites(pattern: re.Pattern[str], answer: str) -> bool:
    """Whether a word and its opposite occur in an answer."""
    present = {match[0].casefold() for match in pattern.finditer(answer)}
    return any(_terms()["opposites"][word] in present for word in present)


def _swap_laterality(answer: RightAnswer) -> InjectedError | None:
    """Every side replaced by the other; "the left lung and the right lung" would stay the same."""
    first = _SIDE.search(answer.text)
    if first is None or _names_both_sides(answer.text):
        return None

    def opposite(match: re.Match[str]) -> str:
        return _match_case(_terms()["opposite_sides"][match[0].casefold()], match[0])

    return InjectedError(_SIDE.sub(opposite, answer.text), "laterality", first[0], opposite(first))


def _flip_negation(answer: RightAnswer) -> InjectedError | None:
    """The first yes, no, negation or opposite flipped."""
    text = answer.text
    if _VERDICT_WITH_CLAUSE.match(text):
        return None
    for pattern, template in _NEGATION_RULES:
        match = pattern.search(text)
        if match:
            replacement = match.expand(template).strip()
            flipped = pattern.sub(template, text, count=1)
            return InjectedError(flipped, "negation", match[0].strip(), replacement)
    match = _EN_OPPOSITE.search(text) or _ZH_OPPOSITE.search(text)
    # "With or without" has no opposite.
    if match is None or any(_contains_opposites(p, text) for p in (_EN_OPPOSITE, _ZH_OPPOSITE)):
        return None
    opposite = _terms()["opposites"][match[0].casefold()]
    return answer.replaced("negation", match, _match_case(opposite, match[0]))


# Letters around an English word make it another one, and so does the hyphen of extra-axial. Next
# to a Chinese word only places may stand: 左肺 is a lung, 肺炎 is not.
_CJK_BEFORE = rf"(?:(?<![{CJK}])|(?<=[左右双两上中下侧的在]))"
_CJK_AFTER = rf"(?:(?![{CJK}])|(?=[左右上中下内外部侧的和]))"


@cache
def _group_patterns(name: str) -> list[tuple[re.Pattern[str], list[str]]]:
    """The groups of exchangeable words, each with the pattern that finds one of its words."""
    groups = []
    for group in _terms()[name]:
        words = sorted(group, key=len, reverse=True)  # 肾上腺 before 肾
        latin = "|".join(re.escape(word) for word in words if word.isascii())
        cjk = "|".join(re.escape(word) for word in words if not word.isascii())
        parts = [rf"(?<![A-Za-z0-9-])(?:{latin})(?![A-Za-z0-9-])"] if latin else []
        parts += [rf"{_CJK_BEFORE}(?:{cjk}){_CJK_AFTER}"] if cjk else []
        groups.append((re.compile("|".join(parts), re.I), group))
    return groups


def _swap_word(answer: RightAnswer, kind: str, groups: str) -> InjectedError | None:
    """Another word of its group in place of the first one found."""
    for pattern, group in _group_patterns(groups):
        match = pattern.search(answer.text)
        if match is None:
            continue
        excluded = _terms()["hypernyms"].get(match[0].casefold())
        candidates = [
            word for word in group if word.casefold() not in answer.context and word != excluded
        ]
        if candidates:
            word = seeded_choice(candidates, f"{answer.name} {kind}", answer.seed)
            return answer.replaced(kind, match, _match_case(word, match[0]))
    return None


def _swap_organ(answer: RightAnswer) -> InjectedError | None:
    # There is no left pancreas: with a side only organs that come in pairs are exchangeable.
    has_side = _SIDE.search(answer.text) or _BOTH_SIDES.search(answer.text)
    return _swap_word(answer, "organ", "paired_organ" if has_side else "organ")


_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_ZH_NUMBERS = tuple("一二三四五六七八")
# Neither T2 nor L5 nor 3rd, whose letters belong to them.
_NUMBER = re.compile(
    rf"(?<![\w.])\d+(?:\.\d+)?(?!\w*\d|st\b|nd\b|rd\b|th\b)|\b(?:{'|'.join(_NUMBER_WORDS)})\b"
    rf"|(?:[{''.join(_ZH_NUMBERS)}]|两)(?=[个处枚条颗块])",
    re.I,
)


def _change_number(answer: RightAnswer) -> InjectedError | None:
    """The first number changed: a whole one by one or two, a decimal one doubled or tripled."""
    match = _NUMBER.search(answer.text)
    if match is None:
        return None
    replacement = _different_number(match[0], f"{answer.name} number", answer.seed)
    # twice 0.0 is 0.0
    return None if replacement == match[0] else answer.replaced("number", match, replacement)


def _different_number(number: str, name: str, seed: int) -> str:
    if "." in number:
        n_decimals = len(number.partition(".")[2])
        return f"{float(number) * seeded_choice((2, 3), name, seed):.{n_decimals}f}"
    if number.isdecimal():
        neighbors = [int(number) + offset for offset in (-2, -1, 1, 2)]
        return str(seeded_choice([n for n in neighbors if n > 0], name, seed))
    words = _NUMBER_WORDS if number.isascii() else _ZH_NUMBERS
    index = 1 if number == "两" else words.index(number.casefold())
    neighbor_words = [words[i] for i in (index - 1, index + 1) if 0 <= i < len(words)]
    return _match_case(seeded_choice(neighbor_words, name, seed), number)


def _match_case(word: str, reference: str) -> str:
    """A word capitalized like another one."""
    if len(reference) > 3 and reference.isupper():  # LIVER, but not CT
        return word.upper()
    is_capitalized = reference[:1].isupper() and not reference.isupper()
    return word[:1].upper() + word[1:] if is_capitalized else word


_RULES: Mapping[str, Callable[[RightAnswer], InjectedError | None]] = {
    "laterality": _swap_laterality,
    "negation": _flip_negation,
    "organ": _swap_organ,
    "modality": partial(_swap_word, kind="modality", groups="modality"),
    "number": _change_number,
}
