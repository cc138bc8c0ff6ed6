"""Answers by rules from what it is asked (`scripted`, `scripted:RULES.jsonl`): a teacher or judge
without weights, for runs offline.

A rule is {"ask": REGEX, "say": TEXT or JSON}; the first whose expression is found in the request's
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

from lingshu.core.errors import BadImage, InputError, one_line
from lingshu.core.files import digest, read_jsonl
from lingshu.core.nouns import Engine, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.imaging.read import ShardReader, open_image

REFUSAL = "I'm sorry, but I can't assist with that request."
# As many characters as a token of English has in the mean; rules know no vocabulary.
TOKEN_CHARACTERS = 4
# Rules for every prompt of src/lingshu/ops/_prompts, and for a judge's questions
# (scoring/_verdict.py), which come first.
OWN = Path(__file__).with_name("_scripted.jsonl")
Said = str | Mapping[str, object]


@dataclass(frozen=True)
class Rule:
    """What is said where `ask` is found."""

    ask: re.Pattern[str]
    say: Said


@dataclass(frozen=True)
class Scripted:
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
        asked = [
            (sample, copy)
            for sample in samples
            for copy in range(sampling.copies)
            if (sample.id, copy) not in skip
        ]
        with ShardReader() as shards:
            for start in range(0, len(asked), self.batch_size):
                yield [
                    self._reply(sample, copy, sampling, shards)
                    for sample, copy in asked[start : start + self.batch_size]
                ]

    def _reply(self, sample: Sample, copy: int, sampling: Sampling, shards: ShardReader) -> Reply:
        try:
            for image in sample.images:
                open_image(image, shards=shards)
        except BadImage as error:
            return Reply(sample.id, None, copy, error=one_line(error))
        words = "\n\n".join(message.text for message in sample.messages)
        text = self.answer(words, seed=sampling.seed + copy)
        if text is None:
            return Reply(sample.id, None, copy, error="no rule answers this request")
        tokens = -(-len(text) // TOKEN_CHARACTERS)
        finish, said = (
            ("stop", text)
            if tokens <= sampling.max_tokens
            else ("length", text[: sampling.max_tokens * TOKEN_CHARACTERS])
        )
        return Reply(
            sample.id,
            said,
            copy,
            finish,
            len(words) // TOKEN_CHARACTERS,
            min(tokens, sampling.max_tokens),
        )

    def answer(self, words: str, *, seed: int = 0) -> str | None:
        """What the rules say to these words; None where none fits."""
        for rule in self.rules:
            found = rule.ask.search(words)
            if found is None:
                continue
            text = _filled(rule.say, found)
            drawn = zlib.crc32(f"{self.seed}|{seed}|{words}".encode()) / 2**32
            if drawn < self.malformed:
                return text[: max(1, len(text) // 2)]
            return REFUSAL if drawn < self.malformed + self.refused else text
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
    rows = list(read_jsonl(Path(path) if path else OWN))
    return scripted(
        rows, model=f"scripted:{Path(path).name}" if path else name, batch_size=options.batch_size
    )


def scripted(
    rows: Sequence[Mapping[str, object]], *, model: str = "scripted", batch_size: int = 16
) -> Scripted:
    """The engine of these rules, in the form that a file of them has.

    Raises:
        InputError: a rule that is none.
    """
    rules: list[Rule] = []
    faults: dict[str, float] = {}
    for number, row in enumerate(rows, 1):
        ask, say = row.get("ask"), row.get("say")
        if row.keys() == {"ask", "say"} and isinstance(ask, str) and isinstance(say, str | Mapping):
            try:
                rules.append(Rule(re.compile(ask, re.DOTALL), say))
            except re.error as error:
                raise InputError(
                    f"rule {number}: {ask!r:.60} is no regular expression ({error}); mend it."
                ) from error
        elif row.keys() <= {"malformed", "refused", "seed"} and all(
            isinstance(value, int | float) for value in row.values()
        ):
            faults.update({name: float(str(value)) for name, value in row.items()})
        else:
            raise InputError(
                f'rule {number} is none; write {{"ask": REGEX, "say": TEXT}} or {{"malformed":'
                ' SHARE, "refused": SHARE}.'
            )
    malformed, refused = faults.get("malformed", 0.0), faults.get("refused", 0.0)
    return Scripted(
        model,
        digest([list(map(dict, rows))]),
        rules,
        malformed,
        refused,
        seed=int(faults.get("seed", 0)),
        batch_size=batch_size,
    )


def _filled(say: object, found: re.Match[str]) -> str:
    """What a rule says with the groups in it; JSON is written after they are filled in, so that
    they need no escapes.
    """
    filled = _with_groups(
        say, {name: (value or "").strip() for name, value in found.groupdict().items()}
    )
    return filled if isinstance(filled, str) else json.dumps(filled, ensure_ascii=False)


def _with_groups(say: object, groups: Mapping[str, str]) -> object:
    if isinstance(say, str):
        for name, value in groups.items():
            say = say.replace("{" + name + "}", value)
        return say
    if isinstance(say, Mapping):
        return {key: _with_groups(value, groups) for key, value in say.items()}
    return [_with_groups(value, groups) for value in say] if isinstance(say, list | tuple) else say
