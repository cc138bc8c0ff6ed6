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
from lingshu.core.nouns import Sample, Sampling, Scorer
from lingshu.models.load import Loaded
from lingshu.models.processor import IGNORED, Encoded
from lingshu.train.config import Grpo
from lingshu.train.questions import (
    PASS_RATE,
    Questions,
    encode_questions,
    read_questions,
    stated_pass_rate,
)
from lingshu.train.reward import Judged, judge, scorer_of
from lingshu.train.rollout import Rollout, Rollouts, Save, evaluating, rollouts_of
from lingshu.train.step import Trainer
from lingshu.train.whole import save_weights
from lingshu.train.world import World

PASS_RATES = "pass_rates"  # the folder under OUT where a stage's measured pass rates are kept
EPSILON = 1e-4  # beside the deviation, as peers have it; rewards are of the order of 1


class Group(NamedTuple):
    """One question of a round with all its replies and what they are worth."""

    question: int
    replies: tuple[Rollout, ...]
    judged: tuple[Judged, ...]


def advantages(rewards_GN: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rewards standardised inside each group, (r - mean) / (deviation + EPSILON), with the
    deviation of a sample (n - 1).
    """
    rewards_GN = np.asarray(rewards_GN, np.float64)
    centred_GN = rewards_GN - rewards_GN.mean(1, keepdims=True)
    return (centred_GN / (rewards_GN.std(1, ddof=1, keepdims=True) + EPSILON)).astype(np.float32)


class GrpoFeed:
    """The batches of a stage with `grpo`: a function of seed, step, and the weights at the start of
    each round.
    """

    def __init__(
        self,
        questions: Questions,
        trainer: Trainer,
        rollouts: Rollouts,
        scorer: Scorer,
        *,
        seed: int,
        save: Save,
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
        self.reference = Reference(trainer) if self.grpo.kl else None
        self._told: dict[str, float] = {}

    @property
    def updates(self) -> int:
        """Optimiser steps of a round."""
        return self.grpo.round_prompts // self.trainer.stage.batch

    @property
    def rounds_per_epoch(self) -> int:
        return max(1, len(self.questions) // self.grpo.round_prompts)

    @property
    def total(self) -> int:
        stage = self.trainer.stage
        return stage.steps or max(1, round(stage.epochs * self.rounds_per_epoch)) * self.updates

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
    def named_drops(self) -> Sequence[str]:
        return self.questions.named_drops

    @property
    def entities(self) -> None:
        return None

    def batches(self, start: int) -> Iterator[Sequence[Sequence[Encoded]]]:
        """Each round is drawn when its first update is asked for, so that the weights are those of
        that moment.
        """
        number, inside = divmod(start, self.updates)
        assert inside == 0, "a state is saved between rounds only"
        while True:
            yield from self.round(number)
            number += 1

    def may_save(self, done: int) -> bool:
        return done % self.updates == 0

    def told(self) -> Mapping[str, float]:
        return self._told

    def order(self, number: int) -> list[int]:
        """The questions of round `number`: each epoch a new order, its remainder left out."""
        epoch, place = divmod(number, self.rounds_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.questions))
        size = self.grpo.round_prompts
        # Fewer questions than a round takes: all of them, and some twice.
        return (
            np.resize(order, size)
            if len(order) < size
            else order[place * size : (place + 1) * size]
        ).tolist()

    def round(self, number: int) -> list[list[list[Encoded]]]:
        """This process's part of the updates of round `number`, with the weights as they are.

        Raises:
            EngineError: no question got all its replies.
        """
        asked = self.order(number)
        self.rollouts.refresh(self.save)
        groups = self.ask(asked, seed=_seed(self.seed, number))
        if not groups:
            raise EngineError(
                f"none of the {len(asked)} questions of round {number} got its {self.grpo.copies}"
                " replies; look at the engine."
            )
        rewards_GN = np.array([[one.reward for one in group.judged] for group in groups])
        if self.grpo.reward.shuffled:
            rewards_GN = (
                np.random.default_rng([self.seed, number])
                .permutation(rewards_GN.ravel())
                .reshape(rewards_GN.shape)
            )
        # Where all replies are worth the same, none is better than another: such a group teaches
        # nothing.
        useful = np.ptp(rewards_GN, axis=1) > 0
        self._told = told(groups, asked=len(asked), useful=int(useful.sum()))
        learnt: list[Encoded] = []
        for group, values_N, varies in zip(groups, advantages(rewards_GN), useful, strict=True):
            if varies:
                replies = [
                    (reply.token_ids, float(value))
                    for reply, value in zip(group.replies, values_N, strict=True)
                ]
                learnt += with_replies(
                    self.questions.prompt(group.question),
                    replies,
                    max_tokens=self.trainer.stage.max_tokens,
                )
        if len(learnt) < self.updates:
            # A step has to have something: a reply with an advantage of 0, which only the penalty
            # acts on.
            group = groups[0]
            learnt += [
                with_reply(
                    self.questions.prompt(group.question), group.replies[0].token_ids, advantage=0.0
                )
            ] * self.updates
        mine = [
            share(update, self.trainer.stage.micro_batch, self.trainer.world)
            for update in spread(learnt, self.updates)
        ]
        return [[[sample] for sample in update] for update in self.with_log_probabilities(mine)]

    def ask(self, questions: Sequence[int], *, seed: int) -> list[Group]:
        """Ask each question `copies` times, every process its share of them; a group that misses a
        reply is left out.
        """
        grpo = self.grpo
        samples = [
            replace(self.questions.samples[index], id=str(place))
            for place, index in enumerate(questions)
        ]
        sampling = Sampling(grpo.max_reply_tokens, grpo.temperature, seed=seed, copies=grpo.copies)
        replies: dict[tuple[str, int], Rollout] = {}
        never = set(self.trainer.processor.never_sampled)
        world = self.trainer.world
        for reply in gathered(
            self.rollouts.draw(samples[world.rank :: world.size], sampling), world
        ):
            # A token that stands for pixels without any would break the count of image features in
            # the learner.
            if never.isdisjoint(reply.token_ids):
                replies[reply.id, reply.copy] = reply
        groups = []
        for place, (index, sample) in enumerate(zip(questions, samples, strict=True)):
            group = [
                replies[name]
                for copy in range(grpo.copies)
                if (name := (str(place), copy)) in replies
            ]
            if len(group) == grpo.copies:
                groups.append(
                    Group(index, tuple(group), tuple(self.judge(sample, reply) for reply in group))
                )
        return groups

    def judge(self, sample: Sample, reply: Rollout) -> Judged:
        return judge(
            self.grpo.reward,
            self.scorer,
            sample,
            reply.text,
            reply.token_ids,
            cut=reply.finish != "stop",
        )

    def with_log_probabilities(self, updates: Sequence[Sequence[Encoded]]) -> list[list[Encoded]]:
        """Each reply with what the round's start and the stage's start give its tokens, where the
        objective asks for it.
        """
        done = [list(update) for update in updates]
        # The only update of a round starts from the round's own weights: the learner's values are
        # the old ones.
        if self.updates > 1:
            done = [log_probabilities(self.trainer, update, "old") for update in done]
        if self.reference is not None:
            with self.reference.in_place():
                done = [log_probabilities(self.trainer, update, "reference") for update in done]
        return done

    def pass_rates(self) -> list[float]:
        """The share of right replies to each question, with the weights as they are: stated by its
        row, else asked now.
        """
        rates = [stated_pass_rate(sample) for sample in self.questions.samples]
        unknown = [index for index, rate in enumerate(rates) if rate is None]
        if unknown:
            self.rollouts.refresh(self.save)
        for at in range(0, len(unknown), self.grpo.round_prompts):
            for group in self.ask(
                unknown[at : at + self.grpo.round_prompts], seed=_seed(self.seed, -1 - at)
            ):
                rates[group.question] = float(np.mean([one.accuracy for one in group.judged]))
        # A question that nobody answered is as good as never answered right.
        return [rate or 0.0 for rate in rates]


class Reference:
    """The stage's start: a copy of the weights that are trained, put in the place of the current
    ones for a while.

    Beside adapters only the adapters are copied; as they were at the start they add nothing, so the
    model is the base.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        self._kept = [p.detach().clone() for p in self._trained]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, kept in zip(self._trained, self._kept, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(held)


@torch.no_grad()
def log_probabilities(trainer: Trainer, samples: Sequence[Encoded], fact: str) -> list[Encoded]:
    """The samples with the log-probability of each supervised token as `fact`, by the learner's own
    kernels and micro-batches.
    """
    assert trainer.stage.grpo is not None
    done = []
    with evaluating(trainer.model):
        for at in range(0, len(samples), trainer.stage.micro_batch):
            micro = samples[at : at + trainer.stage.micro_batch]
            # Sharded vision blocks are gathered by all processes or by none.
            logits_NV, targets_N = trainer.logits(trainer.level(micro))
            values_N = -functional.cross_entropy(
                logits_NV.float() / trainer.stage.grpo.temperature, targets_N, reduction="none"
            )
            parts = np.split(
                values_N.cpu().numpy(), np.cumsum([sample.supervised for sample in micro])[:-1]
            )
            done += [
                replace(sample, facts={**sample.facts, fact: part})
                for sample, part in zip(micro, parts, strict=True)
            ]
    return done


def with_reply(prompt: Encoded, token_ids: Sequence[int], *, advantage: float) -> Encoded:
    """A prompt and its reply as one sample that is learnt from on the reply's tokens, each with the
    reply's advantage.
    """
    reply = np.array(token_ids, np.int64)
    positions = prompt.positions
    if positions is not None:
        # Text goes on behind the largest position of the prompt, in every row alike, as it did
        # while it was drawn.
        after = positions.max() + 1 + np.arange(len(reply))
        positions = np.concatenate(
            [positions, np.broadcast_to(after, (len(positions), len(reply)))], axis=1
        )
    return Encoded(
        ids=np.concatenate([prompt.ids, reply]),
        labels=np.concatenate([np.full(len(prompt), IGNORED), reply]),
        is_image=np.concatenate([prompt.is_image, np.zeros(len(reply), bool)]),
        positions=positions,
        tiles=prompt.tiles,
        facts={"advantage": np.full(len(reply), advantage, np.float32)},
    )


def with_replies(
    prompt: Encoded, replies: Sequence[tuple[Sequence[int], float]], *, max_tokens: int
) -> list[Encoded]:
    """A prompt and its replies, each with its advantage, as few samples of at most `max_tokens`
    tokens.

    The prompt and its images stand in each sample once, and the replies go on from it as branches.
    A branch begins with the prompt's last token, which foretells the reply's first.
    """
    rows: list[list[tuple[Sequence[int], float]]] = []
    room = 0
    for reply in replies:
        if len(reply[0]) + 1 > room:
            rows.append([])
            room = max_tokens - len(prompt) + 1
        rows[-1].append(reply)
        room -= len(reply[0]) + 1
    return [
        (
            _branched(prompt, row)
            if len(row) > 1
            else with_reply(prompt, row[0][0], advantage=row[0][1])
        )
        for row in rows
    ]


def _branched(prompt: Encoded, replies: Sequence[tuple[Sequence[int], float]]) -> Encoded:
    ids, labels, lengths = (
        [prompt.ids[:-1]],
        [np.full(len(prompt) - 1, IGNORED)],
        [len(reply) for reply, _ in replies],
    )
    for reply, _ in replies:
        ids.append(np.array([prompt.ids[-1], *reply], np.int64))
        labels.append(np.array([IGNORED, *reply], np.int64))
    positions = prompt.positions
    if positions is not None:
        last = positions[:, -1:]
        positions = np.concatenate(
            [positions[:, :-1], *(last + np.arange(length + 1) for length in lengths)], axis=1
        )
    facts = {"advantage": np.repeat(np.array([value for _, value in replies], np.float32), lengths)}
    all_ids = np.concatenate(ids)
    is_image = np.concatenate(
        [prompt.is_image[:-1], np.zeros(len(all_ids) - len(prompt) + 1, bool)]
    )
    branches = tuple(length + 1 for length in lengths)
    return Encoded(
        all_ids, np.concatenate(labels), is_image, positions, prompt.tiles, facts, branches
    )


def spread(samples: Sequence[Encoded], updates: int) -> list[list[Encoded]]:
    """The samples in `updates` parts of equal number as far as it goes, each by length, so that
    little is padded.
    """
    bounds = np.linspace(0, len(samples), updates + 1).round().astype(int).tolist()
    return [sorted(samples[start:end], key=len) for start, end in pairwise(bounds)]


def share(update: Sequence[Encoded], micro_batch: int, world: World) -> list[Encoded]:
    """This process's samples of an update: as many micro-batches for each, filled up with one that
    nothing is learnt from.
    """
    if world.size == 1:
        return list(update)
    silent = replace(
        update[0],
        labels=np.full_like(update[0].labels, IGNORED),
        facts={name: v[:0] for name, v in update[0].facts.items()},
    )
    missing = -len(update) % (world.size * micro_batch)
    return world.share([silent] * missing + list(update), micro_batch)


def gathered(mine: Sequence[Rollout], world: World) -> list[Rollout]:
    """What all processes drew."""
    if world.talk is None:
        return list(mine)
    parts: list[list[Rollout]] = [[] for _ in range(world.size)]
    distributed.all_gather_object(parts, list(mine), group=world.talk)
    return [rollout for part in parts for rollout in part]


def told(groups: Sequence[Group], *, asked: int, useful: int) -> dict[str, float]:
    """What a round came to, as means over its replies; `useful` and `failed` are shares of its
    questions.
    """
    judged = [one for group in groups for one in group.judged]
    lengths = [len(reply.token_ids) for group in groups for reply in group.replies]
    return {
        "reward": float(np.mean([one.reward for one in judged])),
        "accuracy": float(np.mean([one.accuracy for one in judged])),
        "format": float(np.mean([one.format for one in judged])),
        "useful": useful / asked,
        "reply_tokens": float(np.mean(lengths)),
        "cut": float(np.mean([one.cut for one in judged])),
        "repeated": float(np.mean([one.repeated for one in judged])),
        "failed": 1 - len(groups) / asked,
    }


def grpo_feed(
    paths: Sequence[Path], loaded: Loaded, trainer: Trainer, *, out: Path, seed: int, cache_mb: int
) -> GrpoFeed:
    """The feed of a stage with `grpo`. Made while the model still is the stage's start, which is
    the reference.

    Raises:
        TrainingError: no usable question. MissingExtra, InputError, UnknownName: an engine or
            scorer that cannot be used.
    """
    stage, processor = trainer.stage, trainer.processor
    assert stage.grpo is not None
    room = stage.max_tokens - stage.grpo.max_reply_tokens
    items = read_questions(paths)
    questions = encode_questions(
        items,
        processor,
        instruction=stage.grpo.instruction,
        max_prompt_tokens=room,
        cache_mb=cache_mb,
    )

    def encode(sample: Sample) -> Encoded:
        return processor.encode(
            sample.messages, questions.cache.tiles(sample.images) if sample.images else ()
        )

    rollouts = rollouts_of(stage.grpo.sampler, trainer, loaded, encode, out)
    scorer = scorer_of(stage.grpo.reward)
    feed = GrpoFeed(
        questions,
        trainer,
        rollouts,
        scorer,
        seed=seed,
        save=lambda folder: save_weights(trainer, folder),
    )
    if stage.grpo.pass_rate is not None:
        low, high = stage.grpo.pass_rate
        rates = _pass_rates(feed, out / PASS_RATES / f"{stage.name}.json")
        feed.questions = questions.kept([low < rate < high for rate in rates], PASS_RATE)
    return feed


def _pass_rates(feed: GrpoFeed, path: Path) -> list[float]:
    """Measured once a run: a resumed one has other weights by then."""
    world = feed.trainer.world
    if not world.lead(path.exists):
        rates = feed.pass_rates()
        world.lead(
            lambda: write_json(
                path, {"ids": [sample.id for sample in feed.questions.samples], "pass_rates": rates}
            )
        )
    return read_json(path)["pass_rates"]


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{number}".encode()).digest()[:4], "big")
