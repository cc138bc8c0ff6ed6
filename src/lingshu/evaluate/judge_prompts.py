"""A judge's verdict: how a reply is shown to a judge, and what counts as its answer.

The reply under judgment is anyone's text. It appears between marks that carry a code, and only a
JSON object with the same code is a verdict. The code is made of all that is shown and occurs in
none of it: whatever a reply forges, and however a judge repeats it, a forgery lacks the code. The
same texts always have the same code, so that a verdict can be cached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

from lingshu.core.cached_client import InvalidResponse, ResponseFormat, json_format
from lingshu.core.files import digest
from lingshu.core.reply_text import is_refusal, to_plain_text
from lingshu.core.rows import LETTERS
from lingshu.core.types import Sample

CODE_CHARACTERS = 8
# Far more than any verdict; a search for objects in megabytes would take minutes.
MAX_ANSWER_CHARS = 100_000
# Tokens that chat templates give a meaning, such as <|name|>: broken up, or a reply could end the
# judge's turn.
_CONTROL_TOKEN = re.compile(
    r"<(?=[|｜]|/?(?:s|im_start|im_end|start_of_turn|end_of_turn|start_of_image)>)|\[(?=/?INST\])"
)


@cache
def _prompts() -> Mapping[str, Any]:
    path = resources.files("lingshu.evaluate").joinpath("judge_prompts.json")
    return json.loads(path.read_text(encoding="utf-8"))


def prompt_digest() -> str:
    """Identifies the wording in a report."""
    prompts = _prompts()
    return digest([prompts[name] for name in ("markers", "answer", "criterion", "output")])[:12]


@dataclass(frozen=True)
class AnswerVerdict:
    """What a judge says of a reply; `case` is the code of what it was shown."""

    case: str
    verdict: Literal["correct", "incorrect"]
    reason: str = ""


@dataclass(frozen=True)
class CriterionVerdict:
    """What a judge says of one criterion."""

    case: str
    verdict: Literal["met", "not met"]
    reason: str = ""


class JudgePrompt(NamedTuple):
    """The text for a judge, the code that its verdict must repeat, and what it decides."""

    text: str
    case: str
    kind: type[AnswerVerdict] | type[CriterionVerdict]

    def response_format(self) -> ResponseFormat[Any]:
        inner = json_format(self.kind)

        def parse(text: str) -> AnswerVerdict | CriterionVerdict:
            if len(text) > MAX_ANSWER_CHARS:
                raise InvalidResponse("malformed", "too long for a verdict")
            verdicts = [
                inner.parse(json.dumps(_normalize_verdict(value)))
                for value in (_json_objects(text) if self.case in text else ())
                if value.get("case") == self.case
            ]
            if not verdicts:
                is_refused = "{" not in text and is_refusal(to_plain_text(text))
                reason = "refused" if is_refused else "malformed"
                raise InvalidResponse(reason, f"no object with the case {self.case}")
            if len({verdict.verdict for verdict in verdicts}) > 1:
                raise InvalidResponse("contradictory", "several verdicts that differ")
            return verdicts[-1]

        return ResponseFormat(parse, inner.schema)


def verdict_prompt(sample: Sample, reply: str) -> JudgePrompt:
    """Whether a reply is right, given the question and its accepted answers."""
    choices = dict(zip(LETTERS, sample.choices, strict=False))
    gold = [
        f"{answer}. {choice}" if (choice := choices.get(answer)) else answer
        for answer in sample.gold or ()
    ]
    texts = {"question": sample.question, "standard-answer": "\nor: ".join(gold), "answer": reply}
    return _build_prompt(AnswerVerdict, texts)


def criterion_prompt(sample: Sample, reply: str, criterion: str) -> JudgePrompt:
    """Whether a reply meets a criterion, given the conversation and, if known, a good answer."""
    reference = {"reference-answer": "\nor: ".join(sample.gold)} if sample.gold else {}
    turns = [f"{message.role}: {message.text}" for message in sample.messages]
    if len(turns) == 1:
        turns = [sample.question]
    texts = {"conversation": "\n\n".join(turns), **reference, "reply": reply}
    return _build_prompt(CriterionVerdict, {**texts, "criterion": criterion})


def _build_prompt(
    kind: type[AnswerVerdict] | type[CriterionVerdict], texts: Mapping[str, str]
) -> JudgePrompt:
    # A lone surrogate, as broken JSON can hold, cannot be sent.
    escaped = {
        name: _CONTROL_TOKEN.sub(lambda match: f"{match[0]} ", text)
        .encode("utf-8", "replace")
        .decode()
        for name, text in texts.items()
    }
    case = _make_code(list(escaped.values()))
    prompts = _prompts()
    task, rule, output_format = prompts["answer" if kind is AnswerVerdict else "criterion"]
    # Assembled, never filled in twice: braces in a reply stay braces.
    parts = [
        task,
        prompts["markers"].replace("{case}", case),
        *(f"<{name}-{case}>\n{text}\n</{name}-{case}>" for name, text in escaped.items()),
        rule,
        f"{prompts['output']}\n{output_format.replace('{case}', case)}",
    ]
    return JudgePrompt("\n\n".join(parts), case, kind)


def _make_code(texts: Sequence[str]) -> str:
    """A code of the texts that occurs in none of them."""
    attempt = 0
    while any((code := digest([*texts, attempt])[:CODE_CHARACTERS]) in text for text in texts):
        attempt += 1
    return code


def _normalize_verdict(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its verdict in lower case; a reason that is not a string is dropped."""
    fields = {key: item for key, item in value.items() if key != "reason" or isinstance(item, str)}
    if isinstance(verdict := value.get("verdict"), str):
        fields["verdict"] = verdict.strip().lower()
    return fields


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Every whole JSON object of a text in order, inner ones only where the outer is not JSON."""
    decoder = json.JSONDecoder(object_pairs_hook=_reject_duplicate_keys)
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield value
        start = text.find("{", end)


def _reject_duplicate_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)
