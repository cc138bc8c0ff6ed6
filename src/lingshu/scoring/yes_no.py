"""Grades a yes or no, in English or Chinese, by whole words: "nodule" holds no "no".

The explicit verdict counts ("the answer is no"), else a yes or no that opens the reply, else what its
clauses affirm or deny of the asked finding, else the word that closes it. A hedge or a contradiction
is `multiple`. Words such as "normal" are neither yes nor no: what they mean depends on the question.

A frame ("there is", "X is seen", "the image shows", "I see") only says that a clause speaks of
whether something is there; the denials in the clause are counted, so that a sentence and its denial
are always read alike.

RANGE: 1.0 right, 0.0 wrong, None where no verdict could be read.
"""

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.reply_text import (
    CJK,
    FinalTurn,
    is_empty,
    is_refusal,
    make_score,
    read_turns,
    require_golds,
    to_plain_text,
)
from lingshu.core.types import Sample, Score, Status

RANGE = (0.0, 1.0)
_END_CHARS = 2_000  # of a long reply its clauses are read at either end
Polarity = Literal["yes", "no"]

# "No doubt there is a mass" denies nothing, and "no firm conclusion can be drawn" leaves it open.
_YES = r"yes|yeah|yep|yup"
_NO = (
    r"no(?!\s+(?:doubt|question|(?:\w+\s+){0,2}change)\b)"
    r"(?!\s+(?:\w+\s+){0,2}(?:answer|conclusion|determination|assessment|statement|diagnosis)\s+(?:can|could|is"
    r" possible)\b)|nope"
)
# "没错" agrees; "不一定" and "不能排除" leave it open, and undecidable text is not a denial.
_ZH_UNDECIDED = (
    r"不是没有?|不是无|并非没有?|并非无|不一定|不见得|不能(?:完全|绝对)?排除|不(?:完全)?排除|不除外|不好说|不错|不假"
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
# "Yes is not the right answer", "Saying yes would be wrong".
_REJECTED = re.compile(
    rf"\b(?:(?P<yes>{_YES})|(?P<no>no))\b[\"')\]]*\s+(?:is|would be|seems|was)\s+(?:clearly\s+)?"
    r"(?:not|wrong|incorrect|false|untrue)\b",
    re.I,
)
# A word that stands for the whole answer, not the head of "no pneumothorax".
_STANDS_ALONE = re.compile(r"[\s\"')\]*]*(?:[,.;:!?\-\u2013\u2014(]|$|\n)")
_NOT = r"(?:\s+not|n['’]t|\s+never)"
_BE = r"(?:is|are|was|were|be|been|being)"
_SEEM = r"(?:appears?|seems?|looks?|remains?|exists?)"
_ADVERB = (
    r"(?:(?:a|an|the|any|also|clearly|indeed|definitely|obviously|readily|well|still|now|actually|really"
    r"|apparently|probably|likely|most likely|possibly|convincingly|currently|quite|very)\s+){0,3}"
)
_STATE = (
    r"present|seen|visible|visuali[sz]ed|identified|identifiable|evident|noted|detected|detectable|observed"
    r"|observable|appreciated|appreciable|demonstrated|apparent|there|found|shown|depicted|discernible"
    r"|recogni[sz]able|suspected|likely|confirmed|suggested|indicated|included|involved"
)
_ABSENT = (
    r"absent|lacking|missing|unlikely|excluded|ruled\s+out|invisible|undetectable|unremarkable"
)
_SHOW = (
    r"shows?|showed|demonstrates?|demonstrated|reveals?|revealed|contains?|contained|exhibits?|displays?"
    r"|depicts?|indicates?|suggests?|has|have|had|includes?|presents?(?=\s+(?:with|no|a|an|evidence))"
)
_SEE = r"see|find|identify|detect|observe|notice|note|appreciate|recogni[sz]e|spot|discern|visuali[sz]e"

# Sentences that speak of whether something is there.
_FRAMES = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        # "there is", "there does not appear to be", "not only is there"
        rf"\bexists?\b|\bthere(?:['’]s|\s+(?:(?:do|does|did|has|have)(?:{_NOT})?\s+)?(?:{_BE}|{_SEEM})\b)|\b{_BE}\s+there\b",
        # "the image does not show", "it fails to show", "the patient has"
        rf"^(?:(?:the|this|that|these|those|his|her|an?|it|they|he|she)\s+)?(?:[\w'’-]+\s+){{0,6}}?(?:{_SHOW})\b",
        # "is consistent with", "is positive for"
        rf"\b(?:{_BE}|{_SEEM})(?:{_NOT})?\s+(?:\w+ly\s+)?(?:in)?(?:consistent|compatible)\s+with\b"
        rf"|\b(?:{_BE}|{_SEEM})(?:{_NOT})?\s+(?:suggestive|indicative)\s+of\b|\b(?:positive|negative)\s+for\b",
        # "I do not see", "we can identify"
        rf"\b(?:i|we|one|you)\s+(?:[\w'’]+\s+){{0,3}}?(?:{_SEE})\b",
        # "X is not seen", "X cannot be seen"
        rf"\b(?:{_BE}|{_SEEM})(?:{_NOT})?\s+(?:to\s+be\s+)?{_ADVERB}(?:{_STATE}|{_ABSENT})\b",
        # "X: absent", "X detected"
        rf"^[^:]{{1,60}}:\s*(?:not\s+)?(?:{_STATE}|{_ABSENT}|yes|positive|negative|none|no)\b\W*$",
        rf"^(?:[\w-]+\s+){{1,6}}(?:{_STATE}|{_ABSENT})\W*$",
        # "no X", "evidence of X"
        r"^\W*(?:no|without|absence\s+of|lack\s+of|free\s+of|evidence\s+of|signs?\s+of)\s+(?=\w)",
    )
)
# Each is one denial: none affirms, one denies, and the denial of a denial is left to a reader.
_DENIAL = re.compile(
    r"\bno\b(?!\s+(?:doubt|question|longer|(?:\w+\s+){0,2}change)\b)|\bnot\b(?!\s+only\b)|n['’]t\b|\bcannot\b|\b(?:never|none|neither|without)\b"
    r"|\babsen(?:t|ce)\b|\black(?:s|ing)?\b|\bnegative\b|\bfail(?:s|ed)?\s+to\b|\b(?:free|devoid|clear)\s+of\b|\bunlikely\b|\bexcluded\b"
    r"|\bruled\s+out\b|\bmissing\b|\binvisible\b|\bundetect\w+|\binconsistent\b|\bincompatible\b|\bden(?:y|ies|ied)\b|(?<!partially )(?<!partly )(?<!incompletely )\b(?:resolved|disappeared)\b|\bfalse\b",
    re.I,
)
_OPEN = re.compile(
    r"\b(?:may|might|could)\s+(?:or\s+may\s+not\s+)?(?:be|have|represent|also|show|indicate|suggest)\b(?!\s+(?:seen|identified|noted|detected|appreciated|visuali[sz]ed|observed|found|demonstrated|made out)\b)"
    r"|\bpossib(?:le|ly|ility)\b|\b(?:can(?:no|'|’)t|can\s*not|could\s+not|couldn['’]t|not)\s+(?:\w+\s+)?(?:be\s+)?"
    r"(?:\w+\s+)?(?:excluded?|ruled?\s+out|determined?|assessed?|evaluated?|confirmed?|certain|sure|clear|possible)\b"
    r"|\bno\s+(?:\w+\s+){0,2}(?:answer|conclusion|determination|assessment|statement|diagnosis)\s+(?:can|could|is\s+possible)"
    r"|\b(?:unclear|uncertain|indeterminate|inconclusive|equivocal|whether|if|unless)\b"
    r"|^\W*(?:is|are|was|were|does|do|did|has|have|can)\s.*\?$",
    re.I,
)
_SENTENCE = re.compile(r"(?<=[.!?;\n。！？；])\s*|\n")
_CLAUSE = re.compile(
    r",?\s+(?:but|however|although|though|whereas|while|yet)\s+|,\s+(?=(?:and\s+)?there\s)|,\s+(?:so|and)\s+|,\s+(?=no\s)",
    re.I,
)
_LEAD_IN = re.compile(
    r"^\W*(?:(?:(?:well|so|overall|therefore|thus|hence|however|indeed|and|but|also|finally)\b[\s,:]+)|(?:yes|no)\s*[,:]\s*)*"
    r"(?:(?:according\s+to|based\s+on|in|on|from|given|upon|after|considering|looking\s+at|with)\b[^,]{0,80},\s*)?"
    r"(?:it\s+(?:appears|seems|looks|is\s+(?:likely|clear|evident|apparent|probable|true))\s+(?:like\s+|as\s+(?:if|though)\s+)?(?:that\s+)?"
    r"|(?:i|we)\s+(?:would\s+)?(?:think|believe|conclude|say|suspect|find|can\s+(?:see|confirm)|confirm|see|note)\s+that\s+|(?:i|we)\s+(?:think|believe|suspect)\s+"
    r"|(?:the|this)\s+\w+\s+(?:shows?|indicates?|suggests?|demonstrates?|reveals?)\s+that\s+)?",
    re.I,
)
_ONLY_LEAD_IN = re.compile(
    r"^\W*(?:according\s+to|based\s+on|in|on|from|overall|therefore|thus|however|given|upon|well|so)\b(?!.*\b(?:there|is|are|was|were|has|have|shows?|no|not)\b)[^,]{0,80}$",
    re.I,
)
_DOUBT_FREE = re.compile(r"^\W*(?:no|without)\s+(?:a\s+)?(?:doubt|question)\b[\s,]*", re.I)
_DOUBT = re.compile(r"\b(?:doubt|question)\b", re.I)
_BARE = re.compile(r"^[\W_]*(.*?)[\W_]*$", re.S)
_THAT_IS = re.compile(r"^(?:that|this|it)(?:'s| is)\s+(?=(?:in?correct|right|wrong|true|false)$)")
_HEDGED_WORD = re.compile(
    r"^(?:(?:most|very|highly|quite)\s+)?(?:likely|probably|possibly|presumably|apparently)\s+(yes|no)\b"
)

