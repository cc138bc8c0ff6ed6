"""What a reply about lettered options does not claim, and what it claims without naming an answer.

Set aside are answers under a condition, earlier answers, those that are corrected or struck out.
Denied are letters in lists that are ruled out, least likely, or the lesser of a comparison. Read are
lists of probabilities, rankings, and what an elimination leaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from lingshu.scoring._gated_pattern import GatedPattern

_LETTER = (
    r"(?<![A-Za-z0-9'-])[(\[<\"']{0,2}(?-i:[A-Z])[)\]>\"']{0,2}(?![A-Za-z0-9]|['-][A-Za-z0-9])"
)
_NOUN = r"(?:(?:the\s+)?(?:options?|choices?|letters?|answers?|选项)\s*:?\s*)?"
_JOIN = r"\s*(?:,\s*(?:and|or|nor)\b|,|/|&|\band\b|\bor\b|\bnor\b|、|和|或|与|及)\s*"
_GROUP = rf"{_NOUN}{_LETTER}(?:{_JOIN}{_NOUN}{_LETTER})*"
_LIST = rf"{_NOUN}{_LETTER}(?:{_JOIN}{_NOUN}{_LETTER})+"
_SINGLE = re.compile(r"(?<![A-Za-z0-9])[A-Z](?![A-Za-z0-9])")

_SENTENCE = re.compile(r"[^.;!?\n。；！？]*[.;!?\n。；！？]?")
_CONDITION = GatedPattern(
    r"\b(?:if|unless|only\s+when|provided\s+that|assuming|in\s+case)\b|^\s*had\s+(?:the|there|this|he|she|it)\b"
    r"|\bwould\s+(?:be|have\s+been)\s+(?:the\s+|my\s+|a\s+)?(?:\w+\s+)?(?:answer|choice|right|correct)\s+(?:in|with|for|when|were|had)\b"
    r"|\botherwise\b|如果|假如|除非|倘若|要是|若(?!干)|只有",
    re.I,
)
_NO_CONDITION = re.compile(
    r"\bif\s+(?:i|we|you|one)\s+(?:had|have|has|must|were|was|am|are|need)\b|\bif\s+(?:forced|pressed|only\s+one|any|so|i'm|needed|not\s+(?:mistaken|wrong))\b"
    r"|\bas\s+if\b|\beven\s+if\b",
    re.I,
)
_MODAL = re.compile(
    r"\b(?:would|could|might|should|only|were|unless|had)\b|才|则|会|应|除非|就", re.I
)
_TURN_OF_CLAUSE = re.compile(
    r",\s*(?=(?:but|however|yet|so|which|therefore|instead|thus|hence)\b)|,?(?=但|不过|所以|因此)|,(?=[本此现这])",
    re.I,
)
_EARLIER = GatedPattern(
    r"\b(?:my\s+|the\s+)?(?:first|initial|previous|original|earlier|preliminary)\s+(?:answer|guess|thought|impression|instinct|inclination|response|assumption|diagnosis)\s+(?:was|had\s+been)\b[^.;\n]*"
    r"|\b(?:i\s+)?(?:initially|at\s+first|originally|previously|first)\s*,?\s+(?:i\s+)?(?:thought|chose|picked|selected|answered|considered|said|believed|suspected|leaned)\b[^.;,\n]*"
    r"|\bi\s+(?:had\s+)?thought\b[^.;\n]{0,80}?(?=,?\s*but\b)"
    r"|(?:最初|起初|一开始|原先|原来)(?:我)?(?:认为|选择?|觉得|以为)[^,.;\n]*",
    re.I,
)
_CORRECTION = GatedPattern(
    rf"(?:(?:\.{{2,}}|…|\?)\s*no\b[\s,:—–-]*|,\s*no,\s+|\bno,?\s+wait\b[\s,.:—–-]*|\bwait\b[\s,.:—–-]*(?:no\b[\s,.:—–-]*)?|\b(?:sorry|correction|(?:scratch|strike)\s+that|oops|my\s+mistake|on\s+(?:second\s+thoughts?|reflection|reconsideration))\b[\s,.:—–-]*"
    rf"|(?<=[,.—–\s])actually\b,?\s+|,?\s*不对,\s*|更正[:,]?\s*|,?\s*错了,\s*)(?=(?:it'?s\s+|it\s+is\s+|i\s+mean\s+|make\s+that\s+|rather\s+|the\s+(?:correct\s+|right\s+)?answer\s+(?:is|should\s+be)\s+|应该?(?:是|为|选)\s*)?{_NOUN}{_LETTER}\s*(?:[.,;:!?。，；]|$|\n|(?<!I )is\b))",
    re.I,
)
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~")

_LESSER = r"(?:least|less|worst|weakest|lowest)"
_WRONG = (
    r"(?:wrong|incorrect|false|unlikely|excluded|eliminated|ruled\s+out|less\s+likely|implausible|impossible|dismissed"
    r"|rejected|not\b|inconsistent|out\b)"
)
_ZH_WRONG = r"(?:错误?|不正确|不符合?|不对|被?排除|不支持|不可能|不成立)"
_DENIED_GROUP = GatedPattern(
    rf"\b(?:exclud(?:e|es|ed|ing)|eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing)\s+out|reject(?:s|ed|ing)?|dismiss(?:es|ed|ing)?|discard(?:s|ed|ing)?|neither|none\s+of|anything\s+but|not|rather\s+than|instead\s+of|unlike)\s+(?:both\s+)?{_GROUP}"
    rf"|(?:排除|而?不是|而非|不选)\s*{_GROUP}"
    rf"|{_LIST}\s*(?:(?:are|were|can\s+be|could\s+be|seem|look|may\s+be)\s+(?:all\s+|both\s+|each\s+|also\s+|therefore\s+|thus\s+|clearly\s+)*{_WRONG}|(?:选项|项)?(?:均|都|皆|全)可?{_ZH_WRONG})"
    rf"|{_GROUP}\s*(?:do|does|did)(?:\s+not|n't)\s+(?:fit|match|apply|explain|work|hold|agree)\b"
    rf"|{_LETTER}\s*(?:is|was|seems|looks|can\s+be|could\s+be)\s+(?:also\s+|therefore\s+|thus\s+|clearly\s+)*{_WRONG}"
    rf"|{_LETTER}\s*(?:is|was|seems|looks|would\s+be|appears)\s+(?:clearly\s+|the\s+|far\s+|much\s+)*{_LESSER}\b[^.;,\n]{{0,40}}?(?:\s+than\s+{_NOUN}{_LETTER}|(?=[.;,\n]|$))"
    rf"|{_LETTER}\s*(?:选项|项)?\s*(?:的?可能性)?\s*(?:最小|最低|较小|较低|不大|(?:与|和)[^,.;\n]{{1,10}}不符|不符合|不支持|不考虑)"
    rf"|\b(?:second|third|fourth|fifth|2nd|3rd|4th|5th|next|least|followed\s+by)\b(?:\s+(?:most\s+likely|likely|choice|place|option|best|pick|answer|is|would\s+be|comes))*\s*[:=-]?\s*{_NOUN}{_LETTER}"
    rf"|(?:其次|第[二三四五])(?:可能)?(?:是|为|考虑|选)?[:,]?\s*{_LETTER}",
    re.I,
)
_PREFERRED = GatedPattern(
    rf"(?P<preferred>{_LETTER})\s+(?:(?:is|seems|looks|appears)\s+)?(?:(?:a\s+)?(?:favou?red|preferred|preferable|superior|better(?:\s+\w+)?|likelier|stronger|more\s+\w+(?:\s+\w+)?)\s+(?:over|than|to)|over)\s+{_NOUN}(?P<lesser>{_LETTER})"
    rf"|\bprefer(?:red)?\s+{_NOUN}(?P<preferred_2>{_LETTER})\s+(?:to|over|rather\s+than|instead\s+of)\s+{_NOUN}(?P<lesser_2>{_LETTER})"
    rf"|更(?:可能|倾向|支持)(?:是|于)?\s*(?P<preferred_3>{_LETTER})\s*(?:而非|而不是|,?不是)\s*(?P<lesser_3>{_LETTER})"
    rf"|(?P<preferred_4>{_LETTER})\s*(?:选项|项)?\s*比\s*(?P<lesser_4>{_LETTER})\s*(?:选项|项)?\s*(?=更)"
)
_REMAINS = GatedPattern(
    rf"\b(?:leaves?|leaving|left\s+with|leaves?\s+us\s+with|leaving\s+us\s+with|leaves?\s+only)\s+(?:only\s+|just\s+)?{_NOUN}(?P<left>{_LETTER})"
    rf"|(?P<top>{_LETTER})\s*\((?:most\s+likely|best|correct|likeliest|most\s+probable)\)"
    rf"|\bmakes?\s+{_NOUN}(?P<makes>{_LETTER})\s+(?:the\s+)?(?:right|correct|best|most\s+likely|likeliest)\b"
    rf"|\b[Oo]nly\s+{_NOUN}(?P<only>{_LETTER})\s+(?:remains|fits|is\s+left|matches|explains|applies|is\s+(?:consistent|correct|compatible|possible|right))"
    rf"|\b(?:[Aa]ll|[Ee]very|[Ee]verything|[Aa]ny|[Ee]ach)\b[^.;\n]{{0,40}}?\b(?:except(?:\s+for)?|but|other\s+than|apart\s+from|save|besides)\s+{_NOUN}(?P<except>{_LETTER})"
    rf"|\b(?:[Rr]ank(?:ed|ing)?|[Oo]rder(?:ed)?|[Mm]ost)\b[^.:\n]{{0,30}}\bleast\b[^.:\n]{{0,30}}:\s*{_NOUN}(?P<first>{_LETTER})"
    rf"|\b[Ll]east\b[^.:\n]{{0,30}}\bmost\b[^.:\n]{{0,30}}:[^.:\n]{{0,80}}?(?P<last>{_LETTER})\s*(?=[.\n]|$)"
    rf"|除了?\s*{_NOUN}(?P<zh>{_LETTER})(?:选项|项)?(?:以?外|之外)"
)
_NUMBER = r"(?P<number>\d{1,3}(?:\.\d+)?|\.\d+)\s*(?P<percent>%)?"
_PROBABILITY = re.compile(
    rf"(?<![A-Za-z0-9])(?:[Pp]\(\s*)?[(\[]?(?P<letter>[A-Z])[)\]]?(?:\s*\))?\s*(?:[:=-]\s*|\(\s*|\s)\s*{_NUMBER}(?![\d.]* ?[A-Za-z])"
)
_RANKING = re.compile(r"(?<![A-Za-z0-9])(?P<letter>[A-Z])(?:\s*(?:>|≻)\s*[A-Z](?![A-Za-z0-9]))+")


class Claim(NamedTuple):
    """Letters that a place of a text claims; several where they tie."""

    position: int
    letters: tuple[str, ...]


def set_aside(text: str, lowercase: str) -> str:
    """A plain text (and its `fold_case`) without what it says under a condition, said earlier,
    corrected or struck out.
    """
    remaining = _STRUCK.sub(" ", text) if "~~" in text else text
    for correction in _CORRECTION.finditer(remaining, lowercase)[-1:]:
        # Only what is in the same paragraph is taken back.
        start = remaining.rfind("\n", 0, correction.start()) + 1
        remaining = remaining[:start] + remaining[correction.end() :]
    remaining = _EARLIER.sub(" ", remaining, lowercase)
    if _CONDITION.may_match(lowercase):
        remaining = "".join(map(_without_condition, _SENTENCE.findall(remaining)))
    return remaining


def _without_condition(sentence: str) -> str:
    condition = _CONDITION.pattern.search(sentence)
    if condition is None or _NO_CONDITION.search(sentence):
        return sentence
    if sentence[: condition.start()].strip(" ,(") and not _MODAL.search(sentence):
        return sentence
    end_mark = sentence[-1:] if sentence[-1:] in ".;!?\n。；！？" else ""
    turns = [match.start() for match in _TURN_OF_CLAUSE.finditer(sentence)]
    start = max((turn for turn in turns if turn <= condition.start()), default=0)
    end = min((turn for turn in turns if turn > condition.end()), default=len(sentence))
    return sentence[:start] + (sentence[end:] if end < len(sentence) else end_mark)


def denied_letters(text: str, lowercase: str) -> tuple[str, frozenset[str]]:
    """A text (and its `fold_case`) with the letters of denied groups, lesser and lower-ranked options
    blanked out, and those letters.
    """
    letters: set[str] = set()

    def blank(match: re.Match[str]) -> str:
        letters.update(_SINGLE.findall(match[0]))
        return " " * len(match[0])

    text = _DENIED_GROUP.sub(blank, text, lowercase)
    for match in reversed(_PREFERRED.finditer(text, lowercase)):
        name = match.lastgroup or ""  # the lesser option is named last
        letters.update(_SINGLE.findall(match[name]))
        start, end = match.span(name)
        text = f"{text[:start]}{' ' * (end - start)}{text[end:]}"
    return text, frozenset(letters)


def claims(text: str, lowercase: str, option_texts: Mapping[str, str]) -> list[Claim]:
    """Preferred options, what an elimination leaves, the most probable and the first of a ranking.

    `option_texts` are those of the options by letter.
    """
    found = [
        Claim(
            match.start(match.lastgroup or 0), tuple(_SINGLE.findall(match[match.lastgroup or 0]))
        )
        for match in _REMAINS.finditer(text, lowercase)
    ]
    for match in _PREFERRED.finditer(text, lowercase):
        preferred = next(letter for letter in match.groups() if letter)
        found.append(Claim(match.end(), tuple(_SINGLE.findall(preferred))))
    if ">" in text or "≻" in text:
        found += [Claim(match.end(), (match["letter"],)) for match in _RANKING.finditer(text)]
    probability = _likeliest(text, option_texts)
    return [
        claim
        for claim in (*found, probability)
        if claim and all(letter in option_texts for letter in claim.letters)
    ]


def _likeliest(text: str, option_texts: Mapping[str, str]) -> Claim | None:
    # "A: 10%" may repeat an option of a question about percentages.
    if not any(map(str.isdigit, text)) or any(re.search(r"\d", o) for o in option_texts.values()):
        return None
    items = [
        (match["letter"], match["number"], match["percent"], match.end())
        for match in _PROBABILITY.finditer(text)
        if match["letter"] in option_texts
    ]
    if not items and "%" in text:
        items = [
            (letter, match[1], "%", match.end())
            for letter, option in option_texts.items()
            for match in re.finditer(
                rf"{re.escape(option)}\W{{1,6}}(\d{{1,3}}(?:\.\d+)?)\s*%", text, re.I
            )
        ]
    values: dict[str, float] = {}
    for letter, number, *_ in items:
        values.setdefault(letter, float(number))
    are_percentages = (
        sum(bool(percent) for _, _, percent, _ in items) * 2 > len(items)
        or 99 <= sum(values.values()) <= 101
    )
    are_shares = all("." in number or number in ("0", "1") for _, number, _, _ in items)
    if len(values) < 2 or not (are_percentages or (are_shares and max(values.values()) <= 1)):
        return None
    largest = max(values.values())
    tied = sorted(letter for letter, value in values.items() if value == largest)
    return Claim(max(end for *_, end in items), tuple(tied))
