"""Rules that compare an answer with the gold: polarity, side and negation, in English and Chinese.

A rule finds a contradiction or plain agreement, and is silent otherwise: "cardiomegaly" and "an
enlarged heart" are one finding to a reader and two to a rule.
"""

from __future__ import annotations

import re

from lingshu.core.reply_text import CJK, normalize_words, to_plain_text
from lingshu.scoring import yes_no

_CHINESE = re.compile(f"[{CJK}]")
# Wording that reveals that a text was written from another one, or with the answer known.
_SOURCE_MENTION = re.compile(
    r"\b(?:original|given|provided|reference|short) (?:question|answer)s?\b"
    r"|\baccording to the answer\b|(?:原始|给定|参考|标准)(?:的)?(?:问题|答案)",
    re.IGNORECASE,
)
_GIVEN_ANSWER_MENTION = re.compile(
    r"\b(?:given|provided|stated|supplied|reference|gold) answer\b"
    r"|\banswer (?:is|was) (?:given|provided|stated|supplied)\b|(?:给定|提供|参考|标准)(?:的)?答案",
    re.IGNORECASE,
)
_SIDES = {"left": re.compile(r"\bleft\b|左", re.I), "right": re.compile(r"\bright\b|右", re.I)}
# A negation reaches to the end of its clause, at most 40 characters.
_NEGATION = re.compile(
    r"(?:\b(?:no|not|without|never|hardly|neither|nor|absent|excludes?|rules? out|instead of"
    r"|rather than|free of|negative for)\b"
    r"|n't\b|没有|未见|不是|并非|不存在|排除|未|无|非)[^.,;:!?，。；：！？]{0,40}$",
    re.I,
)
# A negation after the words. It may negate something else ("the lung is not clear"), so it only
# leaves a rule in doubt.
_NEGATION_AFTER = re.compile(
    r"^[^.,;:!?，。；：！？]{0,40}?(?:\b(?:not|absent|excluded|ruled out|unlikely)\b"
    r"|n't\b|\bcannot\b|排除|不存在|未见|阴性|不支持|可能性[小低])",
    re.I,
)


def is_chinese(text: str) -> bool:
    return _CHINESE.search(text) is not None


def find_contradiction(gold: str, text: str, *, question: str = "") -> str | None:
    """How a text contradicts a gold answer by rule: `polarity`, `side` or `denied`; else None."""
    polarity, plain_text = yes_no.as_polarity(gold), to_plain_text(text)
    if polarity is not None and yes_no.parse_polarity(plain_text).polarity not in (None, polarity):
        return "polarity"
    # "Is the left lung clear?" is not answered by the right one.
    gold_sides, text_sides = _named_sides(gold) or _named_sides(question), _named_sides(plain_text)
    if len(gold_sides) == 1 and text_sides and not gold_sides & text_sides:
        return "side"
    is_denied = polarity is None and _find_gold(gold, plain_text)
    return "denied" if is_denied and not mentions_gold(gold, plain_text) else None


def supports_gold(gold: str, text: str) -> bool:
    """Whether a text plainly gives a gold answer: its polarity, or its words without negation."""
    polarity = yes_no.as_polarity(gold)
    if polarity is not None:
        return yes_no.parse_polarity(text).polarity == polarity
    plain_text, gold_sides = to_plain_text(text), _named_sides(gold)
    # "the left lung and the right one" says more than "the left lung"
    if len(gold_sides) == 1 and _named_sides(plain_text) - gold_sides:
        return False
    return any(
        not _NEGATION.search(plain_text[: match.start()])
        and not _NEGATION_AFTER.search(plain_text[match.end() :])
        for match in _find_gold(gold, plain_text)
    )


def mentions_gold(gold: str, text: str) -> bool:
    """Whether a text holds the words of a gold answer in order, at least once not negated."""
    return any(not _NEGATION.search(text[: match.start()]) for match in _find_gold(gold, text))


def find_text_problem(original_question: str, gold: str, question: str, answer: str) -> str | None:
    """What is wrong with a rewritten question and answer, apart from whether they are true."""
    if not question or not answer:
        return "empty_text"
    if is_chinese(original_question) != is_chinese(question):
        return "other_language"
    if _SOURCE_MENTION.search(question) or _SOURCE_MENTION.search(answer):
        return "tells_source"
    # A yes gives nothing away; other words of the gold do, unless the question had them before
    # ("CT or MRI?").
    leaks = (
        yes_no.as_polarity(gold) is None
        and mentions_gold(gold, to_plain_text(question))
        and not mentions_gold(gold, to_plain_text(original_question))
    )
    return "leaks_answer" if leaks else None


def cites_gold(text: str) -> bool:
    """Whether a text says that the answer was given to its writer."""
    return _GIVEN_ANSWER_MENTION.search(text) is not None


def _named_sides(text: str) -> set[str]:
    return {name for name, pattern in _SIDES.items() if pattern.search(text)}


def _find_gold(gold: str, text: str) -> list[re.Match[str]]:
    """The occurrences of a gold answer; punctuation and blanks between its words may differ."""
    tokens = normalize_words(to_plain_text(gold)).replace("|", " ").split()
    if not tokens:
        return []
    # Chinese words have no boundary.
    patterns = [
        rf"(?<![^\W_]){re.escape(token)}(?![^\W_])" if token.isascii() else re.escape(token)
        for token in tokens
    ]
    return list(re.finditer(r"[\W_]*".join(patterns), text, re.I))