_ZH_FRAME = re.compile(
    r"可以?看到|[可未]?见到?|发现|显示|存在|看不?[到见清]|见不到|找不到|观察到|检出|提示|包含|具有|出现|有|无(?!法|误|疑)"
)
_ZH_DENIAL = re.compile(r"没有?|无(?!误|疑)|未|不(?!错|仅|但|只|同)|非(?!常)|缺")
_ZH_OPEN = re.compile(
    r"不一定|不见得|不能(?:完全|绝对)?排除|不(?:完全)?排除|不除外|不好说|无法|没法|没办法|不是没有|不是无|并非没有|是否|有没有|有无|不清楚|不确定"
)
_ZH_SENTENCE = re.compile(r"[,，.。;；!！?？\n]|但是?|不过|然而")
_ZH_QUESTION_WORDS = re.compile(
    "是否|有没有|有无|是不是|存在|图中|图像|图片|影像|这张|这幅|显示|可见|包含|出现|吗|请问|该|患者|病人|什么|哪"
)
_INNER_DENIAL = re.compile(
    r"(?<=\w)\s+(?:(?:with|and|but)\s+no|without|with\s+(?:an?\s+)?absence\s+of|and\s+without)\b",
    re.I,
)
# What is asked for: "is there (evidence of) X in ...", "does it show X", "can X be seen".
_QUESTION_OBJECT = re.compile(
    r"\b(?:(?:is|are|was|were)\s+there|(?:do|does|did|can|could)\b[^?]{0,60}?\b(?:show|have|demonstrate|reveal|contain|see|indicate|suggest|display|exhibit|include|find|identify))\s+"
    r"(?:(?:an?|any|the|some|evidence|signs?|findings?|indications?|presence|of|obvious|visible|significant)\s+)*"
    r"(?P<what>[^?]+?)(?=\s+(?:in|on|of|at|within|seen|visible|present|noted|near|along|around|inside|with|to|from|as|that|which|involving|affecting|identified|for|under|over|between)\b|[?.]|$)"
)


