"""Held-out rows measured while a stage trains: loss by group, and the accuracy of greedy replies.

Training does not depend on it: weights, moments and random numbers are those of a run without.
Under torchrun each process measures its share of the rows, and the sums are added up.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from lingshu.core.errors import ConfigError
from lingshu.core.registry import get_attribute
from lingshu.core.types import Drop, Sample, Sampling, Scorer
from lingshu.models.load import LoadedModel
from lingshu.models.processor import EncodedSample
from lingshu.train.config import Validation
from lingshu.train.data import StageData, encode_samples, read_groups, split_of
from lingshu.train.grpo import as_question
from lingshu.train.rollout import LocalRollouts, eval_mode
from lingshu.train.step import Trainer
from lingshu.train.weight_sync import FullModelCopy

CACHE_MB = 64  # scaled images of a group


@dataclass(frozen=True)
class ValidationGroup:
    """This process's rows of a group: `data` has every answer, `questions` the last one open."""

    name: str
    data: StageData | None
    questions: tuple[Sample, ...]


@dataclass(frozen=True)
class Validator:
    """Measures the groups of a stage; every process takes part in each call.

    `counts` has the rows of each group by what became of them: "used", or the reason of a drop.
    """

    config: Validation
    trainer: Trainer
    loaded: LoadedModel
    groups: tuple[ValidationGroup, ...]
    scorer: Scorer
    counts: Mapping[str, Mapping[str, int]]

    def is_due(self, step: int, total: int) -> bool:
        return step % self.config.every == 0 or step == total

    def measure(self) -> dict[str, float]:
        """`GROUP/loss`, and `GROUP/accuracy` where replies are scored."""
        # Greedy replies take no random number; a library that does leaves training as it was.
        cuda = [self.trainer.device] if self.trainer.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            values = {f"{g.name}/loss": self._loss(g) for g in self.groups}
            if self.config.accuracy:
                values |= self._accuracies()
        return values

    def _loss(self, group: ValidationGroup) -> float:
        """Cross-entropy in nats, a mean over the supervised tokens of the group."""
        trainer, dist_context = self.trainer, self.trainer.dist_context
        batches = list(self._batches(group.data)) if group.data else []
        # A sharded forward pass needs all processes: those with fewer batches take a spare one.
        n_batches = max(dist_context.all_gather([len(batches)]))
        spare = [trainer.dummy_turn] if trainer.dummy_turn else []
        loss, tokens = 0.0, 0
        with eval_mode(trainer.model):
            for index in range(n_batches):
                samples = batches[index] if index < len(batches) else spare
                padded = trainer.pad_with_dummy_image(samples)
                log_probs_N = trainer.log_probs(padded, temperature=1.0)
                loss -= float(log_probs_N.sum(dtype=torch.float64))
                tokens += len(log_probs_N)
        loss, tokens = dist_context.all_reduce_sum([loss, tokens])
        return loss / tokens

    def _batches(self, data: StageData) -> Iterator[list[EncodedSample]]:
        """Samples of similar length together, as many tokens as a micro-batch of training holds."""
        stage = self.trainer.stage
        batch: list[int] = []
        for index in sorted(range(len(data)), key=lambda i: len(data.encodings[i])):
            tokens = (len(batch) + 1) * len(data.encodings[index])
            if batch and tokens > stage.micro_batch * stage.max_tokens:
                yield [data.sample(i) for i in batch]
                batch = []
            batch.append(index)
        if batch:
            yield [data.sample(i) for i in batch]

    def _accuracies(self) -> dict[str, float]:
        """The mean score of greedy replies to the questions of each group, by all requested."""
        dist_context = self.trainer.dist_context
        full_copy = FullModelCopy(self.trainer) if dist_context.is_distributed else None
        model = self.loaded if full_copy is None else replace(self.loaded, model=full_copy.model)
        if full_copy is not None:
            full_copy.update()
        accuracies = {}
        for group in self.groups:
            score, requested = dist_context.all_reduce_sum(
                [self._score_replies(group, model), len(group.questions)]
            )
            if requested:
                accuracies[f"{group.name}/accuracy"] = score / requested
        return accuracies

    def _score_replies(self, group: ValidationGroup, model: LoadedModel) -> float:
        """The sum of the scores of this process's questions; no reply or answer counts as 0."""
        if group.data is None or not group.questions:
            return 0.0
        cache, processor = group.data.cache, self.loaded.processor
        rollouts = LocalRollouts(
            model,
            lambda sample: processor.encode(sample.messages, cache.tiles(sample.images)),
            self.config.batch,
            self.trainer.bfloat16,
        )
        by_id = {str(i): replace(s, id=str(i)) for i, s in enumerate(group.questions)}
        sampling = Sampling(self.config.max_reply_tokens, 0.0)
        replies = rollouts.generate(list(by_id.values()), sampling)
        return sum(self.scorer(by_id[reply.id], reply.text).value or 0.0 for reply in replies)


