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
from lingshu.models.load import LoadedModel, empty_meta_copy
from lingshu.train.batching import BatchSource, supervised_batches
from lingshu.train.checkpoint import (
    CheckpointWriter,
    TrainingPosition,
    find_latest_state,
    load_state,
)
from lingshu.train.config import Stage, TrainConfig
from lingshu.train.data import encode_training_samples, read_groups
from lingshu.train.distributed import DistributedContext
from lingshu.train.grpo import grpo_batches
from lingshu.train.log import LOG_FILE, ProgressCallback, TrainingLog, open_log
from lingshu.train.lora import inject_adapters, merge_adapters, save_adapter
from lingshu.train.sharding import full_state_dict
from lingshu.train.step import StepResult, Trainer, build_trainer

LOSS_WINDOW = 20  # a stage's first and last loss are means over this many steps at most


class StopRequested(Exception):
    """The run was asked to stop; its state is saved and `--resume` goes on from it."""


@dataclass(frozen=True)
class StageSummary:
    """What a stage did; `first_loss` and `last_loss` are means over its first and last few steps.

    `skipped` counts steps whose loss or gradient was no number and that changed nothing. `entities`
    says how much of its data is marked (train/entity_weights.py: EntityCounts), None where nothing is.
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
        stage_index: int,
        groups: Mapping[str, Path],
        out: Path,
        *,
        stop: Callable[[], bool],
        dist_context: DistributedContext,
    ) -> None:
        self.config, self.stage_index, self.out, self.stop, self.dist_context = (
            config,
            stage_index,
            out,
            stop,
            dist_context,
        )
        self.stage: Stage = config.stages[stage_index]
        self.folders = [groups[group] for group in self.stage.data]
        self.first_losses: list[float] = []
        self.recent_losses: deque[float] = deque(maxlen=LOSS_WINDOW)
        self.pending_losses: list[float] = []  # losses since the last row of the log
        self.skipped = 0

    def run(
        self, loaded: LoadedModel, progress: ProgressCallback | None, *, bfloat16: bool, base: str
    ) -> tuple[StageSummary, tuple[str, ...], LoadedModel | None]:
        """Train the stage from its start or its newest state to its end.

        The model is changed in place; `base` is the folder or hub id that it was loaded from. It
        comes back whole with the summary and the first drops: from a sharded run in the first
        process alone.

        Raises:
            TrainingError: too many steps gave no number. Stopped: `stop` said so, and the state is
                saved.
            StorageError: a state could not be written.
        """
        seed, dist_context = self.config.seed * 1000 + self.stage_index, self.dist_context
        lora = self.stage.lora
        adapter = (
            inject_adapters(loaded.model, loaded.processor.family, lora, seed=seed)
            if lora
            else None
        )
        trainer = build_trainer(
            loaded.model, loaded.processor, self.stage,
            device=dist_context.device, bfloat16=bfloat16, dist_context=dist_context, sharding=self.config.sharding,
        )  # fmt: skip
        source = self._open_batches(loaded, trainer, seed)
        # Each process draws its own dropout.
        torch.manual_seed(seed + 1_000_003 * dist_context.rank)
        position = self._resume(trainer)
        log_context = (
            open_log(self.out, log_bytes=position.log_bytes, tensorboard=self.config.tensorboard)
            if dist_context.is_main
            else nullcontext()
        )
        with (
            log_context as log,
            CheckpointWriter(self.out / "state", dist_context) as checkpoint_writer,
        ):
            seconds = self._steps(trainer, source, position, log, checkpoint_writer, progress)
            checkpoint_writer.wait()
        if not self.first_losses:
            raise TrainingError(
                f"stage {self.stage.name!r}: none of its {source.total} steps gave a loss and a"
                " gradient that are numbers; look at the model it starts from, or lower its rates."
            )
        model = (
            self._gather_full_model(loaded, seed) if dist_context.is_distributed else loaded.model
        )
        if model is not None:
            model.eval()
            if adapter is not None:
                save_adapter(
                    model,
                    adapter,
                    base,
                    self.out / "adapters" / f"{self.stage_index + 1}-{self.stage.name}",
                )
                merge_adapters(model)
        first, last = _mean(self.first_losses), _mean(self.recent_losses)
        name, dropped = self.stage.name, dict(source.drops)
        entities = None if source.entities is None else source.entities.as_json()
        summary = StageSummary(
            name,
            source.total,
            round(seconds, 2),
            first,
            last,
            source.samples,
            source.tokens,
            self.skipped,
            dropped,
            entities,
        )
        return (
            summary,
            tuple(source.drop_examples),
            (
                LoadedModel(model, loaded.processor, loaded.name, loaded.digest)
                if model is not None
                else None
            ),
        )

    def _gather_full_model(self, loaded: LoadedModel, seed: int) -> Any | None:
        """The sharded model as it was before it was sharded, in the first process; None in the
        others.
        """
        weights = full_state_dict(loaded.model)
        if not self.dist_context.is_main:
            return None
        model = empty_meta_copy(loaded.model)
        if self.stage.lora:
            inject_adapters(model, loaded.processor.family, self.stage.lora, seed=seed)
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        return model

    def _open_batches(self, loaded: LoadedModel, trainer: Trainer, seed: int) -> BatchSource:
        config, stage = self.config, self.stage
        if stage.grpo:
            return grpo_batches(
                self.folders, loaded, trainer, out=self.out, seed=seed, cache_mb=config.cache_mb
            )
        data = encode_training_samples(
            read_groups(self.folders), loaded.processor,
            max_tokens=stage.max_tokens, cache_mb=config.cache_mb, objective=stage.objective, seed=seed,
        )  # fmt: skip
        return supervised_batches(
            data,
            stage,
            seed,
            shard_batch=lambda batch: self.dist_context.shard_batch(batch, stage.micro_batch),
        )

    def _resume(self, trainer: Trainer) -> TrainingPosition:
        resumed = self.dist_context.run_on_main(lambda: find_latest_state(self.out / "state"))
        if resumed is not None and resumed[1].stage == self.stage_index:
            folder, position = resumed
            load_state(folder, trainer.model, trainer.optimizer, self.dist_context)
            self.first_losses, self.pending_losses, self.skipped = (
                list(position.first_losses),
                list(position.pending_losses),
                position.skipped,
            )
            self.recent_losses.extend(position.recent_losses)
            return position
        # A stage that starts anew keeps the log up to the end of the stage before it.
        finished = {stage.name for stage in self.config.stages[: self.stage_index]}
        log_bytes = self.dist_context.run_on_main(
            lambda: _finished_log_bytes(self.out / LOG_FILE, finished)
        )
        return TrainingPosition(self.stage_index, 0, log_bytes, 0.0)

    def _steps(
        self,
        trainer: Trainer,
        source: BatchSource,
        position: TrainingPosition,
        log: TrainingLog | None,
        checkpoint_writer: CheckpointWriter,
        progress: ProgressCallback | None,
    ) -> float:
        started = time.monotonic() - position.seconds
        clock, tokens, total = time.monotonic(), 0, source.total
        batches = source.batches(position.step)
        save_due = False  # a state is due, and waits for a step that can be gone on from
        for done in range(position.step + 1, total + 1):
            batch = next(batches)
            result = trainer.step(batch, done - 1, total)
            self._record_loss(result, done)
            tokens += sum(len(sample) for sequence in batch for sample in sequence)
            if done % self.config.log_every == 0 or done == total:
                tokens_per_s = self.dist_context.all_reduce_sum([tokens])[0] / max(
                    1e-9, time.monotonic() - clock
                )
                self._log_step(
                    log, trainer, done, total, result, source.metrics(), tokens_per_s, progress
                )
                clock, tokens = time.monotonic(), 0
            # One process that is asked to stop, or whose disk is full, stops all of them after the
            # same step.
            stop_requested, failed = self.dist_context.all_reduce_sum(
                [self.stop() or self.dist_context.is_orphaned(), checkpoint_writer.failed]
            )
            if failed:
                checkpoint_writer.wait()
            save_due = save_due or stop_requested > 0 or done % self.config.save_every == 0
            if done < total and save_due and source.is_resumable_at(done):
                self._save(checkpoint_writer, trainer, done, log, time.monotonic() - started)
                save_due = False
                if stop_requested:
                    checkpoint_writer.wait()
                    raise StopRequested(f"stage {self.stage.name!r}, step {done} of {total}")
        return time.monotonic() - started

    def _record_loss(self, result: StepResult, done: int) -> None:
        """Book a step's loss; one that is no number was skipped by the trainer and is counted."""
        loss, norm = result.loss, result.norm
        if math.isfinite(loss) and math.isfinite(norm):
            self.recent_losses.append(loss)
            self.pending_losses.append(loss)
            if len(self.first_losses) < LOSS_WINDOW:
                self.first_losses.append(loss)
            return
        self.skipped += 1
        if self.skipped > self.config.max_skipped_steps:
            label = f"stage {self.stage.name!r}, step {done}"
            raise TrainingError(
                f"{label}: the loss is {loss}, its gradient norm {norm}, and {self.skipped} such"
                " steps were skipped; lower the stage's rates or look at the data."
            )

    def _log_step(
        self,
        log: TrainingLog | None,
        trainer: Trainer,
        done: int,
        total: int,
        result: StepResult,
        source_metrics: Mapping[str, float],
        tokens_per_s: float,
        progress: ProgressCallback | None,
    ) -> None:
        loss = _mean(self.pending_losses) if self.pending_losses else None
        row = {"stage": self.stage.name, "step": done, "total": total, "loss": loss}
        row |= {
            "gradient_norm": result.norm if math.isfinite(result.norm) else None,
            "skipped": self.skipped,
        }
        row |= {
            "learning_rate": max(g["lr"] for g in trainer.optimizer.param_groups),
            "tokens_per_s": round(tokens_per_s, 1),
        }
        self.pending_losses = []
        if log is None:
            return
        # A skipped step may tell what is no number, which JSON cannot say.
        metrics = {
            name: value if math.isfinite(value) else None
            for name, value in (dict(result.metrics) | dict(source_metrics)).items()
        }
        log.add(row | metrics, done)
        if progress is not None:
            progress(self.stage.name, done, total, math.nan if loss is None else loss, tokens_per_s)

    def _save(
        self,
        checkpoint_writer: CheckpointWriter,
        trainer: Trainer,
        done: int,
        log: TrainingLog | None,
        seconds: float,
    ) -> None:
        losses = {
            "first_losses": tuple(self.first_losses),
            "recent_losses": tuple(self.recent_losses),
            "pending_losses": tuple(self.pending_losses),
        }
        # The first process writes the position; the others have no log.
        position = TrainingPosition(
            self.stage_index, done, log.size if log else 0, seconds, skipped=self.skipped, **losses
        )
        checkpoint_writer.save(position, trainer.model, trainer.optimizer)


def _mean(losses: Sequence[float] | deque[float]) -> float:
    return sum(losses) / len(losses) if losses else math.nan


def _finished_log_bytes(log: Path, finished: set[str]) -> int:
    """The length of the log up to the last row of the finished stages."""
    end = offset = 0
    if log.exists():
        for line in log.read_bytes().splitlines(keepends=True):
            offset += len(line)
            try:
                if json.loads(line)["stage"] in finished:
                    end = offset
            except ValueError:
                break
    return end