class Clause(NamedTuple):
    """What a clause says, and whether it speaks of what was asked.

    `is_complete`: its sentence has ended.
    """

    polarity: Polarity
    is_relevant: bool
    is_complete: bool


class Topic(NamedTuple):
    """What a question asks about: its content words, those of which a clause must name one, and the
    side it names. Chinese in pairs of characters.
    """

    words: frozenset[str]
    heads: frozenset[str]
    sides: frozenset[str]


def _read_clauses(text: str, question: str) -> list[Clause]:
    """The clauses of a plain text that affirm or deny something.

    Where the question is unknown, nothing is returned for a sentence of which a part is not read:
    what it does not deny may be what was asked.
    """
    topic = _parse_question(question)
    clauses: list[Clause] = []
    if len(text) > 2 * _END_CHARS:
        text = f"{text[:_END_CHARS]}\n{text[-_END_CHARS:]}"
    sentences = [sentence for sentence in _SENTENCE.split(text) if sentence.strip()]
    for index, sentence in enumerate(sentences):
        is_complete = index + 1 < len(sentences) or sentence.rstrip()[-1:] in ".!?;。！？；"
        is_chinese = re.search(f"[{CJK}]", sentence) is not None
        parts = (_ZH_SENTENCE if is_chinese else _CLAUSE).split(sentence)
        polarities: list[tuple[str, Polarity | None]] = [
            (part, _read_chinese(part) if is_chinese else _read_clause(part.strip(), topic))
            for part in parts
            if part.strip() and not _ONLY_LEAD_IN.match(part)
        ]
        if not topic.words and any(polarity is None for _, polarity in polarities):
            continue
        clauses += [
            Clause(polarity, _is_relevant(part, topic), is_complete)
            for part, polarity in polarities
            if polarity is not None
        ]
    return clauses


