"""Grades a yes or no, in English or Chinese, by whole words: "nodule" holds no "no".

The explicit verdict counts ("the answer is no"), else the word that opens the reply, else the one
that closes it, else a plain denial ("There is no effusion."). A hedge is `multiple`. Words such as
"normal" are neither yes nor no: what they mean depends on the question.

RANGE: 1.0 right, 0.0 wrong, None where no verdict could be read.
"""

import re
from typing import Literal, NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.reply_text import (
    final_answer,
    is_empty,
    is_refusal,
    make_score,
    require_golds,
    strip_reasoning,
    to_plain_text,
)
from lingshu.core.types import Sample, Score, Status

RANGE = (0.0, 1.0)
Polarity = Literal["yes", "no"]

# "No doubt there is a mass" denies nothing, and "no firm conclusion can be drawn" leaves it open.
_YES = r"yes|yeah|yep|yup"
_NO = (
    r"no(?!\s+(?:doubt|question)\b)"
    r"(?!\s+(?:\w+\s+){0,2}(?:answer|conclusion|determination|assessment|statement|diagnosis)\s+(?:can|could|is"
    r" possible)\b)|nope"
)
# "没错" agrees; "不一定" and "不能排除" leave it open, and undecidable text is not a denial.
_ZH_UNDECIDED = (
    r"不一定|不见得|不能(?:完全|绝对)?排除|不(?:完全)?排除|不除外|不好说|不错|不假"
    r"|没错|没问题|没法|没办法|没有办法|没有足够的?(?:信息|资料)|无法|无误|无疑"
)
_ZH_NO, _ZH_YES = (
    rf"(?!{_ZH_UNDECIDED})(?:不是|没有|不存在|不对|不会|不能|不可以|否|无|没|不)",
    r"没错|是的|是(?!否|不是|或)|有(?!没有|无)|对(?!不)|存在|可以|会(?!否)|能(?!否)",
)
_WORD = rf"(?:(?P<yes>(?:{_YES})\b|{_ZH_YES})|(?P<no>(?:{_NO})\b|{_ZH_NO}))"
_EXPLICIT = re.compile(
    r"(?:\b(?:answer|ans|verdict|conclusion)\b(?:\s+to\s+[^.:\n]{1,60}?)?\s*(?:(?:is|would"
    r" be|should be|must be|:|=|-)\s*)*"
    r"|\b(?:therefore|thus|hence|so)\b[\s,:]*|(?:答案|结论|回答)(?:应该|应)?(?:是(?!否[^\W_])|为|:)*\s*|(?:因此|所以|综上)[,:\s]*)"
    rf"[\"'(\[]*{_WORD}",
    re.I,
)
_LEADING = re.compile(rf"^[\W_]*{_WORD}", re.I)
_TRAILING = re.compile(
    rf"(?:^|[\W_])(?:(?P<yes>{_YES})|(?P<no>{_NO}))[\W_]*$|[,.:\s](?:(?P<zyes>是的?|有|对)|(?P<zno>{_ZH_NO}))[\W_]*$",
    re.I,
)
# "The answer is not yes." ends in a yes that it denies.
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|reason to)|n't)\s+"
    r"(?:(?:an?|be|say|saying|answer|necessarily|definitely|clearly|simply)\s+){0,2}[\"'(\[]*$",
    re.I,
)
_HEDGE = re.compile(
    rf"\b(?:{_YES})\b[\s,]*(?:or|/|and)[\s,]*(?:{_NO})\b|\b(?:{_NO})\b[\s,]*(?:or|/|and)[\s,]*(?:{_YES})\b"
    r"|是(?:或|/|还是)(?:否|不是)|^\W*(?:是否|有没有|是不是)\W*$",
    re.I,
)
# "not" is a verdict only where it denies the whole: alone, or behind the subject of a sentence that
# ends there.
_DENIAL = re.compile(
    r"^\W*not(?:\s+(?:really|present|seen|visible|at all|likely))?\W*$"
    r"|^\W*(?:(?:according to|based"
    r" on|in|on|from|overall|however)\b[^,]{0,60},\s*)?(?:there|it|this|that|they|these)\s+"
    r"(?:(?:is|are|was|were|does|do|did|has|have)\s+no(?:t|ne)?\b(?!\s+(?:doubt|question)\b)|(?:is|are|was|were|does|do|did|has|have)n't\b)"
    r"|^\W*(?:the|this)\s+(?:\w+\s+){1,3}(?:shows?|has|have|demonstrates?|reveals?|contains?)\s+no\b"
    r"|^\W*i\s+(?:see|find|can\s+see|do\s+not\s+see|don't\s+see|cannot\s+see|can't\s+see)\s+(?:no|any)\b",
    re.I,
)
_AFFIRMATION = re.compile(
    r"^\W*(?:there|it|this|that|they|these)\s+(?:is|are|was|were|does|do|did|has|have)\W*$", re.I
)
_FIRST_SENTENCE = re.compile(r"[.!?;\n]")


class ParsedPolarity(NamedTuple):
    """A verdict, None with the status that says why there is none."""

    polarity: Polarity | None
    status: Status


def parse_polarity(reply: str) -> ParsedPolarity:
    """The yes or no that a reply gives."""
    text = strip_reasoning(reply)
    answer = final_answer(text)
    text = to_plain_text(text if answer is None else answer)
    if is_empty(text):
        return ParsedPolarity(None, "empty")
    if _HEDGE.search(text):
        return ParsedPolarity(None, "multiple")
    explicit = list(_EXPLICIT.finditer(text))
    if explicit:
        return _polarity_of_match(explicit[-1])
    # "No answer can be given" opens with a no that is none.
    leading = _LEADING.match(text)
    if leading and not (leading["no"] and is_refusal(text[:40])):
        return _polarity_of_match(leading)
    if is_refusal(text):
        return ParsedPolarity(None, "refused")
    tail = text[-80:]
    trailing = _TRAILING.search(tail, max(0, len(tail) - 40))
    if trailing and not _DENIED.search(tail[: trailing.start() + 1]):
        return ParsedPolarity("yes" if trailing["yes"] or trailing["zyes"] else "no", "ok")
    first_sentence = _FIRST_SENTENCE.split(text, maxsplit=1)[0]
    if _DENIAL.match(first_sentence):
        return ParsedPolarity("no", "ok")
    if _AFFIRMATION.match(first_sentence):
        return ParsedPolarity("yes", "ok")
    return ParsedPolarity(None, "unparsed")


def _polarity_of_match(match: re.Match[str]) -> ParsedPolarity:
    return ParsedPolarity("yes" if match["yes"] else "no", "ok")


def as_polarity(gold: str) -> Polarity | None:
    """A gold answer as a verdict; None where it is anything but a bare yes or no."""
    text = to_plain_text(gold).strip(" .").casefold()
    if text in {"yes", "是", "是的", "有", "对"}:
        return "yes"
    return "no" if text in {"no", "否", "不是", "没有", "无", "不", "不对"} else None


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply gives the same verdict as the gold.

    Raises:
        InputError: the sample has no gold, or one that is neither yes nor no.
    """
    gold_polarities = {as_polarity(gold) for gold in require_golds(sample)}
    if None in gold_polarities:
        raise InputError(
            f"sample {sample.id!r} has the gold {sample.gold!r}, which is neither yes nor no; use"
            " the scorer exact or auto."
        )
    polarity, status = parse_polarity(reply)
    if polarity is None:
        return Score(None, status)
    return make_score(is_correct=polarity in gold_polarities, prediction=polarity)