def open_validator(
    config: Validation,
    folders: Mapping[str, Path],
    trainer: Trainer,
    loaded: LoadedModel,
    *,
    trained: Sequence[str],
    seed: int,
) -> Validator:
    """Read this process's share of the validation groups; `trained` groups are learned from.

    Raises:
        ConfigError: a group without a row to validate on. UnknownNameError: an unknown scorer.
    """
    scorer = cast(Scorer, get_attribute("scoring", config.scorer, "score"))
    dist_context, groups = trainer.dist_context, list[ValidationGroup]()
    for name in config.groups:
        rows = validation_rows(folders[name], is_trained=name in trained)
        chosen = choose_rows(rows, config.max_samples, seed=seed)
        if not chosen:
            raise ConfigError(
                f"validation group {name!r} ({folders[name]}) has no row to validate on; mark rows"
                " with split=validation, or name a group that no stage trains on. Rows of split"
                " test are never used."
            )
        own = chosen[dist_context.rank :: dist_context.size]
        groups.append(_encode_group(name, own, trainer, loaded))
    counts = {
        group.name: dict(
            sum(
                (Counter(dict(row)) for row in dist_context.all_gather([_count_rows(group)])),
                Counter[str](),
            )
        )
        for group in groups
    }
    return Validator(config, trainer, loaded, tuple(groups), scorer, counts)


def _count_rows(group: ValidationGroup) -> dict[str, int]:
    return {"used": len(group.data), **group.data.drops} if group.data else {}


def _encode_group(
    name: str, samples: Sequence[Sample], trainer: Trainer, loaded: LoadedModel
) -> ValidationGroup:
    data = None
    if samples:
        data = encode_samples(
            samples,
            loaded.processor,
            max_tokens=trainer.stage.max_tokens,
            cache_mb=CACHE_MB,
            empty_message=f"validation group {name!r} has no usable row",
        )
    questions = [as_question(sample) for sample in data.samples] if data else []
    return ValidationGroup(name, data, tuple(q for q in questions if isinstance(q, Sample)))


def validation_rows(folder: Path, *, is_trained: bool) -> Iterator[Sample]:
    """The rows of a group that may steer training: of one that a stage trains on, those marked
    validation; of any other, all that are not marked test.
    """
    for item in read_groups([folder], held_out=True):
        if isinstance(item, Drop):
            continue
        split = split_of(item)
        if split.startswith(("val", "dev")) or not (is_trained or split.startswith("test")):
            yield item


def choose_rows(samples: Iterator[Sample], limit: int, *, seed: int) -> list[Sample]:
    """At most `limit` rows, the same ones whatever their order in the file."""

    def key(sample: Sample) -> str:
        return hashlib.sha256(f"{seed}|{sample.id}".encode()).hexdigest()

    return heapq.nsmallest(limit, samples, key=key)