def _has_topic(question: str) -> bool:
    """Whether it is known what a question asks about."""
    return bool(_parse_question(question).words)


class Words(NamedTuple):
    """The words of yes_no_words.json: whole replies that affirm or deny, and the words of a question
    or a clause that do not say what it is about.
    """

    verdicts: Mapping[str, Polarity]
    function_words: frozenset[str]


@cache
def _words() -> Words:
    table = json.loads(Path(__file__).with_name("yes_no_words.json").read_text(encoding="utf-8"))
    verdicts: dict[str, Polarity] = {
        **dict.fromkeys(table["yes"], "yes"),
        **dict.fromkeys(table["no"], "no"),
    }
    return Words(verdicts, frozenset(table["function_words"].split()))


def _names_topic(text: str, question: str) -> bool:
    """Whether a text names what a question asks about."""
    heads, lowercase = _parse_question(question).heads, text.casefold()
    return bool(heads & set(_content_words(lowercase))) or any(
        head in lowercase for head in heads if not head.isascii()
    )


def _bare_verdict(text: str) -> Polarity | None:
    """What a whole reply of a few words says: "Absent." is no, "It appears so." yes."""
    if len(text) > 60:
        return None
    words = _BARE.sub(r"\1", text).casefold().replace("’", "'")
    words = re.split(r"[,(;.]", words, maxsplit=1)[0].strip()
    words = _THAT_IS.sub("", words)
    if match := _HEDGED_WORD.match(words):
        return "yes" if match[1] == "yes" else "no"
    return _words().verdicts.get(words)


