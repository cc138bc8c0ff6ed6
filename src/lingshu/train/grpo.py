"""Rounds of reinforcement learning: questions answered, replies rewarded by group, updates made.

Shapes: G groups (questions) of a round, N replies of a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lingshu.core.errors import ConfigError, EngineError
from lingshu.core.files import read_json, write_json
from lingshu.core.registry import get_attribute
from lingshu.core.types import Drop, Message, Sample, Sampling, Scorer
from lingshu.models.load import LoadedModel
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.scoring.format import extract_answer
from lingshu.train.batching import Batch
from lingshu.train.config import Grpo, Reward
from lingshu.train.data import StageData, encode_samples, read_groups
from lingshu.train.distributed import DistributedContext
from lingshu.train.rollout import (
    Rollout,
    RolloutEngine,
    SaveWeights,
    eval_mode,
    open_rollout_engine,
)
from lingshu.train.step import Trainer, micro_batches
from lingshu.train.weight_sync import save_weights

PASS_RATE = "pass_rate"  # the column of a row, or key of a sample's meta.extra, that states it
PASS_RATES = "pass_rates"  # the folder under OUT where a stage's measured pass rates are kept
EPSILON = 1e-4  # added to the deviation, as in other libraries; rewards are of the order of 1
NGRAM_SIZE = 4  # tokens; shorter runs recur in any prose


class RewardResult(NamedTuple):
    """The reward of a reply and its parts; `accuracy` is 0 where no answer could be read."""

    reward: float
    format: float
    accuracy: float
    truncated: bool
    repetitive: bool


class RolloutGroup(NamedTuple):
    """One question of a round with all its replies and their rewards."""

    question: int
    replies: tuple[Rollout, ...]
    rewards: tuple[RewardResult, ...]


def load_scorer(reward: Reward) -> Scorer:
    """The scorer of a reward; raises UnknownNameError or InputError."""
    return cast(Scorer, get_attribute("scoring", reward.scorer, "score"))


def compute_reward(config: Reward, scorer: Scorer, sample: Sample, reply: Rollout) -> RewardResult:
    """The reward of a reply; the scorer sees only the answer inside the required format."""
    truncated = reply.finish != "stop"
    repetitive = repetition(reply.token_ids) > config.max_repetition
    answer = extract_answer(reply.text) if config.format else reply.text
    if truncated or repetitive or answer is None:
        return RewardResult(0.0, 0.0, 0.0, truncated, repetitive)
    format_score = 1.0 if config.format else 0.0
    accuracy = scorer(sample, answer).value or 0.0
    reward = config.format * format_score + config.accuracy * accuracy
    return RewardResult(reward, format_score, accuracy, truncated, repetitive)


def repetition(token_ids: Sequence[int]) -> float:
    """The share of 4-grams that occurred before in the same reply; 0 for one too short for two."""
    ngrams = [tuple(token_ids[i : i + NGRAM_SIZE]) for i in range(len(token_ids) - NGRAM_SIZE + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def advantages(rewards_GN: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rewards standardized inside each group by its sample deviation (n - 1) plus EPSILON."""
    rewards_GN = np.asarray(rewards_GN, np.float64)
    centered_GN = rewards_GN - rewards_GN.mean(1, keepdims=True)
    return (centered_GN / (rewards_GN.std(1, ddof=1, keepdims=True) + EPSILON)).astype(np.float32)


def read_questions(paths: Sequence[Path]) -> Iterator[Sample | Drop]:
    """The questions of several data groups; held-out rows become drops as in any stage."""
    for item in read_groups(paths):
        yield item if isinstance(item, Drop) else as_question(item)


def as_question(sample: Sample) -> Sample | Drop:
    """The dialogue up to its last question; the answer after it is the gold if there is none."""
    answer = sample.messages[-1].text if sample.answered else None
    messages = sample.messages[:-1] if sample.answered else sample.messages
    gold = sample.gold or ((answer,) if answer else None)
    if not gold:
        return Drop(sample.id, "no_gold", "no right answer is known, so no reply can be rewarded")
    if not messages or messages[-1].role != "user":
        return Drop(sample.id, "no_question", "the dialogue has no user turn to be answered")
    return replace(sample, messages=messages, gold=gold)


def with_instruction(sample: Sample, instruction: str) -> Sample:
    """The question with `instruction` appended."""
    if not instruction:
        return sample
    last = Message(sample.messages[-1].role, (*sample.messages[-1].parts, instruction))
    return replace(sample, messages=(*sample.messages[:-1], last))


