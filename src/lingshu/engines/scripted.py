"""Answers by rules that match the request (`scripted`, `scripted:RULES.jsonl`): a teacher or judge
without weights, for offline runs.

A rule is {"pattern": REGEX, "reply": TEXT or JSON}; the first whose pattern is found in the text of
the request answers. In its reply, {name} stands for the group of that name. A rule {"malformed":
SHARE, "refused": SHARE, "seed": N} injects faults: that share of the replies is cut in the middle,
or declines. Text and seed decide which ones.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lingshu.core.errors import InputError
from lingshu.core.files import digest, read_jsonl
from lingshu.core.types import Engine, EngineOptions, Reply, Sample, Sampling
from lingshu.engines._requests import reply_in_batches

REFUSAL = "I'm sorry, but I can't assist with that request."
CHARS_PER_TOKEN = 4  # of a mean English token; rules have no vocabulary
# Rules for every prompt of src/lingshu/ops/_prompts, and for those of a judge
# (evaluate/judge_prompts.py), which come first.
DEFAULT_RULES = Path(__file__).with_name("_scripted.jsonl")
ReplyTemplate = str | Mapping[str, object]


@dataclass(frozen=True)
class Rule:
    """The reply where `pattern` is found."""

    pattern: re.Pattern[str]
    reply: ReplyTemplate


@dataclass(frozen=True)
class ScriptedEngine:
    """An engine of rules; `malformed` and `refused` are the shares of injected faults."""

    model: str
    digest: str
    rules: Sequence[Rule]
    malformed: float = 0.0
    refused: float = 0.0
    seed: int = 0
    batch_size: int = 16
    endpoint: str | None = None

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        def reply(sample: Sample, generation: int) -> Reply:
            return self._reply(sample, generation, sampling)

        return reply_in_batches(samples, sampling, skip, self.batch_size, reply)

    def _reply(self, sample: Sample, generation: int, sampling: Sampling) -> Reply:
        prompt = "\n\n".join(message.text for message in sample.messages)
        text = self.answer(prompt, seed=sampling.seed + generation)
        if text is None:
            return Reply(sample.id, None, generation, error="no rule answers this request")
        n_tokens, finish = -(-len(text) // CHARS_PER_TOKEN), "stop"
        if n_tokens > sampling.max_tokens:
            n_tokens, finish = sampling.max_tokens, "length"
            text = text[: n_tokens * CHARS_PER_TOKEN]
        return Reply(sample.id, text, generation, finish, len(prompt) // CHARS_PER_TOKEN, n_tokens)

    def answer(self, prompt: str, *, seed: int = 0) -> str | None:
        """The reply of the first rule that matches the prompt; None where none does."""
        for rule in self.rules:
            match = rule.pattern.search(prompt)
            if match is None:
                continue
            text = _fill_template(rule.reply, match)
            uniform = zlib.crc32(f"{self.seed}|{seed}|{prompt}".encode()) / 2**32
            if uniform < self.malformed:
                return text[: max(1, len(text) // 2)]
            return REFUSAL if uniform < self.malformed + self.refused else text
        return None


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `scripted`, whose rules answer the prompts of this package, or
    `scripted:RULES.jsonl`.

    Raises:
        InputError: another name, or an invalid rule.
    """
    name, _, path = model.partition(":")
    if name != "scripted":
        raise InputError(
            f"{model!r} is not a scripted engine; write scripted or scripted:RULES.jsonl."
        )
    rows = list(read_jsonl(Path(path) if path else DEFAULT_RULES))
    return engine_from_rules(
        rows, model=f"scripted:{Path(path).name}" if path else name, batch_size=options.batch_size
    )


def engine_from_rules(
    rows: Sequence[Mapping[str, object]], *, model: str = "scripted", batch_size: int = 16
) -> ScriptedEngine:
    """The engine of these rules, given as the rows of a rule file.

    Raises:
        InputError: an invalid rule.
    """
    rules: list[Rule] = []
    faults = {"malformed": 0.0, "refused": 0.0, "seed": 0}
    for number, row in enumerate(rows, 1):
        pattern, reply = row.get("pattern"), row.get("reply")
        if isinstance(pattern, str) and isinstance(reply, str | Mapping) and len(row) == 2:
            try:
                rules.append(Rule(re.compile(pattern, re.DOTALL), reply))
            except re.error as error:
                raise InputError(
                    f"rule {number}: {pattern!r:.60} is not a regular expression ({error}); fix it."
                ) from error
        elif row.keys() <= faults.keys() and all(isinstance(v, int | float) for v in row.values()):
            faults.update({name: float(str(value)) for name, value in row.items()})
        else:
            raise InputError(
                f'rule {number} is invalid; write {{"pattern": REGEX, "reply": TEXT}} or'
                ' {"malformed": SHARE, "refused": SHARE}.'
            )
    return ScriptedEngine(
        model,
        digest([list(map(dict, rows))]),
        rules,
        faults["malformed"],
        faults["refused"],
        seed=int(faults["seed"]),
        batch_size=batch_size,
    )


def _fill_template(reply: object, match: re.Match[str]) -> str:
    """The reply of a rule with its groups filled in before JSON is written, so without escapes."""
    groups = {name: (value or "").strip() for name, value in match.groupdict().items()}
    filled = _substitute_groups(reply, groups)
    return filled if isinstance(filled, str) else json.dumps(filled, ensure_ascii=False)


def _substitute_groups(reply: object, groups: Mapping[str, str]) -> object:
    if isinstance(reply, str):
        for name, value in groups.items():
            reply = reply.replace("{" + name + "}", value)
        return reply
    if isinstance(reply, Mapping):
        return {key: _substitute_groups(value, groups) for key, value in reply.items()}
    if isinstance(reply, list | tuple):
        return [_substitute_groups(value, groups) for value in reply]
    return reply