def _read_clause(clause: str, topic: Topic) -> Polarity | None:
    if _OPEN.search(clause):
        return None
    if topic.words:
        clause = _DOUBT_FREE.sub("", clause)
    elif _DOUBT.search(clause):
        return None
    lead_in = _LEAD_IN.match(clause)
    rest = clause[lead_in.end() :] if lead_in else clause
    if verdict := _bare_verdict(rest):
        return verdict
    if not any(frame.search(rest) for frame in (*_FRAMES, *_topic_frames(topic))):
        return None
    # "There is a mass with no calcification" denies only what follows.
    stated, *inner = _INNER_DENIAL.split(rest, maxsplit=1)
    if inner and stated.strip():
        if not topic.words:
            return None
        if any(head in inner[0].casefold() for head in topic.heads):
            return "no"
        rest = stated
    return _polarity_of(len(_DENIAL.findall(rest)))


def _polarity_of(denials: int) -> Polarity | None:
    if denials > 1:
        return None
    return "no" if denials else "yes"


@lru_cache(maxsize=4096)
def _topic_frames(topic: Topic) -> tuple[re.Pattern[str], ...]:
    """ "X is (not) enlarged" where the question asks whether X is enlarged, and X alone."""
    words = sorted(word for word in topic.heads if word.isascii())
    if not words:
        return ()
    named = rf"(?:{'|'.join(map(re.escape, words))})(?:s|es)?\b"
    return (
        re.compile(rf"\b(?:{_BE}|{_SEEM})(?:{_NOT})?\s+(?:[\w-]+\s+){{0,4}}?{named}", re.I),
        re.compile(
            rf"\b(?:do|does|did)(?:{_NOT})?\s+(?:{_SEEM}|appear|seem|look)\s+(?:[\w-]+\s+){{0,3}}?{named}",
            re.I,
        ),
        re.compile(rf"^\W*(?:[\w-]+\s+){{0,4}}?{named}\W*$", re.I),
    )


def _read_chinese(clause: str) -> Polarity | None:
    if _ZH_OPEN.search(clause) or not _ZH_FRAME.search(clause):
        return None
    return _polarity_of(len(_ZH_DENIAL.findall(clause)))


@lru_cache(maxsize=4096)
def _parse_question(question: str) -> Topic:
    lowercase = question.casefold()
    words = _content_words(lowercase)
    match = _QUESTION_OBJECT.search(lowercase)
    # "a mass or a nodule": either is what was asked.
    parts = re.split(r"\b(?:or|and)\b|,|/", match["what"]) if match else []
    phrases = [phrase for part in parts if (phrase := _content_words(part))]
    # "pleural effusion" is named by its last word, "intraparenchymal abnormality" by either.
    heads = {
        word
        for phrase in phrases
        for word in (phrase if phrase[-1] == "abnormality" else phrase[-1:])
    } or set(words)
    stripped = _ZH_QUESTION_WORDS.sub(" ", lowercase)
    pairs = {"".join(pair) for run in re.findall(f"[{CJK}]+", stripped) for pair in pairwise(run)}
    sides = frozenset(re.findall(r"\b(?:left|right)\b", lowercase)) | frozenset(
        re.findall("[左右]", lowercase)
    )
    return Topic(frozenset(words) | pairs, frozenset(heads) | pairs, sides)


def _content_words(text: str) -> list[str]:
    words = (_stem(word) for word in re.findall(r"[a-z][a-z-]+", text))
    return [word for word in words if word not in _words().function_words]