def encode_questions(
    items: Iterable[Sample | Drop],
    processor: Processor,
    *,
    instruction: str,
    max_prompt_tokens: int,
    cache_mb: int,
) -> StageData:
    """Encode every prompt once; raises TrainingError if no question is usable."""
    # Earlier answers of the dialogue are part of the prompt here; only the reply is learned from.
    return encode_samples(
        (i if isinstance(i, Drop) else with_instruction(i, instruction) for i in items),
        processor,
        max_tokens=max_prompt_tokens,
        cache_mb=cache_mb,
        empty_message="no question is left to learn from",
        supervised=False,
    )


def stated_pass_rate(sample: Sample) -> float | None:
    """The pass rate that a row states, or None; raises ConfigError if it is not between 0 and 1."""
    text = sample.meta.extra.get(PASS_RATE)
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise ConfigError(
            f"question {sample.id!r} states a pass_rate of {text!r}; give a number between 0 and 1."
        )
    return rate


class GrpoBatches:
    """The batches of a stage with `grpo`: a function of seed, step and weights."""

    def __init__(
        self,
        questions: StageData,
        trainer: Trainer,
        rollouts: RolloutEngine,
        scorer: Scorer,
        *,
        seed: int,
        save: SaveWeights,
    ) -> None:
        assert trainer.stage.grpo is not None
        self.data, self.trainer, self.rollouts = questions, trainer, rollouts
        self.scorer, self.seed, self.save = scorer, seed, save
        self.grpo: Grpo = trainer.stage.grpo
        self.reference = ReferenceWeights(trainer) if self.grpo.kl else None
        self.metrics: Mapping[str, float] = {}

    @property
    def updates_per_round(self) -> int:
        """Optimizer steps of a round."""
        return self.grpo.rollout_batch_size // self.trainer.stage.batch

    @property
    def rounds_per_epoch(self) -> int:
        return max(1, len(self.data) // self.grpo.rollout_batch_size)

    @property
    def total(self) -> int:
        stage = self.trainer.stage
        rounds = max(1, round(stage.epochs * self.rounds_per_epoch))
        return stage.steps or rounds * self.updates_per_round

    def __call__(self, start: int) -> Iterator[Batch]:
        """A round is sampled with the weights at the moment its first update is requested."""
        round_index, update_index = divmod(start, self.updates_per_round)
        assert update_index == 0, "a state is saved between rounds only"
        while True:
            yield from self.run_round(round_index)
            round_index += 1

    def is_resumable_at(self, step: int) -> bool:
        return step % self.updates_per_round == 0

    def question_order(self, round_index: int) -> list[int]:
        """The questions of a round: each epoch a new order, its remainder left out."""
        epoch, position = divmod(round_index, self.rounds_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.data))
        size = self.grpo.rollout_batch_size
        # Fewer questions than a round takes: all of them, and some twice.
        if len(order) < size:
            return np.resize(order, size).tolist()
        return order[position * size : (position + 1) * size].tolist()

    def run_round(self, round_index: int) -> list[list[list[EncodedSample]]]:
        """This process's updates of a round; raises EngineError if no question got its replies."""
        indices = self.question_order(round_index)
        self.rollouts.refresh(self.save)
        groups = self.sample_groups(indices, seed=_seed(self.seed, round_index))
        if not groups:
            raise EngineError(
                f"none of the {len(indices)} questions of round {round_index} got its"
                f" {self.grpo.num_generations} replies; check the engine."
            )
        rewards_GN = np.array([[result.reward for result in group.rewards] for group in groups])
        if self.grpo.reward.shuffle:
            rng = np.random.default_rng([self.seed, round_index])
            rewards_GN = rng.permutation(rewards_GN.ravel()).reshape(rewards_GN.shape)
        # A group whose replies all have the same reward teaches nothing.
        has_signal = np.ptp(rewards_GN, axis=1) > 0
        self.metrics = round_metrics(
            groups, n_requested=len(indices), n_with_signal=int(has_signal.sum())
        )
        stage, samples = self.trainer.stage, list[EncodedSample]()
        for group, values_N, keep in zip(groups, advantages(rewards_GN), has_signal, strict=True):
            if keep:
                ids = [reply.token_ids for reply in group.replies]
                replies = list(zip(ids, values_N.tolist(), strict=True))
                prompt = self.data.sample(group.question)
                samples += pack_replies(prompt, replies, max_tokens=stage.max_tokens)
        if len(samples) < self.updates_per_round:
            # A step needs a sample: a reply with an advantage of 0, which only the penalty acts on.
            prompt = self.data.sample(groups[0].question)
            filler = append_replies(prompt, [(groups[0].replies[0].token_ids, 0.0)])
            samples += [filler] * self.updates_per_round
        updates = self.with_log_probabilities(
            [
                shard_update(update, stage.micro_batch, self.trainer.dist_context)
                for update in split_updates(samples, self.updates_per_round)
            ]
        )
        return [[[sample] for sample in update] for update in updates]

    def sample_groups(self, questions: Sequence[int], *, seed: int) -> list[RolloutGroup]:
        """`num_generations` replies to each question; a group that misses one is left out."""
        grpo, dist_context = self.grpo, self.trainer.dist_context
        samples = [
            replace(self.data.samples[index], id=str(position))
            for position, index in enumerate(questions)
        ]
        sampling = Sampling(
            grpo.max_reply_tokens, grpo.temperature, seed=seed, num_generations=grpo.num_generations
        )
        local = self.rollouts.generate(samples[dist_context.rank :: dist_context.size], sampling)
        # An image token in a reply would break the count of image features in the learner.
        never_sampled = set(self.trainer.processor.never_sampled)
        replies = {
            (reply.id, reply.generation_index): reply
            for reply in dist_context.all_gather(local)
            if never_sampled.isdisjoint(reply.token_ids)
        }
        groups = []
        for index, sample in zip(questions, samples, strict=True):
            keys = [(sample.id, generation) for generation in range(grpo.num_generations)]
            if all(key in replies for key in keys):
                group = tuple(replies[key] for key in keys)
                rewards = tuple(self.score_reply(sample, reply) for reply in group)
                groups.append(RolloutGroup(index, group, rewards))
        return groups

    def score_reply(self, sample: Sample, reply: Rollout) -> RewardResult:
        return compute_reward(self.grpo.reward, self.scorer, sample, reply)

    def with_log_probabilities(
        self, updates: Sequence[Sequence[EncodedSample]]
    ) -> list[list[EncodedSample]]:
        """The samples with the old and reference log-probabilities that the objective needs."""
        updated = [list(update) for update in updates]
        # The only update of a round starts from the weights of the round: the learner's values are
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
        """The share of correct replies to each question: stated by its row, else measured now."""
        shares = [stated_pass_rate(sample) for sample in self.data.samples]
        unknown = [index for index, rate in enumerate(shares) if rate is None]
        if unknown:
            self.rollouts.refresh(self.save)
        size = self.grpo.rollout_batch_size
        for start in range(0, len(unknown), size):
            indices = unknown[start : start + size]
            for group in self.sample_groups(indices, seed=_seed(self.seed, -1 - start)):
                shares[group.question] = float(np.mean([r.accuracy for r in group.rewards]))
        # A question without replies counts as never answered correctly.
        return [rate or 0.0 for rate in shares]


