"""The one supervised loop: a chain of stages, each resumable to the last bit, each ending in a checkpoint others can load.

OUT/config.yaml             the resolved configuration; can be run again
OUT/start/                  the model before the first stage, where it was built here
OUT/stages/<n>-<name>/      the checkpoint after each stage but the last
OUT/checkpoint/             the checkpoint after the last stage
OUT/log.jsonl, tensorboard/ the learning log
OUT/state/                  what a killed run resumes from; removed at the end
OUT/summary.json            stages with steps, seconds, first and last loss, tokens, drops
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lingshu.core import config as configuration
from lingshu.core.errors import ConfigError, TrainingError
from lingshu.core.files import read_json, write_json
from lingshu.core.nouns import Message, Sample
from lingshu.core.runcard import RUN_CARD, RunCard, write_run_card
from lingshu.models.export import export
from lingshu.models.load import Loaded, load
from lingshu.models.processor import Processor
from lingshu.models.spec import TinyModel
from lingshu.models.tiny import build_tiny
from lingshu.train.config import Stage, TrainConfig
from lingshu.train.data import StageData, check_group, encode_all, group_digests, read_groups
from lingshu.train.log import LOG, SUMMARY, LearningLog, Progress, open_log
from lingshu.train.plan import GroupedPlan, PackedPlan, Plan
from lingshu.train.state import Position, latest, load_state, save_state
from lingshu.train.step import Trainer, set_up

RECENT = 20  # a stage's first and last loss are means over this many steps at most


@dataclass(frozen=True)
class StageSummary:
    """What a stage did; `first_loss` and `last_loss` are means over its first and last few steps."""

    name: str
    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    samples: int
    tokens: int
    dropped: Mapping[str, int]


def train(config: TrainConfig, out: Path, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Run every stage that is not done yet and return the folder of the final checkpoint.

    Raises:
        ConfigError: a data group without a folder, an option that cannot work, or an OUT in use.
        ArtefactError: a model or dataset that cannot be used.
        TrainingError: a loss that is no number, or no usable sample.
        StorageError: the disk refused a write; what was written before stays whole.
    """
    groups = check_data(config)
    final = out / "checkpoint"
    prepare_folder(config, out, resume=resume)
    if final.is_dir() and (out / RUN_CARD).exists():
        return final
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    summaries = _summaries(out)
    loaded = _starting_point(config, out, len(summaries), groups)
    device, bfloat16 = _device(config)
    loaded.model.to(device)
    for number in range(len(summaries), len(config.stages)):
        run = StageRun(config, number, groups, out, device=device, bfloat16=bfloat16)
        summary, drops = run.run(loaded, progress)
        summaries.append(summary)
        last = number == len(config.stages) - 1
        folder = final if last else stage_folder(out, number, config.stages[number].name)
        export(loaded.model, loaded.processor, folder, _card(config, summaries, groups, loaded.name, drops))
        write_json(out / SUMMARY, {"stages": [asdict(s) for s in summaries]})
    write_run_card(out, _card(config, summaries, groups, loaded.name, ()))
    shutil.rmtree(out / "state", ignore_errors=True)
    return final


def stage_folder(out: Path, number: int, name: str) -> Path:
    return out / "stages" / f"{number + 1}-{name}"


def check_data(config: TrainConfig) -> dict[str, Path]:
    """The folder of every data group that a stage uses, each checked to be a whole DATASET.

    Raises:
        ConfigError: a group without a folder.
        ArtefactError, InputError: a folder that is no dataset or is damaged.
    """
    folders: dict[str, Path] = {}
    for stage in config.stages:
        for group in stage.data:
            folder = config.data[group]
            if folder is None:
                raise ConfigError(f"stage {stage.name!r} needs data group {group!r}; give it with data.{group}=FOLDER.")
            folders[group] = Path(folder)
    for folder in folders.values():
        check_group(folder)
    return folders