def _stem(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return (
        word[:-1] if word.endswith("s") and not word.endswith(("ss", "is", "us", "ous")) else word
    )


def _is_relevant(clause: str, topic: Topic) -> bool:
    lowercase = clause.casefold()
    sides = set(re.findall(r"\b(?:left|right)\b", lowercase)) | set(re.findall("[左右]", lowercase))
    if topic.sides and sides and not topic.sides & sides:
        return False
    if re.search(f"[{CJK}]", clause):
        # "可能有": nothing else is named.
        return len(re.findall(f"[{CJK}]", clause)) <= 3 or any(
            pair in lowercase for pair in topic.heads
        )
    words = set(_content_words(lowercase))
    if not words:
        # "It is not present."
        return True
    named = topic.heads & words
    return bool(named) and 2 * len(named) >= min(len(topic.heads), 4)


class ParsedPolarity(NamedTuple):
    """A verdict, None with the status that says why there is none.

    `is_final`: whatever would follow, the reply has given its verdict.
    """

    polarity: Polarity | None
    status: Status
    is_final: bool = True


def parse_polarity(reply: str, question: str = "") -> ParsedPolarity:
    """The yes or no that a reply gives to a question (which may be unknown: "")."""
    parsed = ParsedPolarity(None, "empty")
    for turn in read_turns(reply):
        parsed = _parse_turn(turn, question)
        if parsed.status not in ("empty", "unparsed"):
            break
    return parsed


def _parse_turn(turn: FinalTurn, question: str) -> ParsedPolarity:
    text = to_plain_text(turn.content)
    if is_empty(text):
        return ParsedPolarity(None, turn.blank_status)
    if _HEDGE.search(text):
        return ParsedPolarity(None, "multiple")
    if rejected := _REJECTED.search(text):
        polarity: Polarity = "no" if rejected["yes"] else "yes"
        clauses = _read_clauses(text[rejected.end() :], question)
        if any(clause.polarity != polarity for clause in clauses):
            return ParsedPolarity(None, "multiple")
        return ParsedPolarity(polarity, "ok")
    explicit = list(_EXPLICIT.finditer(text))
    if explicit:
        return _polarity_of_match(explicit[-1])
    # "No answer can be given" opens with a no that is none.
    leading = _LEADING.match(text)
    if leading and leading["no"] and is_refusal(text[:40]):
        leading = None
    if leading and _STANDS_ALONE.match(text, leading.end()):
        return _polarity_of_match(leading)
    clauses = _read_clauses(text, question)
    relevant: set[Polarity] = {clause.polarity for clause in clauses if clause.is_relevant}
    if leading and not relevant and not clauses:
        return _polarity_of_match(leading)
    if is_refusal(text) and not (relevant and _names_topic(text, question)):
        return ParsedPolarity(None, "refused")
    tail = text[-80:]
    trailing = _TRAILING.search(tail, max(0, len(tail) - 40))
    if trailing and not _DENIED.search(tail[: trailing.start() + 1]):
        return ParsedPolarity("yes" if trailing["yes"] or trailing["zyes"] else "no", "ok")
    if verdict := _bare_verdict(text):
        return ParsedPolarity(verdict, "ok")
    return _polarity_of_clauses(clauses, relevant, has_question=_has_topic(question))


def _polarity_of_clauses(
    clauses: list[Clause], relevant: set[Polarity], *, has_question: bool
) -> ParsedPolarity:
    """What the clauses about the asked thing say; without a question, what all of them say."""
    polarities = relevant or (set() if has_question else {c.polarity for c in clauses})
    if not polarities:
        return ParsedPolarity(None, "unparsed")
    if len(polarities) > 1:
        return ParsedPolarity(None, "multiple")
    is_final = any(c.is_complete for c in clauses if c.polarity in polarities)
    return ParsedPolarity(next(iter(polarities)), "ok", is_final)


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
    polarity, status, is_final = parse_polarity(reply, sample.question)
    if polarity is None:
        return Score(None, status)
    return make_score(
        is_correct=polarity in gold_polarities, prediction=polarity, is_final=is_final
    )
