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
from lingshu.core.types import Sample
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.train.config import Objective

MAX_TERMS = 10


@dataclass(frozen=True)
class EntityCounts:
    """What is marked in some samples: of `tokens` supervised ones `entity_tokens` are entities'.

    `unmarked` samples were never marked, `without` were and hold no term. `terms` are the most
    frequent ones with their numbers, capitals set small.
    """

    samples: int
    unmarked: int
    without_entities: int
    tokens: int
    entity_tokens: int
    terms: Mapping[str, int]

    @property
    def fraction(self) -> float:
        """The share of supervised tokens that belong to entities; MOFT states 0.1164 for its data."""
        return self.entity_tokens / self.tokens if self.tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        return {"fraction": self.fraction, **asdict(self)}

    def summary(self) -> str:
        """The counts on one line for a person."""
        text = (
            f"{100 * self.fraction:.2f}% of supervised tokens are entities', {self.without_entities:,} of"
            f" {self.samples:,} samples hold no term"
        )
        text += f", {self.unmarked:,} were never marked" if self.unmarked else ""
        terms = ", ".join(f"{term} {n:,}" for term, n in self.terms.items())
        return f"{text}; most frequent: {terms}" if terms else text


def count_entities(
    samples: Sequence[Sample], encodings: Sequence[EncodedSample]
) -> EntityCounts | None:
    """What is marked in samples and their encodings; None where none was ever marked."""
    terms: Counter[str] = Counter()
    unmarked = without_entities = 0
    for sample in samples:
        spans = spans_of(sample)
        unmarked += spans is None
        without_entities += spans == []
        terms.update(" ".join(span.text.casefold().split()) for span in spans or ())
    if unmarked == len(samples):
        return None
    tokens = sum(encoding.supervised for encoding in encodings)
    n_entity_tokens = sum(
        int(encoding.token_values["entity"].sum())
        for encoding in encodings
        if "entity" in encoding.token_values
    )
    frequent = dict(sorted(terms.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_TERMS])
    return EntityCounts(len(samples), unmarked, without_entities, tokens, n_entity_tokens, frequent)


def with_token_weights(
    samples: Sequence[Sample],
    encodings: Sequence[EncodedSample],
    processor: Processor,
    objective: Objective,
    *,
    seed: int,
) -> tuple[EncodedSample, ...]:
    """The encodings with the weights of their supervised tokens instead of their marks; as they are
    where none is marked.

    A weight of 1 takes the same way as any other, so that runs that differ in it differ in nothing
    else.

    Raises:
        TrainingError: entities have a weight of their own, and no sample carries any.
    """
    if not any("entity" in encoding.token_values for encoding in encodings):
        if objective.entity_weight != 1:
            raise TrainingError(
                f"objective.entity_weight is {objective.entity_weight:g}, but no sample carries"
                " entities; mark them with the step mark_entities or label_entities, or leave the"
                " weight at 1."
            )
        return tuple(encodings)
    special_ids = np.fromiter(processor.tokenizer.added_tokens_decoder, np.int64)
    return tuple(
        _with_token_weights(sample, encoding, special_ids, objective, seed)
        for sample, encoding in zip(samples, encodings, strict=True)
    )


def _with_token_weights(
    sample: Sample,
    encoding: EncodedSample,
    special_ids: NDArray[np.int64],
    objective: Objective,
    seed: int,
) -> EncodedSample:
    is_entity = encoding.token_values.get("entity", np.zeros(encoding.supervised, np.float32)) > 0
    if objective.entities == "random":
        candidates = np.flatnonzero(
            ~np.isin(encoding.labels[encoding.labels != IGNORE_INDEX], special_ids)
        )
        # By the sample's name, so that its tokens stay the same in every epoch and after an
        # interruption.
        name = int.from_bytes(
            hashlib.sha256(sample.id.encode("utf-8", "replace")).digest()[:8], "big"
        )
        sampled = np.random.default_rng([seed, name]).choice(
            candidates, int(is_entity.sum()), replace=False
        )
        is_entity = np.isin(np.arange(len(is_entity)), sampled)
    token_values = {
        name: values for name, values in encoding.token_values.items() if name != "entity"
    }
    return replace(
        encoding,
        token_values={
            **token_values,
            "weight": np.where(is_entity, objective.entity_weight, 1.0).astype(np.float32),
        },
    )
