"""Rounds of reinforcement learning: questions asked, replies rewarded and compared inside their
group, updates made of them.

Shapes: G groups (questions) of a round, N replies of a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.nn import functional

from lingshu.core.errors import EngineError
from lingshu.core.files import read_json, write_json
from lingshu.core.types import Sample, Sampling, Scorer
from lingshu.models.load import LoadedModel
from lingshu.models.processor import IGNORE_INDEX, EncodedSample
from lingshu.train.config import Grpo
from lingshu.train.distributed import DistributedContext
from lingshu.train.prompt_source import (
    PASS_RATE,
    Questions,
    encode_questions,
    read_questions,
    stated_pass_rate,
)
from lingshu.train.rewards import RewardResult, compute_reward, load_scorer
from lingshu.train.rollout import (
    Rollout,
    RolloutEngine,
    SaveWeights,
    eval_mode,
    open_rollout_engine,
)
from lingshu.train.step import Trainer
from lingshu.train.weight_sync import save_weights

PASS_RATES = "pass_rates"  # the folder under OUT where a stage's measured pass rates are kept
EPSILON = 1e-4  # beside the deviation, as peers have it; rewards are of the order of 1


class RolloutGroup(NamedTuple):
    """One question of a round with all its replies and what they are worth."""

    question: int
    replies: tuple[Rollout, ...]
    rewards: tuple[RewardResult, ...]


def advantages(rewards_GN: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rewards standardised inside each group, (r - mean) / (deviation + EPSILON), with the
    deviation of a sample (n - 1).
    """
    rewards_GN = np.asarray(rewards_GN, np.float64)
    centered_GN = rewards_GN - rewards_GN.mean(1, keepdims=True)
    return (centered_GN / (rewards_GN.std(1, ddof=1, keepdims=True) + EPSILON)).astype(np.float32)


