"""The text of a reply: its final turn, whatever dialect its model writes, and its words normalized.

Reasoning is set aside, chat tokens and invented next turns are cut off, and the answer is taken out
of tags, boxes, JSON and tool calls. A new dialect is a row of a table below: a word that names
reasoning or the answer, a token that ends a turn, a line that opens one, a key of JSON. The marks are
those of the reasoning and tool parsers of vLLM (vllm/reasoning, vllm/tool_parsers) and of the public
chat templates of the models.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.types import Sample, Score, Status

_MarkKind = Literal["reasoning", "answer"]

# A tag pair whose name holds one of these words is reasoning, else the answer: <think>, [THINK],
# ◁think▷, <seed:think>, <|begin_of_thought|>, <CONCLUSION>, <|begin_of_box|>.
_REASONING_NAMES = (
    *("think", "thought", "reason", "reflect", "analys", "rationale", "scratch", "monologue"),
    *("deliberat", "unused94", "unused95", "思考"),
)
_ANSWER_NAMES = (
    *("answer", "final", "solution", "response", "conclusion", "output", "result", "verdict"),
    *("begin_of_box", "end_of_box", "答案"),
)
_SHORT_ANSWER_NAMES = ("ans", "choice", "letter")
_CLOSING = ("end", "unused95")  # how the name of a closing mark without a slash begins
_MARK = re.compile(
    r"<\|?(?P<slash>/?)(?P<name>[A-Za-z\u4e00-\u9fff][\w:.-]{0,40})\|?>"
    r"|\[(?P<bracket_slash>/?)(?P<bracket>[A-Z][A-Z_ ]{2,30})\]"
    r"|◁(?P<wedge_slash>/?)(?P<wedge>\w{1,30})▷"
)
_MARK_STARTS = "<[◁"

# Tokens of chat templates that end a turn, and those that open one, with its role.
_END_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|eom_id|end_of_text|end|return|eos|END_OF_TURN_TOKEN|assistant_end)\|>"
    r"|</s>|<s>|<eos>|<bos>|<pad>|<end_of_turn>|<｜end▁of▁sentence｜>|<\|(?:START|END)_OF_TURN_TOKEN\|>"
    r"|<end_of_utterance>|\[/INST\]"
)
_ROLE_TOKEN = re.compile(
    r"<\|im_start\|>\s*(?P<chatml>\w*)\n?|<\|start_header_id\|>\s*(?P<llama>\w+)\s*<\|end_header_id\|>"
    r"|<start_of_turn>(?P<gemma>\w+)|<\|(?P<bare>user|assistant|system|human|observation)\|>"
    r"|<｜(?P<deepseek>User|Assistant)｜>|(?P<inst>\[INST\])|<\|start\|>(?P<harmony>\w+)"
)
# A line that opens an invented turn; in front of every answer it is an echo of the prompt.
_INVENTED_TURN = re.compile(
    r"\n[ \t>*_]*(?:#{1,6}[ \t]*)?(?:(?:Human|User|Question|Q|Student|Instruction|Input|Exercise|Problem)"
    r"(?:[ \t]*\#?\d{1,3})?[ \t*_]*[:：]|#{1,6}[ \t]*(?:Human|User|Instruction|Question|Input)\b"
    r"|(?:问题|题目|用户|人类)[ \t]*\d{0,3}[ \t]*[:：])"
)
_HARMONY_CHANNEL = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w+)[^<]{0,80}(?:<\|constrain\|>\w+)?<\|message\|>"
)
# The same dialect after its special tokens were stripped.
_BARE_HARMONY = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?=[A-Z\s])")
_BARE_HARMONY_FINAL = "assistantfinal"
# IBM Granite.
_THOUGHT_PROCESS = re.compile(
    r"\s*here(?: is|'s) my thought process:.*here(?: is|'s) my response:", re.I | re.S
)
# HuatuoGPT-o1 and models tuned on its data. In a report such headings are its sections.
_THINKING_HEADING = re.compile(
    r"\s*(?:#{1,4} *|\*\*)(?:thinking|thoughts?|reasoning|analysis)\b.*\n\s*(?:#{1,4} *|\*\*)"
    r"(?:final +)?(?:response|answer|conclusion)\b[:* ]*\n",
    re.I | re.S,
)

_BOX = re.compile(r"\\(?:f?boxed|fbox|box)\s*(?:\{|(?=[A-Za-z]\b))")
_NESTED_TAG = re.compile(r"</?[A-Za-z][\w:.-]{0,40}>")
_FENCE = re.compile(
    r"```[ \t]*(?:json|python|javascript|js)?[ \t]*\n?(?P<body>[^`]*)(?:```|$)", re.I
)
_TOOL_CALL = re.compile(
    r"<(?P<tag>tool_call|function_call|tool_use|invoke)>(?P<body>.*?)(?:</(?P=tag)>|$)"
    r"|<function=(?P<name>[\w.-]+)>(?P<arguments>.*?)(?:</function>|$)"
    r"|\[TOOL_CALLS\]\s*(?P<mistral>.*)$",
    re.S,
)
_CALL_PARAMETER = re.compile(r"<parameter=([\w.-]+)>\s*(.*?)\s*(?:</parameter>|$)", re.S)
_TOOL_NAME_KEYS, _TOOL_ARGUMENT_KEYS = (
    ("name", "tool", "function", "tool_name", "action", "recipient_name"),
    ("arguments", "parameters", "input", "args", "action_input", "tool_input", "kwargs"),
)
_ANSWER_TOOL = re.compile(
    r"answer|final|submit|choice|choose|option|select|respond|finish|conclude", re.I
)
# Keys of an answer in order of rank, without their punctuation; then any key that holds "answer".
_ANSWER_KEYS = (
    *("finalanswer", "answer", "correctanswer", "answerchoice", "answerletter", "correctoption"),
    *("correctchoice", "selectedanswer", "selectedoption", "selectedchoice", "chosenoption"),
    *("finalchoice", "finaldecision", "predictedoption", "predictedanswer", "predictedlabel"),
    *("prediction", "choice", "option", "selected", "selection", "letter", "final", "decision"),
    *("verdict", "conclusion", "finaldiagnosis", "diagnosis", "mostlikelydiagnosis", "result"),
    *("results", "response", "output", "label", "class", "value", "content", "text"),
    *("最终答案", "正确答案", "答案", "正确选项", "选项", "选择", "结论", "诊断", "结果"),
)
_OTHER_KEY = re.compile(
    r"second|third|alternativ|other|incorrect|wrong|ruled|exclu|reject|differential|confiden|probab"
    r"|explan|explain|reason|rationale|analys|thought|think|why|evidence|question|options|choices|score"
    r"|justif|comment|note|step|uncertain|language|备选|其他|排除|错误|置信|解释|理由|分析|思考|依据"
)
_OPTION_KEY = re.compile(r"^(?:option|choice|选项)?[\s_]*(?P<letter>[A-Za-z])$", re.I)
_MAX_JSON_CHARS = 20_000
_JSON_WORDS = {"True": "true", "False": "false", "None": "null"}
_PYTHON_WORD = re.compile(r"\b(?:True|False|None)\b")
# Words that take a record back for the one behind them.
_TAKEN_BACK = re.compile(
    r"\W*(?:but\s+)?(?:wait|no|actually|correction|sorry|oops|hmm|on\s+(?:second\s+thoughts?|reflection))\b[^{]{0,200}\{",
    re.I,
)
_LEADING_PAIR = re.compile(
    r"[{,]\s*[\"'](?P<key>[^\"']{1,60})[\"']\s*:\s*(?:[\"'](?P<text>[^\"'{}\[\]]*)|(?P<word>true|false|\d+(?:\.\d+)?)(?=\s*[,}\n]))",
    re.I,
)


class FinalTurn(NamedTuple):
    """The text of a final turn, and in `answer` what it marks as its answer (None where it marks
    nothing). `is_structured`: that came from JSON or a tool call, so the rest says no more.
    """

    text: str
    answer: str | None = None
    is_structured: bool = False

    @property
    def content(self) -> str:
        """What is to be read: the marked answer, else all of the turn."""
        return self.text if self.answer is None else self.answer

    @property
    def blank_status(self) -> Status:
        """The status of a turn without content: JSON without an answer is not an empty reply."""
        return "unparsed" if self.is_structured else "empty"


def read_final_turn(reply: str) -> FinalTurn:
    """The final turn of a reply: the first of `read_turns`."""
    return read_turns(reply)[0]


def read_message(reply: str) -> FinalTurn:
    """The model's own message as a whole, for replies that are documents: its headings and lines
    that look like a question belong to it.
    """
    return _read_turn(_own_messages(strip_reasoning(reply))[0])


def read_turns(reply: str) -> tuple[FinalTurn, ...]:
    """The turns of a reply that may hold its answer, in the order in which to look for it.

    A base model continues with questions of its own, so the first turn that can be read counts; a
    later one is read only where the earlier ones hold no answer, such as an echo of the prompt.
    """
    text = strip_reasoning(reply)
    if heading := _THINKING_HEADING.match(text[:_MAX_JSON_CHARS]):
        text = text[heading.end() :]
    turns = [part for message in _own_messages(text) for part in _split_invented(message)]
    return tuple(_read_turn(turn) for turn in turns if turn.strip()) or (FinalTurn(""),)


def strip_reasoning(reply: str) -> str:
    """The reply without its reasoning.

    A block that was opened in the prompt has only an end, a truncated one only a start.
    """
    text = _strip_harmony(reply)
    if any(map(text.__contains__, _MARK_STARTS)):
        text = _strip_marked(text)
    thoughts = _THOUGHT_PROCESS.match(text[:_MAX_JSON_CHARS])
    return text[thoughts.end() :] if thoughts else text


def _strip_harmony(reply: str) -> str:
    """Without the analysis channel of gpt-oss; nothing is left of a reply that never left it."""
    if "<|channel|>" in reply:
        channels = list(_HARMONY_CHANNEL.finditer(reply))
        if channels:
            last = channels[-1]
            return reply[last.end() :] if last["channel"] == "final" else ""
    if _BARE_HARMONY.match(reply):
        _, final, text = reply.rpartition(_BARE_HARMONY_FINAL)
        if final:
            return text
        return "" if _BARE_HARMONY.sub("", reply)[:1].isupper() else reply
    return reply


@lru_cache(maxsize=1024)
def _classify(name: str) -> _MarkKind | None:
    lowercase = name.casefold()
    if any(word in lowercase for word in _REASONING_NAMES):
        return "reasoning"
    is_answer = lowercase in _SHORT_ANSWER_NAMES or any(word in lowercase for word in _ANSWER_NAMES)
    return "answer" if is_answer else None


def _parse_mark(mark: re.Match[str]) -> tuple[_MarkKind | None, bool, str]:
    """Its kind, whether it closes, and its name in lower case."""
    name = (mark["name"] or mark["bracket"] or mark["wedge"]).casefold()
    slash = mark["slash"] or mark["bracket_slash"] or mark["wedge_slash"]
    closes = bool(slash) or name.startswith(_CLOSING)
    return _classify(name), closes, name


def _strip_marked(text: str) -> str:
    # One pass over the marks: a pattern from start to end is quadratic in unclosed starts.
    parts: list[str] = []
    position, depth_name = 0, ""
    for mark in _MARK.finditer(text):
        kind, closes, name = _parse_mark(mark)
        if kind == "answer" and depth_name and not closes and "think" not in depth_name:
            # Nothing closes a heading such as [REASONING] but the answer.
            position, depth_name = mark.start(), ""
            continue
        if kind != "reasoning":
            continue
        if closes and depth_name:
            parts.append(" ")
        elif closes:
            parts = []
        elif not depth_name:
            parts.append(text[position : mark.start()])
        position, depth_name = mark.end(), "" if closes else name
    return "".join(parts) if depth_name else "".join((*parts, text[position:]))


def _own_messages(text: str) -> list[str]:
    """The messages of a text that are the model's own, without chat tokens; never none.

    A message under the role of a user is an echo of the prompt or was invented.
    """
    if "<" not in text and "[INST]" not in text:
        return [text]
    messages: list[str] = []
    position, role = 0, "assistant"
    for token in (*_ROLE_TOKEN.finditer(text), None):
        if role in ("assistant", "model", ""):
            message = text[position : token.start() if token else len(text)]
            messages.append(_END_TOKEN.sub(" ", message))
        if token:
            role = next((group for group in token.groups() if group is not None), "").casefold()
            position = token.end()
    return [message for message in messages if message.strip()] or [""]


def _split_invented(text: str) -> list[str]:
    if "\n" not in text or (":" not in text and "：" not in text and "#" not in text):
        return [text]
    starts = [
        match.start()
        for match in _INVENTED_TURN.finditer(text)
        # "Here is the question:" introduces an echo.
        if (before := text[: match.start()].rstrip(" \n*_")) and before[-1] not in ":："
    ]
    return [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)]


def _read_turn(text: str) -> FinalTurn:
    span = _last_answer_mark(text)
    marked = None if span is None else text[span[0] : span[1]]
    structured = _structured_answer(text if marked is None else marked)
    if structured is not None:
        return FinalTurn(text, structured, is_structured=True)
    return FinalTurn(text, None if marked is None else _NESTED_TAG.sub(" ", marked))


def _last_answer_mark(text: str) -> tuple[int, int] | None:
    """Where the content of the last answer tag or LaTeX box (also one inside a tag) is."""
    tag = _last_tag(text) if any(map(text.__contains__, _MARK_STARTS)) else None
    box = _last_box(text) if "\\" in text else None
    return max((span for span in (tag, box) if span), default=None)


def _last_tag(text: str) -> tuple[int, int] | None:
    starts: list[int] = []
    ends: list[int] = []
    for mark in _MARK.finditer(text):
        kind, closes, _ = _parse_mark(mark)
        if kind == "answer" and closes:
            ends.append(mark.start())
        elif kind == "answer":
            starts.append(mark.end())
    for start in reversed(starts):
        if ends and ends[-1] >= start:
            return start, next(end for end in ends if end >= start)
    # A reply that was truncated before its closing tag counts as well.
    return (starts[-1], len(text)) if starts else None


def _last_box(text: str) -> tuple[int, int] | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start - 1] != "{":
        return start, start + 1
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return start, index
    return start, len(text)


def _structured_answer(text: str) -> str | None:
    """What JSON or a tool call gives as the answer: "" where it gives none, None for other text."""
    if not ("{" in text or "<function=" in text):
        return None
    text = text[-_MAX_JSON_CHARS:]
    if calls := list(_TOOL_CALL.finditer(text)):
        return _answer_of_call(calls[-1])
    fences = [match["body"] for match in _FENCE.finditer(text)]
    body = next((body for body in reversed(fences) if body.lstrip()[:1] in ("{", "[")), text)
    value = _parse_json(body)
    return None if value is None else _answer_of_value(value)


def _answer_of_call(call: re.Match[str]) -> str:
    body = call["body"] or call["arguments"] or call["mistral"] or ""
    value = _parse_json(body) or dict(_CALL_PARAMETER.findall(body)) or None
    if call["name"] is not None:
        is_answer = _ANSWER_TOOL.search(call["name"]) is not None
        return (_answer_of_value(value) if value is not None else body) if is_answer else ""
    return "" if value is None else _answer_of_value(value, in_call=True)


def _parse_json(text: str) -> Any:
    """The JSON (or Python) value that a text is or ends with; None where there is none."""
    text = text.strip()
    start = 0 if text[:1] in ("{", "[") else text.find("{")
    if start < 0 or (text[:1] not in ("{", "[") and not text.endswith("}")):
        return None
    body = text[start:]
    spellings = [body]
    if '"' not in body:
        # A dictionary as Python prints it.
        spellings.append(
            _PYTHON_WORD.sub(lambda word: _JSON_WORDS[word[0]], body.replace("'", '"'))
        )
    for spelling in spellings:
        try:
            # What follows the value is text.
            value, end = json.JSONDecoder().raw_decode(spelling)
        except (ValueError, RecursionError):
            continue
        # "[1] Cyst" is a list with a number, and no answer in JSON.
        is_record = isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(item, dict) for item in value)
        )
        if is_record and _TAKEN_BACK.match(spelling, end):
            return _parse_json(spelling[end:]) or value
        return value if is_record else None
    # It was cut, or is not quite JSON: its first keys are still there.
    pairs = {
        pair["key"]: pair["word"].casefold() == "true"
        if (pair["word"] or "").casefold() in ("true", "false")
        else pair["text"] or pair["word"] or ""
        for pair in _LEADING_PAIR.finditer(body)
    }
    return pairs or None


def _answer_of_value(value: Any, *, in_call: bool = False) -> str:
    if isinstance(value, Mapping):
        return _answer_of_object(value, in_call=in_call)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(item, Mapping) for item in value):
            grid = [line for item in value if (line := _grid_line(item))]
            if len(grid) == len(value) and len(grid) > 1:
                return "\n".join(grid)
            return _answer_of_value(value[-1], in_call=in_call)
        return ", ".join(_answer_of_value(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _answer_of_object(value: Mapping[Any, Any], *, in_call: bool) -> str:
    tool = next(
        (str(value[key]) for key in _TOOL_NAME_KEYS if isinstance(value.get(key), str)), None
    )
    arguments = next((value[key] for key in _TOOL_ARGUMENT_KEYS if key in value), None)
    if in_call or (tool is not None and arguments is not None):
        if tool is None or not _ANSWER_TOOL.search(tool):
            return ""
        return (
            _answer_of_value(_parse_json(arguments) or arguments)
            if isinstance(arguments, str)
            else _answer_of_value(arguments)
        )
    keys = {re.sub(r"[\W_]+", "", str(key)).casefold(): key for key in value}
    for name in _ANSWER_KEYS:
        if name in keys:
            return _answer_of_value(value[keys[name]])
    letters = {key: _OPTION_KEY.match(str(key)) for key in value}
    if len(value) > 1 and all(letters.values()):
        lines = ((match["letter"].upper(), value[key]) for key, match in letters.items() if match)
        return "\n".join(f"{letter}: {_answer_of_value(entry)}" for letter, entry in lines)
    other = [key for name, key in keys.items() if not _OTHER_KEY.search(name)]
    named = [key for key in other if "answer" in str(key).casefold()]
    objects = [key for key in value if isinstance(value[key], Mapping)]
    for candidates in (named, other, objects):
        if len(candidates) == 1:
            return _answer_of_value(value[candidates[0]])
    return ""


def _grid_line(item: Mapping[Any, Any]) -> str:
    """ "A: yes" for {"option": "A", "correct": true}; "" for other objects."""
    letter = next(
        (
            match["letter"].upper()
            for entry in item.values()
            if isinstance(entry, str) and (match := _OPTION_KEY.match(entry.strip(" .():")))
        ),
        None,
    )
    verdicts = [
        v
        for k, v in item.items()
        if re.search(r"correct|true|verdict|prob|score|conf|likel", str(k))
    ]
    return f"{letter}: {_answer_of_value(verdicts[0])}" if letter and verdicts else ""


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
_MARKDOWN = re.compile(r"\*+|__|`+|^\s{0,3}(?:#{1,6}\s+|>\s+(?!\d))", re.M)
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


def make_score(
    *, is_correct: bool, prediction: str, note: str | None = None, is_final: bool = True
) -> Score:
    """The score of a parsed answer."""
    return Score(1.0 if is_correct else 0.0, "ok", prediction, note, is_final)


def require_golds(sample: Sample) -> tuple[str, ...]:
    """The accepted answers of a sample.

    Raises:
        InputError: it has none.
    """
    if not sample.gold:
        problem = f"sample {sample.id!r} has no gold answer"
        raise InputError(f"{problem}; only answered samples can be scored.")
    return sample.gold
