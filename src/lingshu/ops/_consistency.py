"""Whether an answer says what the gold says: rules for polarity, side and denial, and a second
call. English and Chinese.

A rule finds a contradiction or a plain agreement, and is silent otherwise: "cardiomegaly" and "an
enlarged heart" are one finding to a reader and two to a rule. What rules leave open the teacher is
asked, without the image.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Any, Literal

from lingshu.core.reply_text import CJK, normalize_words, to_plain_text
from lingshu.core.response_format import InvalidResponse, Request, ResponseFormat, one_response
from lingshu.core.teacher_prompts import PromptSet, build_request
from lingshu.core.types import Drop, Sample
from lingshu.scoring import yes_no

CheckMode = Literal["rule", "open", "always"]
CHECK_MODES: tuple[CheckMode, ...] = ("rule", "open", "always")
PROMPT_NAME = "agreement"
CONTRADICTS = "contradicts_gold"

_CHINESE = re.compile(f"[{CJK}]")
# How a text speaks that was written from another one, and how one that knows the answer beforehand.
_SOURCE_MENTION = re.compile(
    r"\b(?:original|given|provided|reference|short) (?:question|answer)s?\b|\baccording to the"
    r" answer\b"
    r"|(?:原始|给定|参考|标准)(?:的)?(?:问题|答案)",
    re.IGNORECASE,
)
_GIVEN_ANSWER_MENTION = re.compile(
    r"\b(?:given|provided|stated|supplied|reference|gold) answer\b|\banswer (?:is|was)"
    r" (?:given|provided|stated|supplied)\b"
    r"|(?:给定|提供|参考|标准)(?:的)?答案",
    re.IGNORECASE,
)
_LEFT, _RIGHT = re.compile(r"\bleft\b|左", re.I), re.compile(r"\bright\b|右", re.I)
# A denial reaches to the end of its clause, over some words of English or characters of Chinese.
_NEGATION = re.compile(
    r"(?:\b(?:no|not|without|never|hardly|neither|nor|absent|excludes?|rules? out|instead of|rather"
    r" than|free of|negative for)\b"
    r"|n't\b|没有|未见|不是|并非|不存在|排除|未|无|非)[^.,;:!?，。；：！？]{0,40}$",
    re.I,
)
# A denial behind what it denies. It may deny something else ("the lung is not clear"): it leaves a
# rule in doubt, and no more.
_NEGATION_AFTER = re.compile(
    r"^[^.,;:!?，。；：！？]{0,40}?(?:\b(?:not|absent|excluded|ruled"
    r" out|unlikely)\b|n't\b|\bcannot\b)"
    r"|^[^.,;:!?，。；：！？]{0,40}?(?:排除|不存在|未见|阴性|不支持|可能性[小低])",
    re.I,
)


def find_contradiction(gold: str, text: str, *, question: str = "") -> str | None:
    """How a text contradicts a gold answer by rule: `polarity`, `side` or `denied`; None where no
    rule finds that it does.
    """
    verdict, plain_text = yes_no.as_polarity(gold), to_plain_text(text)
    if verdict is not None and yes_no.parse_polarity(plain_text).polarity not in (None, verdict):
        return "polarity"
    # Of a question with one side the answer speaks too: "Is the left lung clear?" is not answered
    # by the right one.
    gold_sides, text_sides = named_sides(gold) or named_sides(question), named_sides(plain_text)
    if len(gold_sides) == 1 and text_sides and not gold_sides & text_sides:
        return "side"
    return (
        "denied"
        if verdict is None and _find_gold(gold, plain_text) and not mentions_gold(gold, plain_text)
        else None
    )


def supports_gold(gold: str, text: str) -> bool:
    """Whether a text plainly gives a gold answer: its yes or no, or its words, not denied."""
    verdict = yes_no.as_polarity(gold)
    if verdict is not None:
        return yes_no.parse_polarity(text).polarity == verdict
    plain_text, gold_sides = to_plain_text(text), named_sides(gold)
    # "the left lung and the right one" says more than "the left lung"
    if len(gold_sides) == 1 and named_sides(plain_text) - gold_sides:
        return False
    return any(
        not _NEGATION.search(plain_text[: match.start()])
        and not _NEGATION_AFTER.search(plain_text[match.end() :])
        for match in _find_gold(gold, plain_text)
    )


def mentions_gold(gold: str, text: str) -> bool:
    """Whether the words of a gold answer stand in a text in their order, at least once undenied."""
    return any(not _NEGATION.search(text[: match.start()]) for match in _find_gold(gold, text))


def named_sides(text: str) -> set[str]:
    """The sides that a text names, `left` and `right`."""
    return {name for name, pattern in (("left", _LEFT), ("right", _RIGHT)) if pattern.search(text)}


def _find_gold(gold: str, text: str) -> list[re.Match[str]]:
    """Where a gold answer stands in a text, word for word; punctuation and blanks between its words
    make no difference.
    """
    tokens = normalize_words(to_plain_text(gold)).replace("|", " ").split()
    if not tokens:
        return []
    # Chinese words have no boundary, and need none.
    patterns = [
        rf"(?<![^\W_]){re.escape(token)}(?![^\W_])" if token.isascii() else re.escape(token)
        for token in tokens
    ]
    return list(re.finditer(r"[\W_]*".join(patterns), text, re.I))


def find_text_problem(original_question: str, gold: str, question: str, answer: str) -> str | None:
    """What is wrong with a question and answer that were written anew, apart from whether they are
    true.
    """
    if not question or not answer:
        return "empty_text"
    if bool(_CHINESE.search(original_question)) != bool(_CHINESE.search(question)):
        return "other_language"
    if _SOURCE_MENTION.search(question) or _SOURCE_MENTION.search(answer):
        return "tells_source"
    # A yes is no secret; other words of the gold are, unless the question had them before ("CT or
    # MRI?").
    is_open_gold = yes_no.as_polarity(gold) is None
    if (
        is_open_gold
        and mentions_gold(gold, to_plain_text(question))
        and not mentions_gold(gold, to_plain_text(original_question))
    ):
        return "leaks_answer"
    return None


def cites_gold(text: str) -> bool:
    """Whether a text says that the answer was given to its writer."""
    return _GIVEN_ANSWER_MENTION.search(text) is not None


# --- the second call
# --------------------------------------------------------------------------------------------------


def check_consistency(
    prompts: PromptSet, sample: Sample, *, question: str, gold: str, text: str, check: CheckMode
) -> Generator[Sequence[Request[Any]], Sequence[Any], Drop | None]:
    """In a talk: why an answer cannot stand beside the gold, None where it can.

    `check` "rule" asks nobody and rejects what no rule bears out, "open" asks where the rules are
    silent, and "always" asks of every answer that no rule rejects.
    """
    problem = find_contradiction(gold, text, question=question)
    if problem:
        return Drop(sample.id, CONTRADICTS, f"by rule: {problem}")
    is_supported = supports_gold(gold, text)
    if check == "rule" and not is_supported:
        return Drop(sample.id, "gold_missing", "no rule finds the gold in the answer")
    if check == "rule" or (check == "open" and is_supported):
        return None
    prompt = prompts.render("agree", question=question, gold=gold, answer=text)
    if (yield from one_response(build_request(sample, prompt, _VERDICT_FORMAT))):
        return None
    return Drop(
        sample.id,
        CONTRADICTS,
        "the second call finds that the answer does not say what the gold says",
    )


def _parse_verdict(text: str) -> bool:
    match = re.match(r"\W*(agrees|contradicts)\b", text, re.IGNORECASE)
    if match is None:
        raise InvalidResponse("no_verdict", "the first word is neither Agrees nor Contradicts")
    return match[1].casefold() == "agrees"


_VERDICT_FORMAT = ResponseFormat(_parse_verdict, "first word Agrees or Contradicts")
