"""Entity weights of a stage's tokens, and how much of its data is marked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu.core.entities import spans_of
from lingshu.core.errors import TrainingError
from lingshu.core.nouns import Sample
from lingshu.models.processor import IGNORED, Encoded, Processor
from lingshu.train.config import Objective

MOST_TERMS = 10


@dataclass(frozen=True)
class EntityCounts:
    """What is marked in some samples: of `tokens` supervised ones `entity_tokens` are entities'.

    `unmarked` samples were never marked, `without` were and hold no term. `terms` are the most
    frequent ones with their numbers, capitals set small.
    """

    samples: int
    unmarked: int
    without: int
    tokens: int
    entity_tokens: int
    terms: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of supervised tokens that belong to entities; MOFT states 0.1164 for its data."""
        return self.entity_tokens / self.tokens if self.tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        return {"share": self.share, **asdict(self)}

    def told(self) -> str:
        """The counts on one line for a person."""
        said = (
            f"{100 * self.share:.2f}% of supervised tokens are entities', {self.without:,} of"
            f" {self.samples:,} samples hold no term"
        )
        said += f", {self.unmarked:,} were never marked" if self.unmarked else ""
        terms = ", ".join(f"{term} {number:,}" for term, number in self.terms.items())
        return f"{said}; most frequent: {terms}" if terms else said


def count(samples: Sequence[Sample], texts: Sequence[Encoded]) -> EntityCounts | None:
    """What is marked in samples and their encodings; None where none was ever marked."""
    terms: Counter[str] = Counter()
    unmarked = without = 0
    for sample in samples:
        spans = spans_of(sample)
        unmarked += spans is None
        without += spans == []
        terms.update(" ".join(span.words.casefold().split()) for span in spans or ())
    if unmarked == len(samples):
        return None
    tokens = sum(text.supervised for text in texts)
    marked = sum(int(text.facts["entity"].sum()) for text in texts if "entity" in text.facts)
    frequent = dict(sorted(terms.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_TERMS])
    return EntityCounts(len(samples), unmarked, without, tokens, marked, frequent)


def weighted(
    samples: Sequence[Sample],
    texts: Sequence[Encoded],
    processor: Processor,
    objective: Objective,
    *,
    seed: int,
) -> tuple[Encoded, ...]:
    """The encodings with the weights of their supervised tokens instead of their marks; as they are
    where none is marked.

    A weight of 1 takes the same way as any other, so that runs that differ in it differ in nothing
    else.

    Raises:
        TrainingError: entities have a weight of their own, and no sample carries any.
    """
    if not any("entity" in text.facts for text in texts):
        if objective.entity_weight != 1:
            raise TrainingError(
                f"objective.entity_weight is {objective.entity_weight:g}, but no sample carries"
                " entities; mark them with the step mark_entities or label_entities, or leave the"
                " weight at 1."
            )
        return tuple(texts)
    never = np.fromiter(processor.tokenizer.added_tokens_decoder, np.int64)
    return tuple(
        _weighted(sample, text, never, objective, seed)
        for sample, text in zip(samples, texts, strict=True)
    )


def _weighted(
    sample: Sample, text: Encoded, never: NDArray[np.int64], objective: Objective, seed: int
) -> Encoded:
    chosen = text.facts.get("entity", np.zeros(text.supervised, np.float32)) > 0
    if objective.entities == "random":
        words = np.flatnonzero(~np.isin(text.labels[text.labels != IGNORED], never))
        # By the sample's name, so that its tokens stay the same in every epoch and after an
        # interruption.
        name = int.from_bytes(
            hashlib.sha256(sample.id.encode("utf-8", "replace")).digest()[:8], "big"
        )
        drawn = np.random.default_rng([seed, name]).choice(words, int(chosen.sum()), replace=False)
        chosen = np.isin(np.arange(len(chosen)), drawn)
    facts = {name: values for name, values in text.facts.items() if name != "entity"}
    return replace(
        text,
        facts={
            **facts,
            "weight": np.where(chosen, objective.entity_weight, 1.0).astype(np.float32),
        },
    )