def prepare_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Refuse an OUT that holds another run, and write the configuration that this one can be run again with.

    Raises:
        ConfigError: OUT holds a run and `resume` is off, or it holds one of another configuration.
    """
    path = out / "config.yaml"
    if path.exists():
        if not resume:
            raise ConfigError(f"{out} holds a training run already; pass --resume to go on with it, or another --out.")
        if configuration.read_plain(path) != configuration.to_plain(config):
            raise ConfigError(f"{out} holds a run of another configuration ({path}); resume it with that file, or choose another --out.")
        return
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no training run; choose another --out.")
    configuration.write(config, path)


def _summaries(out: Path) -> list[StageSummary]:
    path = out / SUMMARY
    return [StageSummary(**row) for row in read_json(path)["stages"]] if path.exists() else []


def _starting_point(config: TrainConfig, out: Path, done: int, groups: Mapping[str, Path]) -> Loaded:
    """The model to go on with: the last finished stage's, else the configured one.

    A tiny model is built only once, with a tokenizer trained on the text of all data groups in order.
    """
    if done:
        loaded = load(str(stage_folder(out, done - 1, config.stages[done - 1].name)))
    elif isinstance(config.model, TinyModel):
        if not (out / "start").is_dir():
            items = read_groups(list(groups.values()))
            corpus = [text for item in items if isinstance(item, Sample) for text in _texts(item.messages)]
            model, processor = build_tiny(config.model, corpus, budget=config.pixels, seed=config.seed)
            export(
                model, processor, out / "start", RunCard("train", configuration.to_plain(config), config.seed, notes={"name": "untrained"})
            )
        loaded = load(str(out / "start"))
    else:
        loaded = load(config.model)
    name = config.model if isinstance(config.model, str) else f"random weights ({config.model.family})"
    old = loaded.processor
    image_processor = old.family.with_budget(old.image_processor, config.pixels)
    return Loaded(loaded.model, Processor(old.family, old.tokenizer, image_processor, config.pixels), name, loaded.digest)


def _texts(messages: Sequence[Message]) -> list[str]:
    roles = {message.role for message in messages}
    # The words of the template's own turns belong to the corpus too.
    return [message.text for message in messages] + sorted(roles) + ["system\nYou are a helpful assistant."]


def _device(config: TrainConfig) -> tuple[torch.device, bool]:
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here; set device=cpu.")
    bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and name == "cuda")
    return torch.device(name), bfloat16


def _card(config: TrainConfig, summaries: list[StageSummary], groups: Mapping[str, Path], start: str, drops: tuple[str, ...]) -> RunCard:
    stages = [
        {"stage": s.name, "steps": s.steps, "samples": s.samples, "first loss": s.first_loss, "last loss": s.last_loss} for s in summaries
    ]
    data = []
    for group, folder in groups.items():
        card = check_group(folder)
        data.append({"group": group, "rows": card.rows, "images": card.images, "licences": ", ".join(card.licences)})
    counts = {f"dropped_{reason}": 0 for s in summaries for reason in s.dropped}
    for s in summaries:
        for reason, number in s.dropped.items():
            counts[f"dropped_{reason}"] += number
    notes = {"name": config.name, "start": start, "stages": stages, "data": data, "first_drops": list(drops)}
    return RunCard("train", configuration.to_plain(config), config.seed, counts, group_digests(list(groups.values())), notes)


class StageRun:
    """One stage on its way: it remembers its clock, its recent losses and its place in the log."""

    def __init__(
        self, config: TrainConfig, number: int, groups: Mapping[str, Path], out: Path, *, device: torch.device, bfloat16: bool
    ) -> None:
        self.config, self.number, self.out, self.device, self.bfloat16 = config, number, out, device, bfloat16
        self.stage: Stage = config.stages[number]
        self.folders = [groups[group] for group in self.stage.data]
        self.first: list[float] = []
        self.recent: deque[float] = deque(maxlen=RECENT)

    def run(self, loaded: Loaded, progress: Progress | None) -> tuple[StageSummary, tuple[str, ...]]:
        """Train the stage from its start or its newest state to its end; the model is changed in place."""
        data = encode_all(read_groups(self.folders), loaded.processor, max_tokens=self.stage.max_tokens, cache_mb=self.config.cache_mb)
        plan = self._plan(tuple(map(len, data.texts)))
        total = self.stage.steps or plan.steps(self.stage.epochs)
        trainer = set_up(loaded.model, loaded.processor, self.stage, device=self.device, bfloat16=self.bfloat16)
        torch.manual_seed(self.config.seed * 1000 + self.number)
        position = self._resume(trainer)
        with open_log(self.out, log_bytes=position.log_bytes, tensorboard=self.config.tensorboard) as log:
            seconds = self._steps(trainer, data, plan, position, total, log, progress)
        loaded.model.eval()
        first = position.first_loss if position.first_loss is not None else sum(self.first) / len(self.first)
        summary = StageSummary(
            self.stage.name, total, round(seconds, 2), first, sum(self.recent) / len(self.recent), len(data), data.tokens, data.drops
        )
        return summary, data.named_drops

    def _plan(self, lengths: tuple[int, ...]) -> Plan:
        seed = self.config.seed * 1000 + self.number
        if self.stage.packing:
            return PackedPlan(lengths, self.stage.max_tokens, self.stage.batch, seed)
        return GroupedPlan(lengths, self.stage.batch, seed)

    def _resume(self, trainer: Trainer) -> Position:
        found = latest(self.out / "state")
        if found is not None and found[1].stage == self.number:
            load_state(found[0], trainer.model, trainer.optimizer)
            self.recent.extend(found[1].recent)
            self.first = list(found[1].recent) if found[1].first_loss is None else []
            return found[1]
        log = self.out / LOG
        # A stage that starts anew keeps the log up to the end of the stage before it.
        kept = _bytes_before(log, {stage.name for stage in self.config.stages[: self.number]})
        return Position(self.number, 0, kept, 0.0, None, ())

    def _steps(
        self, trainer: Trainer, data: StageData, plan: Plan, position: Position, total: int, log: LearningLog, progress: Progress | None
    ) -> float:
        started = time.monotonic() - position.seconds
        clock, tokens, losses = time.monotonic(), 0, []
        first_loss = position.first_loss
        batches = plan.batches(position.step)
        for step in range(position.step, total):
            batch = [[data.sample(i) for i in sequence] for sequence in next(batches)]
            loss, norm = trainer.step(batch, step, total)
            if not math.isfinite(loss) or not math.isfinite(norm):
                where = f"stage {self.stage.name!r}, step {step + 1}"
                raise TrainingError(f"{where}: the loss is {loss}, its gradient norm {norm}; lower the stage's rates.")
            losses.append(loss)
            self.recent.append(loss)
            if first_loss is None:
                self.first.append(loss)
                if len(self.first) == min(RECENT, total):
                    first_loss = sum(self.first) / len(self.first)
            tokens += sum(len(sample) for sequence in batch for sample in sequence)
            done = step + 1
            if done % self.config.log_every == 0 or done == total:
                rate = tokens / max(1e-9, time.monotonic() - clock)
                row = {"stage": self.stage.name, "step": done, "total": total, "loss": sum(losses) / len(losses), "gradient_norm": norm}
                log.add(row | {"rate": max(g["lr"] for g in trainer.optimizer.param_groups), "tokens_per_s": round(rate, 1)}, done)
                if progress is not None:
                    progress(self.stage.name, done, total, row["loss"], rate)
                clock, tokens, losses = time.monotonic(), 0, []
            if done % self.config.save_every == 0 and done < total:
                now = Position(self.number, done, log.size, time.monotonic() - started, first_loss, tuple(self.recent))
                save_state(self.out / "state", now, trainer.model, trainer.optimizer)
        return time.monotonic() - started


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
