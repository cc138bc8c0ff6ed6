"""Entity weights of the tokens of a stage, and how much of its data is marked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lingshu.core.entities import spans_of
from lingshu.core.errors import TrainingError
from lingshu.core.types import Sample
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.train.config import Objective

MAX_TERMS = 10


@dataclass(frozen=True)
class EntityCounts:
    """What is marked in some samples: `entity_tokens` of `tokens` supervised ones are in entities.

    `unmarked` samples were never marked, `without_entities` were and contain no term. `terms` are
    the most frequent ones with their counts, case-folded.
    """

    samples: int
    unmarked: int
    without_entities: int
    tokens: int
    entity_tokens: int
    terms: Mapping[str, int]

    @property
    def fraction(self) -> float:
        """The share of supervised tokens in entities; MOFT states 0.1164 for its data."""
        return self.entity_tokens / self.tokens if self.tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        return {"fraction": self.fraction, **asdict(self)}

    def summary(self) -> str:
        """The counts on one line for a person."""
        text = (
            f"{100 * self.fraction:.2f}% of supervised tokens are in entities,"
            f" {self.without_entities:,} of {self.samples:,} samples contain no term"
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
    n_entity_tokens = sum(int(e.token_values.get("entity", np.zeros(0)).sum()) for e in encodings)
    return EntityCounts(
        samples=len(samples),
        unmarked=unmarked,
        without_entities=without_entities,
        tokens=sum(encoding.supervised for encoding in encodings),
        entity_tokens=n_entity_tokens,
        terms=dict(sorted(terms.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_TERMS]),
    )


def with_token_weights(
    samples: Sequence[Sample],
    encodings: Sequence[EncodedSample],
    processor: Processor,
    objective: Objective,
    *,
    seed: int,
) -> tuple[EncodedSample, ...]:
    """The encodings with token weights in place of entity marks; unchanged where none is marked.

    A weight of 1 takes the same path as any other: runs that differ in it differ in nothing else.

    Raises:
        TrainingError: entities have their own weight, and no sample carries any.
    """
    if not any("entity" in encoding.token_values for encoding in encodings):
        if objective.entity_weight != 1:
            raise TrainingError(
                f"objective.entity_weight is {objective.entity_weight:g}, but no sample carries"
                " entities; mark them with the step mark_entities or label_entities, or leave the"
                " weight at 1."
            )
        return tuple(encodings)
    special_ids = list(processor.tokenizer.added_tokens_decoder)
    weighted = []
    for sample, encoding in zip(samples, encodings, strict=True):
        values = dict(encoding.token_values)
        is_entity = values.pop("entity", np.zeros(encoding.supervised, np.float32)) > 0
        if objective.entities == "random":
            targets = encoding.labels[encoding.labels != IGNORE_INDEX]
            candidates = np.flatnonzero(~np.isin(targets, special_ids))
            # By the id of the sample, so that its tokens stay the same in every epoch and after an
            # interruption.
            id_hash = hashlib.sha256(sample.id.encode("utf-8", "replace")).digest()[:8]
            rng = np.random.default_rng([seed, int.from_bytes(id_hash, "big")])
            sampled = rng.choice(candidates, int(is_entity.sum()), replace=False)
            is_entity = np.isin(np.arange(len(is_entity)), sampled)
        weight = np.where(is_entity, objective.entity_weight, 1.0).astype(np.float32)
        weighted.append(replace(encoding, token_values={**values, "weight": weight}))
    return tuple(weighted)
