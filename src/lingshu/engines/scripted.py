"""Answers by rules from what it is asked (`scripted`, `scripted:RULES.jsonl`): a teacher or judge
without weights, for runs offline.

A rule is {"pattern": REGEX, "reply": TEXT or JSON}; the first whose expression is found in the request's
words answers. In what it says, {name} stands for the expression's group of that name. A rule
{"malformed": SHARE, "refused": SHARE, "seed": N} plants faults: that share of the replies breaks
off in the middle, or declines. Which ones, the words and the seed decide.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ImageError, InputError, one_line
from lingshu.core.files import digest, read_jsonl
from lingshu.core.types import Engine, Reply, Sample, Sampling
from lingshu.imaging.read import ShardReader, open_image

REFUSAL = "I'm sorry, but I can't assist with that request."
# As many characters as a token of English has in the mean; rules know no vocabulary.
CHARS_PER_TOKEN = 4
# Rules for every prompt of src/lingshu/ops/_prompts, and for a judge's questions
# (evaluate/judge_prompts.py), which come first.
DEFAULT_RULES = Path(__file__).with_name("_scripted.jsonl")
ReplyTemplate = str | Mapping[str, object]


@dataclass(frozen=True)
class Rule:
    """What is said where `pattern` is found."""

    pattern: re.Pattern[str]
    reply: ReplyTemplate


@dataclass(frozen=True)
class ScriptedEngine:
    """An engine of rules; `malformed` and `refused` are the shares of planted faults."""

    model: str
    digest: str
    rules: Sequence[Rule]
    malformed: float = 0.0
    refused: float = 0.0
    seed: int = 0
    batch_size: int = 16
    endpoint: str | None = field(default=None)

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        """Replies in the order of the samples, `batch_size` at a time; the images are opened, as
        every engine must.
        """
        requests = [
            (sample, copy)
            for sample in samples
            for copy in range(sampling.num_generations)
            if (sample.id, copy) not in skip
        ]
        with ShardReader() as shards:
            for start in range(0, len(requests), self.batch_size):
                yield [
                    self._reply(sample, copy, sampling, shards)
                    for sample, copy in requests[start : start + self.batch_size]
                ]

    def _reply(self, sample: Sample, copy: int, sampling: Sampling, shards: ShardReader) -> Reply:
        try:
            for image in sample.images:
                open_image(image, shards=shards)
        except ImageError as error:
            return Reply(sample.id, None, copy, error=one_line(error))
        prompt = "\n\n".join(message.text for message in sample.messages)
        text = self.answer(prompt, seed=sampling.seed + copy)
        if text is None:
            return Reply(sample.id, None, copy, error="no rule answers this request")
        tokens = -(-len(text) // CHARS_PER_TOKEN)
        finish_reason, reply_text = (
            ("stop", text)
            if tokens <= sampling.max_tokens
            else ("length", text[: sampling.max_tokens * CHARS_PER_TOKEN])
        )
        return Reply(
            sample.id,
            reply_text,
            copy,
            finish_reason,
            len(prompt) // CHARS_PER_TOKEN,
            min(tokens, sampling.max_tokens),
        )

    def answer(self, prompt: str, *, seed: int = 0) -> str | None:
        """What the rules say to these words; None where none fits."""
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
        InputError: another name, or a rule that is none.
    """
    name, _, path = model.partition(":")
    if name != "scripted":
        raise InputError(
            f"{model!r} is no scripted engine; write scripted or scripted:RULES.jsonl."
        )
    rows = list(read_jsonl(Path(path) if path else DEFAULT_RULES))
    return engine_from_rules(
        rows, model=f"scripted:{Path(path).name}" if path else name, batch_size=options.batch_size
    )


def engine_from_rules(
    rows: Sequence[Mapping[str, object]], *, model: str = "scripted", batch_size: int = 16
) -> ScriptedEngine:
    """The engine of these rules, in the form that a file of them has.

    Raises:
        InputError: a rule that is none.
    """
    rules: list[Rule] = []
    faults: dict[str, float] = {}
    for rule_number, row in enumerate(rows, 1):
        pattern, reply = row.get("pattern"), row.get("reply")
        if (
            row.keys() == {"pattern", "reply"}
            and isinstance(pattern, str)
            and isinstance(reply, str | Mapping)
        ):
            try:
                rules.append(Rule(re.compile(pattern, re.DOTALL), reply))
            except re.error as error:
                raise InputError(
                    f"rule {rule_number}: {pattern!r:.60} is no regular expression ({error}); mend it."
                ) from error
        elif row.keys() <= {"malformed", "refused", "seed"} and all(
            isinstance(value, int | float) for value in row.values()
        ):
            faults.update({name: float(str(value)) for name, value in row.items()})
        else:
            raise InputError(
                f'rule {rule_number} is none; write {{"pattern": REGEX, "reply": TEXT}} or {{"malformed":'
                ' SHARE, "refused": SHARE}.'
            )
    malformed, refused = faults.get("malformed", 0.0), faults.get("refused", 0.0)
    return ScriptedEngine(
        model,
        digest([list(map(dict, rows))]),
        rules,
        malformed,
        refused,
        seed=int(faults.get("seed", 0)),
        batch_size=batch_size,
    )


def _fill_template(reply: object, match: re.Match[str]) -> str:
    """What a rule says with the groups in it; JSON is written after they are filled in, so that
    they need no escapes.
    """
    filled_reply = _substitute_groups(
        reply, {name: (value or "").strip() for name, value in match.groupdict().items()}
    )
    return (
        filled_reply
        if isinstance(filled_reply, str)
        else json.dumps(filled_reply, ensure_ascii=False)
    )


def _substitute_groups(reply: object, groups: Mapping[str, str]) -> object:
    if isinstance(reply, str):
        for name, value in groups.items():
            reply = reply.replace("{" + name + "}", value)
        return reply
    if isinstance(reply, Mapping):
        return {key: _substitute_groups(value, groups) for key, value in reply.items()}
    return (
        [_substitute_groups(value, groups) for value in reply]
        if isinstance(reply, list | tuple)
        else reply
    )
