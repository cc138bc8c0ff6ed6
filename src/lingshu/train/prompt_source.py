"""The questions of a stage that learns from rewards: unanswered, with the gold that replies are
compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lingshu.core.errors import ConfigError, TrainingError
from lingshu.core.types import Drop, Message, Sample
from lingshu.models.processor import EncodedSample, Processor
from lingshu.train.data import TileCache, encode_samples, read_groups

PASS_RATE = "pass_rate"  # the column of a row, or key of a sample's meta.extra, that states it


@dataclass(frozen=True)
class Questions:
    """The usable questions of a stage; `texts` are their prompts encoded without pixels, `drops`
    what was left out and why.
    """

    samples: tuple[Sample, ...]
    encodings: tuple[EncodedSample, ...]
    cache: TileCache
    drops: dict[str, int]
    drop_examples: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.encodings))

    def prompt(self, index: int) -> EncodedSample:
        """The prompt of question `index`, complete with its scaled images."""
        images = self.samples[index].images
        return (
            replace(self.encodings[index], tiles=self.cache.tiles(images))
            if images
            else self.encodings[index]
        )

    def select(self, mask: Sequence[bool], reason: str) -> Questions:
        """The questions that are to be kept; the others are counted under `reason`.

        Raises:
            TrainingError: none is.
        """
        if all(mask):
            return self
        indices = [index for index, is_kept in enumerate(mask) if is_kept]
        if not indices:
            raise TrainingError(
                f"no question is left to learn from: all {len(self)} fall under {reason}; widen its"
                " limits."
            )
        drops = Counter(self.drops) + Counter({reason: len(self) - len(indices)})
        selected = (
            tuple(self.samples[index] for index in indices),
            tuple(self.encodings[index] for index in indices),
        )
        return Questions(*selected, self.cache, dict(drops), self.drop_examples)


def read_questions(paths: Sequence[Path]) -> Iterable[Sample | Drop]:
    """The questions of several data groups; a closing answer is taken off and is the gold where
    there is none.

    Rows that a split marked for anything but training become drops, as in a supervised stage.
    """
    for item in read_groups(paths):
        yield item if isinstance(item, Drop) else as_question(item)


def as_question(sample: Sample) -> Sample | Drop:
    """The dialogue up to its last question, with a gold; or why it is none."""
    answer = sample.messages[-1].text if sample.answered else None
    messages = sample.messages[:-1] if sample.answered else sample.messages
    gold = sample.gold or ((answer,) if answer else None)
    if not gold:
        return Drop(sample.id, "no_gold", "no right answer is known, so no reply can be rewarded")
    if not messages or messages[-1].role != "user":
        return Drop(sample.id, "no_question", "the dialogue has no user turn to be answered")
    return replace(sample, messages=messages, gold=gold)


def with_instruction(sample: Sample, instruction: str) -> Sample:
    """The question with `instruction` behind it."""
    if not instruction:
        return sample
    last = sample.messages[-1]
    return replace(
        sample, messages=(*sample.messages[:-1], Message(last.role, (*last.parts, instruction)))
    )


def encode_questions(
    items: Iterable[Sample | Drop],
    processor: Processor,
    *,
    instruction: str,
    max_prompt_tokens: int,
    cache_mb: int,
) -> Questions:
    """Encode every prompt once; bad questions are dropped, counted by reason and the first few
    named.

    Raises:
        TrainingError: no question is left.
    """

    def reject(encoded: EncodedSample) -> tuple[str, str] | None:
        too_long = len(encoded) > max_prompt_tokens
        return (
            ("too_long", f"{len(encoded)} tokens, {max_prompt_tokens} are left beside the reply")
            if too_long
            else None
        )

    # Earlier answers of the dialogue are part of the prompt here; only the reply is learnt from.
    prompts = (
        item if isinstance(item, Drop) else with_instruction(item, instruction) for item in items
    )
    cache = TileCache(processor, cache_mb=cache_mb)
    encodable = encode_samples(
        prompts, processor, cache, reject, empty_message="no question is left to learn from"
    )
    return Questions(
        encodable.samples, encodable.encodings, cache, encodable.drops, encodable.drop_examples
    )


def stated_pass_rate(sample: Sample) -> float | None:
    """The pass rate that the sample's row states, None where it states none.

    Raises:
        ConfigError: what it states is no share.
    """
    text = sample.meta.extra.get(PASS_RATE)
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise ConfigError(
            f"question {sample.id!r} states a pass_rate of {text!r}; it must be a share between 0"
            " and 1."
        )
    return rate
