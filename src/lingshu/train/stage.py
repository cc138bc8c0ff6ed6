"""One stage on its way: its steps, its clock and losses, its states, and what stops it."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lingshu.core.errors import TrainingError
from lingshu.models.load import Loaded, hollow
from lingshu.train.adapters import inject, merge, save_adapter
from lingshu.train.config import Stage, TrainConfig
from lingshu.train.data import encode_all, read_groups
from lingshu.train.feed import Feed, data_feed
from lingshu.train.grpo import grpo_feed
from lingshu.train.log import LOG, LearningLog, Progress, open_log
from lingshu.train.shard import whole_state
from lingshu.train.state import Position, Saver, latest, load_state
from lingshu.train.step import StepResult, Trainer, set_up
from lingshu.train.world import World

RECENT = 20  # a stage's first and last loss are means over this many steps at most


class Stopped(Exception):
    """The run was asked to stop; its state is saved and `--resume` goes on from it."""


@dataclass(frozen=True)
class StageSummary:
    """What a stage did; `first_loss` and `last_loss` are means over its first and last few steps.

    `skipped` counts steps whose loss or gradient was no number and that changed nothing. `entities`
    says how much of its data is marked (train/entities.py: EntityCounts), None where nothing is.
    """

    name: str
    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    samples: int
    tokens: int
    skipped: int
    dropped: Mapping[str, int]
    entities: Mapping[str, Any] | None = None


class StageRun:
    """One stage of a run; it remembers what a state has to bring back besides weights and
    optimiser.
    """

    def __init__(
        self,
        config: TrainConfig,
        number: int,
        groups: Mapping[str, Path],
        out: Path,
        *,
        stop: Callable[[], bool],
        world: World,
    ) -> None:
        self.config, self.number, self.out, self.stop, self.world = config, number, out, stop, world
        self.stage: Stage = config.stages[number]
        self.folders = [groups[group] for group in self.stage.data]
        self.first: list[float] = []
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.pending: list[float] = []  # losses since the last row of the log
        self.skipped = 0

    def run(
        self, loaded: Loaded, progress: Progress | None, *, bfloat16: bool, base: str
    ) -> tuple[StageSummary, tuple[str, ...], Loaded | None]:
        """Train the stage from its start or its newest state to its end.

        The model is changed in place; `base` is the folder or hub id that it was loaded from. It
        comes back whole with the summary and the first drops: from a sharded run in the first
        process alone.

        Raises:
            TrainingError: too many steps gave no number. Stopped: `stop` said so, and the state is
                saved.
            StorageError: a state could not be written.
        """
        seed, world = self.config.seed * 1000 + self.number, self.world
        lora = self.stage.lora
        adapter = inject(loaded.model, loaded.processor.family, lora, seed=seed) if lora else None
        trainer = set_up(
            loaded.model, loaded.processor, self.stage,
            device=world.device, bfloat16=bfloat16, world=world, sharding=self.config.sharding,
        )  # fmt: skip
        feed = self._feed(loaded, trainer, seed)
        # Each process draws its own dropout.
        torch.manual_seed(seed + 1_000_003 * world.rank)
        position = self._resume(trainer)
        log_of = (
            open_log(self.out, log_bytes=position.log_bytes, tensorboard=self.config.tensorboard)
            if world.first
            else nullcontext()
        )
        with log_of as log, Saver(self.out / "state", world) as saver:
            seconds = self._steps(trainer, feed, position, log, saver, progress)
            saver.wait()
        if not self.first:
            raise TrainingError(
                f"stage {self.stage.name!r}: none of its {feed.total} steps gave a loss and a"
                " gradient that are numbers; look at the model it starts from, or lower its rates."
            )
        model = self._whole(loaded, seed) if world.sharded else loaded.model
        if model is not None:
            model.eval()
            if adapter is not None:
                save_adapter(
                    model,
                    adapter,
                    base,
                    self.out / "adapters" / f"{self.number + 1}-{self.stage.name}",
                )
                merge(model)
        first, last = _mean(self.first), _mean(self.recent)
        name, dropped = self.stage.name, dict(feed.drops)
        entities = None if feed.entities is None else feed.entities.as_json()
        summary = StageSummary(
            name,
            feed.total,
            round(seconds, 2),
            first,
            last,
            feed.samples,
            feed.tokens,
            self.skipped,
            dropped,
            entities,
        )
        return (
            summary,
            tuple(feed.named_drops),
            (
                Loaded(model, loaded.processor, loaded.name, loaded.digest)
                if model is not None
                else None
            ),
        )

    def _whole(self, loaded: Loaded, seed: int) -> Any | None:
        """The sharded model as it was before it was sharded, in the first process; None in the
        others.
        """
        weights = whole_state(loaded.model)
        if not self.world.first:
            return None
        model = hollow(loaded.model)
        if self.stage.lora:
            inject(model, loaded.processor.family, self.stage.lora, seed=seed)
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        return model

    def _feed(self, loaded: Loaded, trainer: Trainer, seed: int) -> Feed:
        config, stage = self.config, self.stage
        if stage.grpo:
            return grpo_feed(
                self.folders, loaded, trainer, out=self.out, seed=seed, cache_mb=config.cache_mb
            )
        data = encode_all(
            read_groups(self.folders), loaded.processor,
            max_tokens=stage.max_tokens, cache_mb=config.cache_mb, objective=stage.objective, seed=seed,
        )  # fmt: skip
        return data_feed(
            data, stage, seed, share=lambda batch: self.world.share(batch, stage.micro_batch)
        )

    def _resume(self, trainer: Trainer) -> Position:
        found = self.world.lead(lambda: latest(self.out / "state"))
        if found is not None and found[1].stage == self.number:
            folder, position = found
            load_state(folder, trainer.model, trainer.optimizer, self.world)
            self.first, self.pending, self.skipped = (
                list(position.first),
                list(position.pending),
                position.skipped,
            )
            self.recent.extend(position.recent)
            return position
        # A stage that starts anew keeps the log up to the end of the stage before it.
        finished = {stage.name for stage in self.config.stages[: self.number]}
        kept = self.world.lead(lambda: _bytes_before(self.out / LOG, finished))
        return Position(self.number, 0, kept, 0.0)

    def _steps(
        self,
        trainer: Trainer,
        feed: Feed,
        position: Position,
        log: LearningLog | None,
        saver: Saver,
        progress: Progress | None,
    ) -> float:
        started = time.monotonic() - position.seconds
        clock, tokens, total = time.monotonic(), 0, feed.total
        batches = feed.batches(position.step)
        unsaved = False  # a state is due, and waits for a step that can be gone on from
        for done in range(position.step + 1, total + 1):
            batch = next(batches)
            result = trainer.step(batch, done - 1, total)
            self._take(result, done)
            tokens += sum(len(sample) for sequence in batch for sample in sequence)
            if done % self.config.log_every == 0 or done == total:
                rate = self.world.sum([tokens])[0] / max(1e-9, time.monotonic() - clock)
                self._tell(log, trainer, done, total, result, feed.told(), rate, progress)
                clock, tokens = time.monotonic(), 0
            # One process that is asked to stop, or whose disk is full, stops all of them after the
            # same step.
            asked, failed = self.world.sum([self.stop() or self.world.abandoned(), saver.failed])
            if failed:
                saver.wait()
            unsaved = unsaved or asked > 0 or done % self.config.save_every == 0
            if done < total and unsaved and feed.may_save(done):
                self._save(saver, trainer, done, log, time.monotonic() - started)
                unsaved = False
                if asked:
                    saver.wait()
                    raise Stopped(f"stage {self.stage.name!r}, step {done} of {total}")
        return time.monotonic() - started

    def _take(self, result: StepResult, done: int) -> None:
        """Book a step's loss; one that is no number was skipped by the trainer and is counted."""
        loss, norm = result.loss, result.norm
        if math.isfinite(loss) and math.isfinite(norm):
            self.recent.append(loss)
            self.pending.append(loss)
            if len(self.first) < RECENT:
                self.first.append(loss)
            return
        self.skipped += 1
        if self.skipped > self.config.most_skipped:
            where = f"stage {self.stage.name!r}, step {done}"
            raise TrainingError(
                f"{where}: the loss is {loss}, its gradient norm {norm}, and {self.skipped} such"
                " steps were skipped; lower the stage's rates or look at the data."
            )

    def _tell(
        self,
        log: LearningLog | None,
        trainer: Trainer,
        done: int,
        total: int,
        result: StepResult,
        fed: Mapping[str, float],
        rate: float,
        progress: Progress | None,
    ) -> None:
        loss = _mean(self.pending) if self.pending else None
        row = {"stage": self.stage.name, "step": done, "total": total, "loss": loss}
        row |= {
            "gradient_norm": result.norm if math.isfinite(result.norm) else None,
            "skipped": self.skipped,
        }
        row |= {
            "rate": max(g["lr"] for g in trainer.optimizer.param_groups),
            "tokens_per_s": round(rate, 1),
        }
        self.pending = []
        if log is None:
            return
        # A skipped step may tell what is no number, which JSON cannot say.
        told = {
            name: value if math.isfinite(value) else None
            for name, value in (dict(result.told) | dict(fed)).items()
        }
        log.add(row | told, done)
        if progress is not None:
            progress(self.stage.name, done, total, math.nan if loss is None else loss, rate)

    def _save(
        self, saver: Saver, trainer: Trainer, done: int, log: LearningLog | None, seconds: float
    ) -> None:
        told = {
            "first": tuple(self.first),
            "recent": tuple(self.recent),
            "pending": tuple(self.pending),
        }
        # The first process writes the position; the others have no log.
        position = Position(
            self.number, done, log.size if log else 0, seconds, skipped=self.skipped, **told
        )
        saver.save(position, trainer.model, trainer.optimizer)


def _mean(losses: Sequence[float] | deque[float]) -> float:
    return sum(losses) / len(losses) if losses else math.nan


def _bytes_before(log: Path, finished: set[str]) -> int:
    """The length of the log up to the last row of the finished stages."""
    kept = at = 0
    if log.exists():
        for line in log.read_bytes().splitlines(keepends=True):
            at += len(line)
            try:
                if json.loads(line)["stage"] in finished:
                    kept = at
            except ValueError:
                break
    return kept