class GrpoBatches:
    """The batches of a stage with `grpo`: a function of seed, step, and the weights at the start of
    each round.
    """

    def __init__(
        self,
        questions: Questions,
        trainer: Trainer,
        rollouts: RolloutEngine,
        scorer: Scorer,
        *,
        seed: int,
        save: SaveWeights,
    ) -> None:
        assert trainer.stage.grpo is not None
        self.questions, self.trainer, self.rollouts, self.scorer, self.seed, self.save = (
            questions,
            trainer,
            rollouts,
            scorer,
            seed,
            save,
        )
        self.grpo: Grpo = trainer.stage.grpo
        self.reference = ReferenceWeights(trainer) if self.grpo.kl else None
        self._metrics: dict[str, float] = {}

    @property
    def updates_per_round(self) -> int:
        """Optimiser steps of a round."""
        return self.grpo.rollout_batch_size // self.trainer.stage.batch

    @property
    def rounds_per_epoch(self) -> int:
        return max(1, len(self.questions) // self.grpo.rollout_batch_size)

    @property
    def total(self) -> int:
        stage = self.trainer.stage
        return (
            stage.steps
            or max(1, round(stage.epochs * self.rounds_per_epoch)) * self.updates_per_round
        )

    @property
    def samples(self) -> int:
        return len(self.questions)

    @property
    def tokens(self) -> int:
        return self.questions.tokens

    @property
    def drops(self) -> Mapping[str, int]:
        return self.questions.drops

    @property
    def drop_examples(self) -> Sequence[str]:
        return self.questions.drop_examples

    @property
    def entities(self) -> None:
        return None

    def batches(self, start: int) -> Iterator[Sequence[Sequence[EncodedSample]]]:
        """Each round is drawn when its first update is asked for, so that the weights are those of
        that moment.
        """
        round_index, update_index = divmod(start, self.updates_per_round)
        assert update_index == 0, "a state is saved between rounds only"
        while True:
            yield from self.run_round(round_index)
            round_index += 1

    def is_resumable_at(self, done: int) -> bool:
        return done % self.updates_per_round == 0

    def metrics(self) -> Mapping[str, float]:
        return self._metrics

    def question_order(self, round_index: int) -> list[int]:
        """The questions of round `number`: each epoch a new order, its remainder left out."""
        epoch, position = divmod(round_index, self.rounds_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.questions))
        size = self.grpo.rollout_batch_size
        # Fewer questions than a round takes: all of them, and some twice.
        return (
            np.resize(order, size)
            if len(order) < size
            else order[position * size : (position + 1) * size]
        ).tolist()

    def run_round(self, round_index: int) -> list[list[list[EncodedSample]]]:
        """This process's part of the updates of round `number`, with the weights as they are.

        Raises:
            EngineError: no question got all its replies.
        """
        question_indices = self.question_order(round_index)
        self.rollouts.refresh(self.save)
        groups = self.sample_groups(question_indices, seed=_seed(self.seed, round_index))
        if not groups:
            raise EngineError(
                f"none of the {len(question_indices)} questions of round {round_index} got its {self.grpo.num_generations}"
                " replies; look at the engine."
            )
        rewards_GN = np.array([[result.reward for result in group.rewards] for group in groups])
        if self.grpo.reward.shuffle:
            rewards_GN = (
                np.random.default_rng([self.seed, round_index])
                .permutation(rewards_GN.ravel())
                .reshape(rewards_GN.shape)
            )
        # Where all replies are worth the same, none is better than another: such a group teaches
        # nothing.
        has_signal = np.ptp(rewards_GN, axis=1) > 0
        self._metrics = round_metrics(
            groups, n_requested=len(question_indices), n_with_signal=int(has_signal.sum())
        )
        train_samples: list[EncodedSample] = []
        for group, values_N, keep_group in zip(
            groups, advantages(rewards_GN), has_signal, strict=True
        ):
            if keep_group:
                replies = [
                    (reply.token_ids, float(value))
                    for reply, value in zip(group.replies, values_N, strict=True)
                ]
                train_samples += pack_replies(
                    self.questions.prompt(group.question),
                    replies,
                    max_tokens=self.trainer.stage.max_tokens,
                )
        if len(train_samples) < self.updates_per_round:
            # A step has to have something: a reply with an advantage of 0, which only the penalty
            # acts on.
            group = groups[0]
            train_samples += [
                append_reply(
                    self.questions.prompt(group.question), group.replies[0].token_ids, advantage=0.0
                )
            ] * self.updates_per_round
        local_updates = [
            shard_update(update, self.trainer.stage.micro_batch, self.trainer.dist_context)
            for update in split_updates(train_samples, self.updates_per_round)
        ]
        return [
            [[sample] for sample in update] for update in self.with_log_probabilities(local_updates)
        ]

    def sample_groups(self, questions: Sequence[int], *, seed: int) -> list[RolloutGroup]:
        """Ask each question `num_generations` times, every process its share of them; a group that misses a
        reply is left out.
        """
        grpo = self.grpo
        samples = [
            replace(self.questions.samples[index], id=str(position))
            for position, index in enumerate(questions)
        ]
        sampling = Sampling(
            grpo.max_reply_tokens, grpo.temperature, seed=seed, num_generations=grpo.num_generations
        )
        replies: dict[tuple[str, int], Rollout] = {}
        never_sampled = set(self.trainer.processor.never_sampled)
        dist_context = self.trainer.dist_context
        for reply in gather_rollouts(
            self.rollouts.generate(samples[dist_context.rank :: dist_context.size], sampling),
            dist_context,
        ):
            # A token that stands for pixels without any would break the count of image features in
            # the learner.
            if never_sampled.isdisjoint(reply.token_ids):
                replies[reply.id, reply.copy] = reply
        groups = []
        for position, (index, sample) in enumerate(zip(questions, samples, strict=True)):
            group = [
                replies[name]
                for copy in range(grpo.num_generations)
                if (name := (str(position), copy)) in replies
            ]
            if len(group) == grpo.num_generations:
                groups.append(
                    RolloutGroup(
                        index,
                        tuple(group),
                        tuple(self.score_reply(sample, reply) for reply in group),
                    )
                )
        return groups

    def score_reply(self, sample: Sample, reply: Rollout) -> RewardResult:
        return compute_reward(
            self.grpo.reward,
            self.scorer,
            sample,
            reply.text,
            reply.token_ids,
            truncated=reply.finish != "stop",
        )

    def with_log_probabilities(
        self, updates: Sequence[Sequence[EncodedSample]]
    ) -> list[list[EncodedSample]]:
        """Each reply with what the round's start and the stage's start give its tokens, where the
        objective asks for it.
        """
        updated = [list(update) for update in updates]
        # The only update of a round starts from the round's own weights: the learner's values are
        # the old ones.
        if self.updates_per_round > 1:
            updated = [log_probabilities(self.trainer, update, "old") for update in updated]
        if self.reference is not None:
            with self.reference.active():
                updated = [
                    log_probabilities(self.trainer, update, "reference") for update in updated
                ]
        return updated

    def pass_rates(self) -> list[float]:
        """The share of right replies to each question, with the weights as they are: stated by its
        row, else asked now.
        """
        pass_rates = [stated_pass_rate(sample) for sample in self.questions.samples]
        unknown = [index for index, rate in enumerate(pass_rates) if rate is None]
        if unknown:
            self.rollouts.refresh(self.save)
        for start in range(0, len(unknown), self.grpo.rollout_batch_size):
            for group in self.sample_groups(
                unknown[start : start + self.grpo.rollout_batch_size],
                seed=_seed(self.seed, -1 - start),
            ):
                pass_rates[group.question] = float(
                    np.mean([result.accuracy for result in group.rewards])
                )
        # A question that nobody answered is as good as never answered right.
        return [rate or 0.0 for rate in pass_rates]