class ReferenceWeights:
    """A copy of the trained weights (or adapters) at the stage's start, swapped in for a while."""

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
    """The samples with the policy's log-probability of each supervised token under `key`."""
    updated = []
    with eval_mode(trainer.model):
        for microbatch in micro_batches(samples, trainer.stage.micro_batch):
            # Sharded vision blocks are gathered by all processes or by none.
            log_probs_N = trainer.log_probs(trainer.pad_with_dummy_image(microbatch))
            ends = np.cumsum([sample.supervised for sample in microbatch])
            parts = np.split(log_probs_N.cpu().numpy(), ends[:-1])
            updated += [
                replace(sample, token_values={**sample.token_values, key: part})
                for sample, part in zip(microbatch, parts, strict=True)
            ]
    return updated


def pack_replies(
    prompt: EncodedSample, replies: Sequence[tuple[Sequence[int], float]], *, max_tokens: int
) -> list[EncodedSample]:
    """A prompt and its replies with their advantages, in few samples of at most `max_tokens`."""
    rows: list[list[tuple[Sequence[int], float]]] = []
    n_free = 0
    for reply in replies:
        if len(reply[0]) + 1 > n_free:
            rows.append([])
            n_free = max_tokens - len(prompt) + 1
        rows[-1].append(reply)
        n_free -= len(reply[0]) + 1
    return [append_replies(prompt, row) for row in rows]


