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

from lingshu.core.forms import Form, Request, Unusable, one
from lingshu.core.nouns import Drop, Sample
from lingshu.ops._teaching import Prompts, request
from lingshu.scoring import yes_no
from lingshu.scoring._text import CJK, plain, words

Check = Literal["rule", "open", "always"]
CHECKS: tuple[Check, ...] = ("rule", "open", "always")
PROMPTS = "agreement"
CONTRADICTS = "contradicts_gold"

_CHINESE = re.compile(f"[{CJK}]")
# How a text speaks that was written from another one, and how one that knows the answer beforehand.
_TELLS = re.compile(
    r"\b(?:original|given|provided|reference|short) (?:question|answer)s?\b|\baccording to the"
    r" answer\b"
    r"|(?:原始|给定|参考|标准)(?:的)?(?:问题|答案)",
    re.IGNORECASE,
)
_CITES = re.compile(
    r"\b(?:given|provided|stated|supplied|reference|gold) answer\b|\banswer (?:is|was)"
    r" (?:given|provided|stated|supplied)\b"
    r"|(?:给定|提供|参考|标准)(?:的)?答案",
    re.IGNORECASE,
)
_LEFT, _RIGHT = re.compile(r"\bleft\b|左", re.I), re.compile(r"\bright\b|右", re.I)
# A denial reaches to the end of its clause, over some words of English or characters of Chinese.
_DENIAL = re.compile(
    r"(?:\b(?:no|not|without|never|hardly|neither|nor|absent|excludes?|rules? out|instead of|rather"
    r" than|free of|negative for)\b"
    r"|n't\b|没有|未见|不是|并非|不存在|排除|未|无|非)[^.,;:!?，。；：！？]{0,40}$",
    re.I,
)
# A denial behind what it denies. It may deny something else ("the lung is not clear"): it leaves a
# rule in doubt, and no more.
_DENIED = re.compile(
    r"^[^.,;:!?，。；：！？]{0,40}?(?:\b(?:not|absent|excluded|ruled"
    r" out|unlikely)\b|n't\b|\bcannot\b)"
    r"|^[^.,;:!?，。；：！？]{0,40}?(?:排除|不存在|未见|阴性|不支持|可能性[小低])",
    re.I,
)


def contradiction(gold: str, text: str, *, question: str = "") -> str | None:
    """How a text contradicts a gold answer by rule: `polarity`, `side` or `denied`; None where no
    rule finds that it does.
    """
    verdict, said = yes_no.as_verdict(gold), plain(text)
    if verdict is not None and yes_no.read(said).verdict not in (None, verdict):
        return "polarity"
    # Of a question with one side the answer speaks too: "Is the left lung clear?" is not answered
    # by the right one.
    meant, told = sides(gold) or sides(question), sides(said)
    if len(meant) == 1 and told and not meant & told:
        return "side"
    return (
        "denied" if verdict is None and _places(gold, said) and not mentions(gold, said) else None
    )


def supports(gold: str, text: str) -> bool:
    """Whether a text plainly gives a gold answer: its yes or no, or its words, not denied."""
    verdict = yes_no.as_verdict(gold)
    if verdict is not None:
        return yes_no.read(text).verdict == verdict
    said, meant = plain(text), sides(gold)
    # "the left lung and the right one" says more than "the left lung"
    if len(meant) == 1 and sides(said) - meant:
        return False
    return any(
        not _DENIAL.search(said[: place.start()]) and not _DENIED.search(said[place.end() :])
        for place in _places(gold, said)
    )


def mentions(gold: str, text: str) -> bool:
    """Whether the words of a gold answer stand in a text in their order, at least once undenied."""
    return any(not _DENIAL.search(text[: place.start()]) for place in _places(gold, text))


def sides(text: str) -> set[str]:
    """The sides that a text names, `left` and `right`."""
    return {name for name, pattern in (("left", _LEFT), ("right", _RIGHT)) if pattern.search(text)}


def _places(gold: str, text: str) -> list[re.Match[str]]:
    """Where a gold answer stands in a text, word for word; punctuation and blanks between its words
    make no difference.
    """
    parts = words(plain(gold)).replace("|", " ").split()
    if not parts:
        return []
    # Chinese words have no boundary, and need none.
    bounded = [
        rf"(?<![^\W_]){re.escape(part)}(?![^\W_])" if part.isascii() else re.escape(part)
        for part in parts
    ]
    return list(re.finditer(r"[\W_]*".join(bounded), text, re.I))


def text_fault(asked: str, gold: str, question: str, said: str) -> str | None:
    """What is wrong with a question and answer that were written anew, apart from whether they are
    true.
    """
    if not question or not said:
        return "empty_text"
    if bool(_CHINESE.search(asked)) != bool(_CHINESE.search(question)):
        return "other_language"
    if _TELLS.search(question) or _TELLS.search(said):
        return "tells_source"
    # A yes is no secret; other words of the gold are, unless the question had them before ("CT or
    # MRI?").
    open_gold = yes_no.as_verdict(gold) is None
    if open_gold and mentions(gold, plain(question)) and not mentions(gold, plain(asked)):
        return "leaks_answer"
    return None


def cites_gold(text: str) -> bool:
    """Whether a text says that the answer was given to its writer."""
    return _CITES.search(text) is not None


# --- the second call
# --------------------------------------------------------------------------------------------------


def agreed(
    told: Prompts, sample: Sample, *, question: str, gold: str, text: str, check: Check
) -> Generator[Sequence[Request[Any]], Sequence[Any], Drop | None]:
    """In a talk: why an answer cannot stand beside the gold, None where it can.

    `check` "rule" asks nobody and rejects what no rule bears out, "open" asks where the rules are
    silent, and "always" asks of every answer that no rule rejects.
    """
    fault = contradiction(gold, text, question=question)
    if fault:
        return Drop(sample.id, CONTRADICTS, f"by rule: {fault}")
    sure = supports(gold, text)
    if check == "rule" and not sure:
        return Drop(sample.id, "gold_missing", "no rule finds the gold in the answer")
    if check == "rule" or (check == "open" and sure):
        return None
    ask = told.fill("agree", question=question, gold=gold, answer=text)
    if (yield from one(request(sample, ask, _VERDICT))):
        return None
    return Drop(
        sample.id,
        CONTRADICTS,
        "the second call finds that the answer does not say what the gold says",
    )


def _agrees(text: str) -> bool:
    word = re.match(r"\W*(agrees|contradicts)\b", text, re.IGNORECASE)
    if word is None:
        raise Unusable("no_verdict", "the first word is neither Agrees nor Contradicts")
    return word[1].casefold() == "agrees"


_VERDICT = Form(_agrees, "first word Agrees or Contradicts")