class ReferenceWeights:
    """The stage's start: a copy of the weights that are trained, put in the place of the current
    ones for a while.

    Beside adapters only the adapters are copied; as they were at the start they add nothing, so the
    model is the base.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        self._weights = [p.detach().clone() for p in self._trained]

    @contextmanager
    def active(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, saved in zip(self._trained, self._weights, strict=True):
            current = parameter.detach().clone()
            parameter.copy_(saved)
            saved.copy_(current)


@torch.no_grad()
def log_probabilities(
    trainer: Trainer, samples: Sequence[EncodedSample], key: str
) -> list[EncodedSample]:
    """The samples with the log-probability of each supervised token as `fact`, by the learner's own
    kernels and micro-batches.
    """
    assert trainer.stage.grpo is not None
    updated = []
    with eval_mode(trainer.model):
        for start in range(0, len(samples), trainer.stage.micro_batch):
            microbatch = samples[start : start + trainer.stage.micro_batch]
            # Sharded vision blocks are gathered by all processes or by none.
            logits_NV, targets_N = trainer.logits(trainer.pad_with_dummy_image(microbatch))
            log_probs_N = -functional.cross_entropy(
                logits_NV.float() / trainer.stage.grpo.temperature, targets_N, reduction="none"
            )
            parts = np.split(
                log_probs_N.cpu().numpy(),
                np.cumsum([sample.supervised for sample in microbatch])[:-1],
            )
            updated += [
                replace(sample, token_values={**sample.token_values, key: part})
                for sample, part in zip(microbatch, parts, strict=True)
            ]
    return updated


def append_reply(
    prompt: EncodedSample, token_ids: Sequence[int], *, advantage: float
) -> EncodedSample:
    """A prompt and its reply as one sample that is learnt from on the reply's tokens, each with the
    reply's advantage.
    """
    reply = np.array(token_ids, np.int64)
    positions = prompt.positions
    if positions is not None:
        # Text goes on behind the largest position of the prompt, in every row alike, as it did
        # while it was drawn.
        reply_positions = positions.max() + 1 + np.arange(len(reply))
        positions = np.concatenate(
            [positions, np.broadcast_to(reply_positions, (len(positions), len(reply)))], axis=1
        )
    return EncodedSample(
        ids=np.concatenate([prompt.ids, reply]),
        labels=np.concatenate([np.full(len(prompt), IGNORE_INDEX), reply]),
        is_image=np.concatenate([prompt.is_image, np.zeros(len(reply), bool)]),
        positions=positions,
        tiles=prompt.tiles,
        token_values={"advantage": np.full(len(reply), advantage, np.float32)},
    )


def pack_replies(
    prompt: EncodedSample, replies: Sequence[tuple[Sequence[int], float]], *, max_tokens: int
) -> list[EncodedSample]:
    """A prompt and its replies, each with its advantage, as few samples of at most `max_tokens`
    tokens.

    The prompt and its images stand in each sample once, and the replies go on from it as branches.
    A branch begins with the prompt's last token, which foretells the reply's first.
    """
    rows: list[list[tuple[Sequence[int], float]]] = []
    n_free = 0
    for reply in replies:
        if len(reply[0]) + 1 > n_free:
            rows.append([])
            n_free = max_tokens - len(prompt) + 1
        rows[-1].append(reply)
        n_free -= len(reply[0]) + 1
    return [
        (
            _pack_branches(prompt, row)
            if len(row) > 1
            else append_reply(prompt, row[0][0], advantage=row[0][1])
        )
        for row in rows
    ]


def _pack_branches(
    prompt: EncodedSample, replies: Sequence[tuple[Sequence[int], float]]
) -> EncodedSample:
    ids, labels, lengths = (
        [prompt.ids[:-1]],
        [np.full(len(prompt) - 1, IGNORE_INDEX)],
        [len(reply) for reply, _ in replies],
    )
    for reply, _ in replies:
        ids.append(np.array([prompt.ids[-1], *reply], np.int64))
        labels.append(np.array([IGNORE_INDEX, *reply], np.int64))
    positions = prompt.positions
    if positions is not None:
        last = positions[:, -1:]
        positions = np.concatenate(
            [positions[:, :-1], *(last + np.arange(length + 1) for length in lengths)], axis=1
        )
    token_values = {
        "advantage": np.repeat(np.array([value for _, value in replies], np.float32), lengths)
    }
    all_ids = np.concatenate(ids)
    is_image = np.concatenate(
        [prompt.is_image[:-1], np.zeros(len(all_ids) - len(prompt) + 1, bool)]
    )
    branches = tuple(length + 1 for length in lengths)
    return EncodedSample(
        all_ids, np.concatenate(labels), is_image, positions, prompt.tiles, token_values, branches
    )


def split_updates(samples: Sequence[EncodedSample], updates: int) -> list[list[EncodedSample]]:
    """The samples in `updates` parts of equal number as far as it goes, each by length, so that
    little is padded.
    """
    bounds = np.linspace(0, len(samples), updates + 1).round().astype(int).tolist()
    return [sorted(samples[start:end], key=len) for start, end in pairwise(bounds)]


def shard_update(
    update: Sequence[EncodedSample], micro_batch: int, dist_context: DistributedContext
) -> list[EncodedSample]:
    """This process's samples of an update: as many micro-batches for each, filled up with one that
    nothing is learnt from.
    """
    if dist_context.size == 1:
        return list(update)
    padding_sample = replace(
        update[0],
        labels=np.full_like(update[0].labels, IGNORE_INDEX),
        token_values={name: v[:0] for name, v in update[0].token_values.items()},
    )
    n_padding = -len(update) % (dist_context.size * micro_batch)
    return dist_context.shard_batch([padding_sample] * n_padding + list(update), micro_batch)


def gather_rollouts(
    local_rollouts: Sequence[Rollout], dist_context: DistributedContext
) -> list[Rollout]:
    """What all processes drew."""
    if dist_context.control_group is None:
        return list(local_rollouts)
    parts: list[list[Rollout]] = [[] for _ in range(dist_context.size)]
    distributed.all_gather_object(parts, list(local_rollouts), group=dist_context.control_group)
    return [rollout for part in parts for rollout in part]


def round_metrics(
    groups: Sequence[RolloutGroup], *, n_requested: int, n_with_signal: int
) -> dict[str, float]:
    """What a round came to, as means over its replies; `frac_with_signal` and `failed` are shares of its
    questions.
    """
    results = [result for group in groups for result in group.rewards]
    lengths = [len(reply.token_ids) for group in groups for reply in group.replies]
    return {
        "reward": float(np.mean([result.reward for result in results])),
        "accuracy": float(np.mean([result.accuracy for result in results])),
        "format": float(np.mean([result.format for result in results])),
        "frac_with_signal": n_with_signal / n_requested,
        "reply_tokens": float(np.mean(lengths)),
        "truncated": float(np.mean([result.truncated for result in results])),
        "repetitive": float(np.mean([result.repetitive for result in results])),
        "failed": 1 - len(groups) / n_requested,
    }


def grpo_batches(
    paths: Sequence[Path],
    loaded: LoadedModel,
    trainer: Trainer,
    *,
    out: Path,
    seed: int,
    cache_mb: int,
) -> GrpoBatches:
    """The feed of a stage with `grpo`. Made while the model still is the stage's start, which is
    the reference.

    Raises:
        TrainingError: no usable question. MissingExtra, InputError, UnknownName: an engine or
            scorer that cannot be used.
    """
    stage, processor = trainer.stage, trainer.processor
    assert stage.grpo is not None
    max_prompt_tokens = stage.max_tokens - stage.grpo.max_reply_tokens
    items = read_questions(paths)
    questions = encode_questions(
        items,
        processor,
        instruction=stage.grpo.instruction,
        max_prompt_tokens=max_prompt_tokens,
        cache_mb=cache_mb,
    )

    def encode(sample: Sample) -> EncodedSample:
        return processor.encode(
            sample.messages, questions.cache.tiles(sample.images) if sample.images else ()
        )

    rollouts = open_rollout_engine(stage.grpo.sampler, trainer, loaded, encode, out)
    scorer = load_scorer(stage.grpo.reward)
    source = GrpoBatches(
        questions,
        trainer,
        rollouts,
        scorer,
        seed=seed,
        save=lambda folder: save_weights(trainer, folder),
    )
    if stage.grpo.pass_rate is not None:
        low, high = stage.grpo.pass_rate
        pass_rates = _pass_rates(source, out / PASS_RATES / f"{stage.name}.json")
        source.questions = questions.select([low < rate < high for rate in pass_rates], PASS_RATE)
    return source


def _pass_rates(source: GrpoBatches, path: Path) -> list[float]:
    """Measured once a run: a resumed one has other weights by then."""
    dist_context = source.trainer.dist_context
    if not dist_context.run_on_main(path.exists):
        pass_rates = source.pass_rates()
        dist_context.run_on_main(
            lambda: write_json(
                path,
                {
                    "ids": [sample.id for sample in source.questions.samples],
                    "pass_rates": pass_rates,
                },
            )
        )
    return read_json(path)["pass_rates"]


def _seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{index}".encode()).digest()[:4], "big")