def append_replies(
    prompt: EncodedSample, replies: Sequence[tuple[Sequence[int], float]]
) -> EncodedSample:
    """A prompt and replies with their advantages as one sample, all continuing the same prompt.

    Several are branches, each of which repeats the last token of the prompt: it predicts the first
    one of the reply. Positions of text count up in every row of M-RoPE alike.
    """
    lengths = [len(reply) for reply, _ in replies]
    branches = tuple(length + 1 for length in lengths)
    rows = [np.array([prompt.ids[-1], *reply], np.int64) for reply, _ in replies]
    labels = [np.array([IGNORE_INDEX, *reply], np.int64) for reply, _ in replies]
    positions = prompt.positions
    if positions is not None:
        tails = (positions[:, -1:] + np.arange(branch) for branch in branches)
        positions = np.concatenate([positions[:, :-1], *tails], axis=1)
    advantages_N = np.array([advantage for _, advantage in replies], np.float32)
    return EncodedSample(
        ids=np.concatenate([prompt.ids[:-1], *rows]),
        labels=np.concatenate([np.full(len(prompt) - 1, IGNORE_INDEX), *labels]),
        is_image=np.concatenate([prompt.is_image[:-1], np.zeros(sum(branches), bool)]),
        positions=positions,
        tiles=prompt.tiles,
        token_values={"advantage": np.repeat(advantages_N, lengths)},
        branches=branches if len(branches) > 1 else (),
    )


def split_updates(samples: Sequence[EncodedSample], updates: int) -> list[list[EncodedSample]]:
    """The samples in `updates` nearly equal parts, each sorted by length for little padding."""
    bounds = np.linspace(0, len(samples), updates + 1).round().astype(int).tolist()
    return [sorted(samples[start:end], key=len) for start, end in pairwise(bounds)]


def shard_update(
    update: Sequence[EncodedSample], micro_batch: int, dist_context: DistributedContext
) -> list[EncodedSample]:
    """This process's samples of an update, padded to as many micro-batches as in the others."""
    if dist_context.size == 1:
        return list(update)
    padding_sample = replace(
        update[0],
        labels=np.full_like(update[0].labels, IGNORE_INDEX),
        token_values={name: v[:0] for name, v in update[0].token_values.items()},
    )
    n_padding = -len(update) % (dist_context.size * micro_batch)
    return dist_context.shard_batch([padding_sample] * n_padding + list(update), micro_batch)


def round_metrics(
    groups: Sequence[RolloutGroup], *, n_requested: int, n_with_signal: int
) -> dict[str, float]:
    """Means over the replies of a round, and the shares of its questions with signal and failed."""
    results = [result for group in groups for result in group.rewards]
    columns = zip(RewardResult._fields, zip(*results, strict=True), strict=True)
    lengths = [len(reply.token_ids) for group in groups for reply in group.replies]
    return {
        **{name: float(np.mean(column)) for name, column in columns},
        "frac_with_signal": n_with_signal / n_requested,
        "reply_tokens": float(np.mean(lengths)),
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
    """The batches of a stage with `grpo`; the model must be at the start of the stage, the
    reference.

    Raises:
        TrainingError: no usable question. MissingExtraError, InputError, UnknownNameError: an
            engine or scorer that cannot be used.
    """
    stage, processor, grpo = trainer.stage, trainer.processor, trainer.stage.grpo
    assert grpo is not None
    questions = encode_questions(
        read_questions(paths),
        processor,
        instruction=grpo.instruction,
        max_prompt_tokens=stage.max_tokens - grpo.max_reply_tokens,
        cache_mb=cache_mb,
    )

    def encode(sample: Sample) -> EncodedSample:
        tiles = questions.cache.tiles(sample.images) if sample.images else ()
        return processor.encode(sample.messages, tiles)

    source = GrpoBatches(
        questions,
        trainer,
        open_rollout_engine(grpo.sampler, trainer, loaded, encode, out),
        load_scorer(grpo.reward),
        seed=seed,
        save=lambda folder: save_weights(trainer, folder),
    )
    if grpo.pass_rate is not None:
        low, high = grpo.pass_rate
        pass_rates = _pass_rates(source, out / PASS_RATES / f"{stage.name}.json")
        source.data = questions.select([low < rate < high for rate in pass_rates], PASS_RATE)
    return source


def _pass_rates(source: GrpoBatches, path: Path) -> list[float]:
    """Measured once per run: a resumed one has other weights by then."""
    dist_context = source.trainer.dist_context
    if not dist_context.run_on_main(path.exists):
        shares = source.pass_rates()
        ids = [sample.id for sample in source.data.samples]
        dist_context.run_on_main(lambda: write_json(path, {"ids": ids, PASS_RATES: shares}))
    return read_json(path)[PASS_RATES]


def _seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{index}".encode()).digest()[:4], "big")
