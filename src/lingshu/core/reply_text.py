"""Reply text for scorers: reasoning removed, answer tags and boxes opened, text normalized."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lingshu.core.errors import InputError
from lingshu.core.types import Sample, Score

_THINK_TAG = re.compile(r"<(/)?think(?:ing)?>", re.I)
_OPEN_TAG = re.compile(r"<answer>", re.I)
_CLOSE_TAG = re.compile(r"</answer>", re.I)
_BOX = re.compile(r"\\f?boxed\s*\{")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
_ASCII_PUNCTUATION = str.maketrans("。、’‘“”–—‐‑−【】", ".,''\"\"-----[]")
_LATEX_WRAP = re.compile(
    r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|boldsymbol|operatorname|rm|bf)\s*\{([^{}]*)\}?"
)
_LATEX_SIGN = re.compile(r"\\[()\[\],;! ]|\$")
_HTML = re.compile(r"</?(?:b|strong|i|em|u|p|br|span|div|code)\s*/?>|</?answer>", re.I)
# Markup that was truncated at the start or the end: ">fat</".
_PARTIAL_TAG = re.compile(r"^>|</\w{0,12}$")
_MARKDOWN = re.compile(r"\*+|__|`+|^\s{0,3}(?:#{1,6}|>)\s+", re.M)
CJK = "\u3400-\u4dbf\u4e00-\u9fff"
# Signs that distinguish options ("ER+", "<5", "-2") are separate words.
_WORD = re.compile(
    rf"\d+(?:\.\d+)+|[{CJK}]|[^\W_{CJK}]+(?:'[a-z]+)?|[+<>%≥≤±=↑↓]|(?<=\w)-(?=[\s,;)]|$)|(?<![^\s(])-(?=\d)|[.?!;\n]"
)

# Every refusal below contains one of these; they are checked first, as the pattern is slow.
_REFUSAL_MARKERS = (
    *("not ", "i'm", "i am", "cannot", "can't", "couldn't", "unable", "impossible", "as an ai", "don't", "insufficient"),
    *("no idea", "no comment", "no answer", "no image", "no picture", "no one can", "no way to"),
    *("抱歉", "对不起", "无法", "不能", "不确定", "不清楚", "不知道", "作为"),
    *("没法", "没办法", "没有办法", "不好说", "没有足够", "没有图", "没有提供图"),
)  # fmt: skip
_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able|not sure|unsure)\b"
    r"|\b(?:cannot|can't|can not|could not|couldn't|unable to|not able to|not possible"
    r" to|impossible to) (?:\w+ )?"
    r"(?:answer|determine|provide|diagnose|tell|say|assess|assist|help|interpret|analy[sz]e|conclude|decide|choose|offer|evaluate|comment"
    r"|(?:see|view|access|open) (?:the|this|any|an|your) (?:image|picture|attachment|scan))\b"
    r"|\bcannot be (?:determined|assessed|answered|evaluated)\b|\bnot assessable\b|\bas an ai\b"
    r"|\bi (?:do not|don't) (?:know|have (?:enough|access|the ability))\b|\bno"
    r" (?:idea|comment|answer)\b"
    r"|\b(?:insufficient|not enough) information\b"
    r"|\bno (?:images?|pictures?) (?:(?:was|were|is|are|has been)"
    r" )?(?:provided|attached|given|uploaded|supplied|shown|here)\b"
    r"|\bthere (?:is|was) no (?:image|picture)(?=\s*(?:[.,;!]|$))|^\W*no (?:image|picture)\W*$"
    r"|\bno one can (?:tell|say|know)\b|\bno way to (?:tell|know|say|determine|answer)\b"
    r"|没法(?:判断|确定|回答)|没(?:有)?办法(?:判断|确定|回答)|不好说|没有足够的?(?:信息|资料)|没有(?:提供)?图(?:像|片)?(?=[,.;!]|$)"
    r"|抱歉|对不起|无法(?:确定|判断|回答|提供|识别|评估|诊断|给出)|不能(?:确定|判断|回答)|不确定|不清楚|不知道|作为(?:一个|一名)?(?:ai|人工智能)",
    re.I,
)


def strip_reasoning(reply: str) -> str:
    """The reply without its reasoning.

    A block that was opened in the prompt has only an end, a truncated one only a start.
    """
    if "<" not in reply:
        return reply
    # One pass over the tags: a pattern from start to end is quadratic in unclosed starts.
    parts: list[str] = []
    position, in_reasoning = 0, False
    for tag in _THINK_TAG.finditer(reply):
        if tag[1] and in_reasoning:
            parts.append(" ")
        elif tag[1]:
            parts = []
        elif not in_reasoning:
            parts.append(reply[position : tag.start()])
        position, in_reasoning = tag.end(), not tag[1]
    return "".join(parts) if in_reasoning else "".join((*parts, reply[position:]))


def final_answer(text: str) -> str | None:
    """The content of the last answer tag or LaTeX box (also one inside a tag), None without one."""
    tag = _last_tag(text) if "<" in text else None
    box = _last_box(text) if "\\" in text else None
    last_span = max((span for span in (tag, box) if span), default=None)
    return None if last_span is None else text[last_span[0] : last_span[1]]


def _last_tag(text: str) -> tuple[int, int] | None:
    starts = [match.end() for match in _OPEN_TAG.finditer(text)]
    ends = [match.start() for match in _CLOSE_TAG.finditer(text)]
    for start in reversed(starts):
        if ends and ends[-1] >= start:
            return start, next(end for end in ends if end >= start)
    # A reply that was truncated before its closing tag counts as well.
    return (starts[-1], len(text)) if starts else None


def _last_box(text: str) -> tuple[int, int] | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start, depth = boxes[-1].end(), 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return start, index
    return start, len(text)


def to_plain_text(text: str) -> str:
    """NFKC text with ASCII punctuation, without LaTeX, Markdown, HTML, invisible characters."""
    if text.isascii() and text.isalnum():
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_ASCII_PUNCTUATION)
    if not text.isprintable():
        text = _INVISIBLE.sub("", text)
    if "\\" in text or "$" in text:
        for _ in range(4):
            text, changed = _LATEX_WRAP.subn(r"\1", text)
            if not changed:
                break
        text = _LATEX_SIGN.sub(" ", text)
    if "<" in text:
        text = _PARTIAL_TAG.sub(" ", _HTML.sub(" ", text))
    if "*" in text or "_" in text or "`" in text or "#" in text or ">" in text:
        text = _MARKDOWN.sub("", text)
    return text.strip()


def normalize_words(text: str) -> str:
    """Lower-case words between single blanks, one at each end: `in` finds complete words only.

    Each Chinese character is a word; "|" marks the end of a sentence or a line.
    """
    tokens = ("|" if token in ".?!;\n" else token for token in _WORD.findall(text.casefold()))
    normalized = " ".join(tokens).strip("| ")
    return f" {normalized} "


def is_empty(text: str) -> bool:
    """True if there is no letter or digit."""
    return not any(c.isalnum() for c in text)


def is_refusal(text: str) -> bool:
    """True if plain text declines to answer, in English or Chinese."""
    return contains_any(text.casefold(), _REFUSAL_MARKERS) and _REFUSAL.search(text) is not None


def contains_any(text: str, substrings: Sequence[str]) -> bool:
    """Whether a text contains any of the substrings; much faster than a pattern of them."""
    return any(map(text.__contains__, substrings))


def make_score(*, is_correct: bool, prediction: str, note: str | None = None) -> Score:
    """The score of a parsed answer."""
    return Score(1.0 if is_correct else 0.0, "ok", prediction, note)


def require_golds(sample: Sample) -> tuple[str, ...]:
    """The accepted answers of a sample.

    Raises:
        InputError: it has none.
    """
    if not sample.gold:
        problem = f"sample {sample.id!r} has no gold answer"
        raise InputError(f"{problem}; only answered samples can be scored.")
    return sample.gold
