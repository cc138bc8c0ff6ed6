"""The training loop: a chain of stages, each resumable to the last bit, each with a checkpoint.

OUT/config.yaml             the resolved configuration; can be run again
OUT/data.json               the digest of each data group, so that a resumed run sees the same data
OUT/start/                  the model before the first stage, where it was built here
OUT/stages/<n>-<name>/      the checkpoint after each stage but the last
OUT/adapters/<n>-<name>/    the adapter of each LoRA stage, for peft; the checkpoint has it merged
OUT/checkpoints/<n>-<name>/ checkpoints inside a stage (train/kept_checkpoints.py)
OUT/checkpoint/             the checkpoint after the last stage
OUT/log.jsonl, tensorboard/ the training log
OUT/trackers.json           the ids of the run in the experiment trackers
OUT/state/<n>-<step>/       what an interrupted run resumes from (train/checkpoint.py); removed last
OUT/summary.json            stages with steps, seconds, first and last loss, tokens, drops

Under torchrun every process runs this same loop; only the first one writes, except for each
process's share of a state.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from lingshu.core import config as configuration
from lingshu.core.errors import ConfigError, TrainingError
from lingshu.core.files import atomic_folder, read_json, write_json
from lingshu.core.run_card import RUN_CARD, RunCard, write_run_card
from lingshu.models.export import export
from lingshu.models.inference_settings import stored_weights
from lingshu.models.load import LoadedModel, load, load_on_meta, local_folder
from lingshu.models.model_spec import TinyModel
from lingshu.models.processor import Processor
from lingshu.models.quantization import allow_gradients
from lingshu.models.tiny import build_tiny
from lingshu.train.batching import BatchSource, supervised_batches
from lingshu.train.checkpoint import (
    CheckpointWriter,
    TrainingPosition,
    find_latest_state,
    load_state,
)
from lingshu.train.config import TrainConfig
from lingshu.train.data import DataGroup, encode_training_samples, open_data_group, read_groups
from lingshu.train.distributed import (
    DistributedContext,
    check_distributed,
    full_state_dict,
    init_distributed,
)
from lingshu.train.estimate import tokenizer_texts
from lingshu.train.grpo import grpo_batches
from lingshu.train.kept_checkpoints import (
    CheckpointKeeper,
    adapter_folder,
    checkpoint_step,
    write_checkpoint,
)
from lingshu.train.log import (
    LOG_FILE,
    SUMMARY_FILE,
    VALIDATION,
    TrackedRun,
    TrackerSet,
    TrainingLog,
    check_trackers,
    open_log,
    open_trackers,
)
from lingshu.train.lora import copy_trained, inject_adapters, merge_adapters, save_adapter
from lingshu.train.progress import ProgressCallback, StepProgress
from lingshu.train.step import StepResult, Trainer, build_trainer, freeze_parameters
from lingshu.train.validation import Validator, open_validator
from lingshu.train.weight_sync import unsharded_model
from lingshu.weights.base import TORCH_DTYPES

DATA_FILE = "data.json"
BASE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int4": torch.bfloat16}
LOSS_WINDOW = 20  # a stage's first and last loss are means over this many steps at most


class StopRequested(Exception):
    """The run was asked to stop; its state is saved and `--resume` continues from it."""


@dataclass(frozen=True)
class StageSummary:
    """What a stage did; `first_loss` and `last_loss` are means over its first and last few steps.

    `skipped` counts non-finite steps, which changed nothing; `entities` is EntityCounts as JSON;
    `tracker_failures` counts the steps that an experiment tracker did not take, by tracker;
    `validation` has the rows, drops and last measurements of the validation groups; `kept` lists the
    checkpoints inside the stage, and `result_step` is the step that it results in if not its last.
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
    tracker_failures: Mapping[str, int] = field(default_factory=dict)
    validation: Mapping[str, Any] | None = None
    kept: Sequence[Mapping[str, Any]] = ()
    result_step: int | None = None


@dataclass(frozen=True)
class RunContext:
    """What the stages of a run share."""

    config: TrainConfig
    out: Path
    groups: Mapping[str, DataGroup]
    dist_context: DistributedContext
    stop: Callable[[], bool]
    progress: ProgressCallback | None = None
    trackers: TrackerSet = field(default_factory=TrackerSet)

    @property
    def trained_groups(self) -> dict[str, DataGroup]:
        names = {group for stage in self.config.stages for group in stage.data}
        return {name: group for name, group in self.groups.items() if name in names}

    def start_folder(self, stage_index: int) -> str:
        """The folder or hub id of the model that a stage starts from."""
        config = self.config
        if stage_index:
            return str(stage_folder(self.out, stage_index - 1, config.stages[stage_index - 1].name))
        return str(self.out / "start") if isinstance(config.model, TinyModel) else config.model

    @property
    def bfloat16(self) -> bool:
        """Whether steps are computed in bfloat16, with weights that are trained in float32."""
        precision, on_gpu = self.config.precision, self.dist_context.device.type == "cuda"
        return precision == "bfloat16" or (precision == "auto" and on_gpu)

    def base_type(self, stage_index: int) -> Literal["float32", "bfloat16", "int4"]:
        """The type in which a stage holds the weights that it does not train."""
        lora = self.config.stages[stage_index].lora
        if lora is None:
            return "float32"
        if not stage_index and isinstance(self.config.model, TinyModel):
            return lora.base_type(stored="F32", bfloat16=self.bfloat16)  # not built yet
        folder, _ = local_folder(self.start_folder(stage_index), None, with_weights=True)
        return lora.base_type(stored=stored_weights(folder).dtype, bfloat16=self.bfloat16)

    @property
    def start_name(self) -> str:
        model = self.config.model
        return model if isinstance(model, str) else f"random weights ({model.family})"


def stage_folder(out: Path, stage_index: int, name: str) -> Path:
    return out / "stages" / f"{stage_index + 1}-{name}"


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    stop: Callable[[], bool] = lambda: False,
    dist_context: DistributedContext | None = None,
) -> Path:
    """Run every stage that is not done yet and return the folder of the final checkpoint.

    `stop` is called after each step; if it returns True, the state is saved and StopRequested
    raised. Under torchrun each process calls this function with the context it has joined, or None.

    Raises:
        ConfigError: a data group without a folder, an option that cannot work, or an OUT in use.
        ArtifactError: a model or dataset that cannot be used.
        TrainingError: too many non-finite losses, no usable sample, or another process that ended.
        StorageError: the disk refused a write; what was written before is intact.
    """
    joined = nullcontext(dist_context) if dist_context else init_distributed(config.device)
    with joined as context:
        check_distributed(config, context)
        check_trackers(_tracker_names(config))
        groups, summaries = context.run_on_main(lambda: _open_run(config, out, resume=resume))
        if not (out / "config.yaml").exists():
            raise ConfigError(
                f"process {context.rank} sees no {out}; --out must be on a disk that all nodes"
                " share."
            )
        if not context.run_on_main(lambda: _is_finished(out)):
            run = RunContext(config, out, groups, context, stop, progress)
            with _open_trackers(run, summaries) as trackers:
                _train_stages(replace(run, trackers=trackers), summaries)
    return out / "checkpoint"


def _tracker_names(config: TrainConfig) -> list[str]:
    return [*config.report_to, *(["tensorboard"] if config.tensorboard else [])]


@contextmanager
def _open_trackers(run: RunContext, summaries: Sequence[StageSummary]) -> Iterator[TrackerSet]:
    """The trackers of the first process; the others have none."""
    # A state that cannot be read stops all processes, not the first alone.
    resumed = run.dist_context.run_on_main(lambda: find_latest_state(run.out / "state"))
    if not run.dist_context.is_main:
        yield TrackerSet()
        return
    config, steps_done = run.config, sum(summary.steps for summary in summaries)
    if resumed is not None and resumed[1].stage == len(summaries):
        steps_done += resumed[1].step
    # No path, address or text of the data leaves the machine.
    settings = {"seed": config.seed, "precision": config.precision}
    for stage in config.stages:
        plain = configuration.to_plain(stage)
        if stage.grpo:
            del plain["grpo"]["sampler"]
        settings |= {f"{stage.name}.{key}": str(value) for key, value in plain.items()}
    tracked = TrackedRun(run.out, config.name, settings, steps_done)
    with open_trackers(_tracker_names(config), tracked) as trackers:
        yield trackers


def _is_finished(out: Path) -> bool:
    return (out / "checkpoint").is_dir() and (out / RUN_CARD).exists()


def _train_stages(run: RunContext, summaries: list[StageSummary]) -> None:
    """Train the stages after those of `summaries`."""
    config, out, dist_context = run.config, run.out, run.dist_context
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    trained: LoadedModel | None = None
    drop_examples: list[str] = []  # of each stage of this process
    for index in range(len(summaries), len(config.stages)):
        # No process has the full sharded model; the next stage starts from its checkpoint.
        is_carried = not dist_context.is_distributed and run.base_type(index) == "float32"
        if trained is not None and is_carried:
            trained.model.to(dist_context.device)
        else:
            trained = None
        start = trained or _load_start_model(run, index)
        steps_before = sum(summary.steps for summary in summaries)
        trained, summary, drops = StageRun(run, index, steps_before).train(start)
        summaries.append(summary)
        drop_examples += drops
        card = _build_run_card(run, summaries, drop_examples)
        dist_context.run_on_main(partial(_finish_stage, run, index, trained, summaries, card))
    card = _build_run_card(run, summaries, drop_examples)
    dist_context.run_on_main(lambda: write_run_card(out, card))
    dist_context.run_on_main(lambda: shutil.rmtree(out / "state", ignore_errors=True))


def _finish_stage(
    run: RunContext,
    stage_index: int,
    trained: LoadedModel | None,
    summaries: Sequence[StageSummary],
    card: RunCard,
) -> None:
    assert trained is not None  # the process that writes has the full model
    stages, folder = run.config.stages, run.out / "checkpoint"
    if stage_index < len(stages) - 1:
        # The next stage continues from every bit of these weights.
        folder = stage_folder(run.out, stage_index, stages[stage_index].name)
    else:
        trained.model.to(_export_dtype(run))
    export(trained.model, trained.processor, folder, card)
    write_json(run.out / SUMMARY_FILE, {"stages": [asdict(s) for s in summaries]})


def _export_dtype(run: RunContext) -> torch.dtype:
    """The type that the final checkpoint is stored in."""
    if run.config.export_dtype != "auto":
        return getattr(torch, run.config.export_dtype)
    start, _ = local_folder(run.start_folder(0), None, with_weights=True)
    return TORCH_DTYPES[stored_weights(start).dtype]


def _open_run(
    config: TrainConfig, out: Path, *, resume: bool
) -> tuple[dict[str, DataGroup], list[StageSummary]]:
    """Check the data and OUT; the summaries are those of the stages that are done."""
    folders: dict[str, Path] = {}
    users = [(f"stage {stage.name!r}", stage.data) for stage in config.stages]
    users.append(("validation", config.validation.groups))
    for user, names in users:
        for group in names:
            if (folder := config.data[group]) is None:
                raise ConfigError(
                    f"{user} needs data group {group!r}; give it with data.{group}=FOLDER."
                )
            folders[group] = Path(folder)
    groups = {name: open_data_group(folder) for name, folder in folders.items()}
    _prepare_folder(config, out, resume=resume)
    _check_same_data(groups, out)
    path = out / SUMMARY_FILE
    rows = read_json(path)["stages"] if path.exists() else []
    return groups, [StageSummary(**row) for row in rows]


def _prepare_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    path = out / "config.yaml"
    if not path.exists():
        if out.is_dir() and any(out.iterdir()):
            raise ConfigError(
                f"{out} is not empty and holds no training run; choose another --out."
            )
        configuration.write(config, path)
    elif not resume:
        raise ConfigError(
            f"{out} holds a training run already; pass --resume to continue it, remove it, or"
            " choose another --out."
        )
    # Read as a configuration, so that a field which a later version added has its default.
    elif configuration.from_plain(TrainConfig, configuration.read_plain(path)) != config:
        raise ConfigError(
            f"{out} holds a run of another configuration ({path}); resume it with that file,"
            " remove it, or choose another --out."
        )


def _check_same_data(groups: Mapping[str, DataGroup], out: Path) -> None:
    """Record which data the run learns from; a resumed run needs the same."""
    path, digests = out / DATA_FILE, {name: group.digest for name, group in groups.items()}
    if not path.exists():
        write_json(path, digests)
        return
    recorded = read_json(path)
    changed = next((name for name, digest in digests.items() if recorded.get(name) != digest), None)
    if changed is not None and not (out / RUN_CARD).exists():
        raise ConfigError(
            f"data group {changed!r} ({groups[changed].path}) is not what {out} has learned from so"
            " far; restore it, or choose another --out."
        )


def _load_start_model(run: RunContext, stage_index: int) -> LoadedModel:
    """The model that a stage starts from; without values in all processes but the first."""
    config, dist_context, name = run.config, run.dist_context, run.start_folder(stage_index)
    on_main: list[LoadedModel] = []

    def load_on_main() -> None:
        if not stage_index and isinstance(config.model, TinyModel) and not Path(name).is_dir():
            _build_start(run, config.model, Path(name))
        on_main.append(_load_base(run, stage_index))

    dist_context.run_on_main(load_on_main)
    if on_main:
        loaded = on_main[0]
    else:
        loaded = load_on_meta(name)
        loaded.model.to(BASE_DTYPES[run.base_type(stage_index)])
    for parameter in loaded.model.parameters():
        if parameter.ndim == 1:
            # Norms compute in float32; they are a thousandth of the weights.
            parameter.data = parameter.data.float()
    if not dist_context.is_distributed:
        loaded.model.to(dist_context.device)
    processor = loaded.processor.with_budget(config.pixels)
    return LoadedModel(loaded.model, processor, run.start_name, loaded.digest)


def _load_base(run: RunContext, stage_index: int) -> LoadedModel:
    name, base = run.start_folder(stage_index), run.base_type(stage_index)
    if base == "int4":
        device = str(run.dist_context.device)
        loaded = load(name, device=device, dtype=BASE_DTYPES[base], quantization="int4")
        allow_gradients(loaded.model)
        return loaded
    return load(name, dtype=BASE_DTYPES[base])


def _build_start(run: RunContext, spec: TinyModel, folder: Path) -> None:
    """Build a tiny model with a tokenizer trained on the text of all data groups in order."""
    config = run.config
    corpus = tokenizer_texts(read_groups([group.path for group in run.trained_groups.values()]))
    model, processor = build_tiny(spec, corpus, budget=config.pixels, seed=config.seed)
    notes = {"name": "untrained"}
    card = RunCard("train", configuration.to_plain(config), config.seed, notes=notes)
    export(model, processor, folder, card)


def _build_run_card(
    run: RunContext, summaries: Sequence[StageSummary], drop_examples: Sequence[str]
) -> RunCard:
    stages = [
        {
            "stage": s.name,
            "steps": s.steps,
            "samples": s.samples,
            "first loss": s.first_loss,
            "last loss": s.last_loss,
        }
        for s in summaries
    ]
    data = [
        {
            "group": name,
            "rows": card.rows,
            "images": card.images,
            "licenses": ", ".join(card.licenses),
        }
        for name, (_, card, _) in run.trained_groups.items()
    ]
    counts: Counter[str] = Counter()
    for summary in summaries:
        counts.update({f"dropped_{reason}": n for reason, n in summary.dropped.items()})
    if skipped := sum(s.skipped for s in summaries):
        counts["skipped_steps"] = skipped
    notes = {
        "name": run.config.name,
        "start": run.start_name,
        "stages": stages,
        "data": data,
        "first_drops": list(drop_examples),
    }
    hashes = {str(group.path): group.digest for group in run.groups.values()}
    plain = configuration.to_plain(run.config)
    return RunCard("train", plain, run.config.seed, dict(counts), hashes, notes)


class StageRun:
    """One stage of a run, with what a state restores besides weights and optimizer.

    `steps_before` counts the steps of the stages before it.
    """

    def __init__(self, run: RunContext, stage_index: int, steps_before: int = 0) -> None:
        self.run, self.stage_index, self.steps_before = run, stage_index, steps_before
        self.config, self.dist_context = run.config, run.dist_context
        self.stage = run.config.stages[stage_index]
        self.seed = run.config.seed * 1000 + stage_index
        self.position = TrainingPosition(stage_index)
        self.validator: Validator | None = None
        self.keeper: CheckpointKeeper | None = None

    def train(
        self, loaded: LoadedModel
    ) -> tuple[LoadedModel | None, StageSummary, tuple[str, ...]]:
        """Train the stage from its start or newest state to its end, the model in place.

        Returns the trained model (of a sharded run in the first process only), what was done, and
        examples of dropped samples.
        """
        config, stage, dist_context = self.config, self.stage, self.dist_context
        model, family = loaded.model, loaded.processor.family
        adapter = inject_adapters(model, family, stage.lora, seed=self.seed) if stage.lora else None
        for name in freeze_parameters(model, loaded.processor, stage):
            parameter = model.get_parameter(name)
            parameter.data = parameter.data.float()
        trainer = build_trainer(
            model,
            loaded.processor,
            stage,
            device=dist_context.device,
            bfloat16=self.run.bfloat16,
            dist_context=dist_context,
            sharding=config.sharding,
        )
        source = self._open_batches(loaded, trainer)
        # Each process has its own dropout.
        torch.manual_seed(self.seed + 1_000_003 * dist_context.rank)
        self._resume(trainer, start=loaded.digest)
        self._open_validation(trainer, loaded, adapter)
        open_main_log = open_log(
            self.run.out,
            log_bytes=self.position.log_bytes,
            trackers=self.run.trackers,
            steps_before=self.steps_before,
        )
        with (
            open_main_log if dist_context.is_main else nullcontext() as log,
            CheckpointWriter(self.run.out / "state", dist_context) as writer,
        ):
            values = self._take_steps(trainer, source, log, writer)
            writer.wait()
        if not self.position.first_losses:
            raise TrainingError(
                f"stage {stage.name!r}: none of its {source.total} steps had a finite loss and"
                " gradient; check the model it starts from, or lower its learning rates."
            )
        result = self.keeper.finish(source.total, values) if self.keeper else None
        summary = self._summarize(source, values, result)
        drops = source.data.drop_examples
        model = self._final_model(trainer, adapter, result)
        return (None if model is None else replace(loaded, model=model)), summary, drops

    def _final_model(self, trainer: Trainer, adapter: Any, result: Path | None) -> Any:
        """The model that the stage results in, adapters saved and merged, in the first process only:
        that of its last step, or of the checkpoint `result`.
        """
        dist_context, model = self.dist_context, trainer.model
        folder = self.run.out / "adapters" / f"{self.stage_index + 1}-{self.stage.name}"
        if result is not None:
            if not dist_context.is_main:
                return None
            if adapter is not None:
                with atomic_folder(folder) as temporary:
                    shutil.copytree(adapter_folder(result), temporary, dirs_exist_ok=True)
            model = load(str(result)).model
            return model if dist_context.is_distributed else model.to(dist_context.device)
        if dist_context.is_distributed:
            weights = full_state_dict(model)
            if not dist_context.is_main:
                return None
            model = unsharded_model(trainer, weights)
        model.eval()
        if adapter is not None:
            save_adapter(model, adapter, self.run.start_folder(self.stage_index), folder)
            model = self._merge(model, trainer.processor)
        return model

    def _merge(self, model: Any, processor: Processor) -> Any:
        """The model of a LoRA stage with its adapters merged: at the end of a run in the type that is
        exported, else in float32, from which the next stage continues.
        """
        run, lora, base = self.run, self.stage.lora, self.run.base_type(self.stage_index)
        assert lora is not None
        is_last = self.stage_index == len(run.config.stages) - 1
        dtype = _export_dtype(run) if is_last else torch.float32
        if base == "int4":
            quantized, model = model, load(run.start_folder(self.stage_index), dtype=dtype).model
            copy_trained(quantized, model, processor, lora)
        elif base == "bfloat16" and not is_last:
            # A card that holds 16 bits of each weight may not hold 32.
            model = model.to("cpu", torch.float32)
        merge_adapters(model, dtype)
        return model

    def _open_validation(self, trainer: Trainer, loaded: LoadedModel, adapter: Any) -> None:
        """Open what measures the stage while it trains, and what keeps its checkpoints."""
        config, run, stage = self.config, self.run, self.stage
        if config.validation.groups:
            self.validator = open_validator(
                config.validation,
                {name: run.groups[name].path for name in config.validation.groups},
                trainer,
                loaded,
                trained=tuple(run.trained_groups),
                seed=config.seed,
            )
        if config.checkpoints.every is None:
            return

        def write(folder: Path, step: int) -> None:
            notes = {
                "name": f"{config.name}, stage {stage.name}, step {step}",
                "start": run.start_name,
            }
            card = RunCard("train", configuration.to_plain(config), config.seed, notes=notes)
            base = run.start_folder(self.stage_index)
            write_checkpoint(
                trainer,
                folder,
                card,
                adapter=adapter,
                base=base,
                merge=lambda model: self._merge(model, trainer.processor),
            )

        folder = run.out / "checkpoints" / f"{self.stage_index + 1}-{stage.name}"
        self.keeper = CheckpointKeeper(config.checkpoints, folder, self.position, trainer, write)

    def _summarize(
        self, source: BatchSource, values: Mapping[str, float], result: Path | None
    ) -> StageSummary:
        data, position, validator = source.data, self.position, self.validator
        return StageSummary(
            name=self.stage.name,
            steps=source.total,
            seconds=round(position.seconds, 2),
            first_loss=_mean(position.first_losses),
            last_loss=_mean(position.recent_losses),
            samples=len(data),
            tokens=data.n_tokens,
            skipped=position.skipped,
            dropped=dict(data.drops),
            entities=data.entities.as_json() if data.entities else None,
            tracker_failures=dict(self.run.trackers.failures),
            validation={"groups": validator.counts, "last": values} if validator else None,
            kept=position.kept,
            result_step=checkpoint_step(result) if result else None,
        )

    def _open_batches(self, loaded: LoadedModel, trainer: Trainer) -> BatchSource:
        stage, cache_mb = self.stage, self.config.cache_mb
        folders = [self.run.groups[group].path for group in stage.data]
        if stage.grpo:
            return grpo_batches(
                folders, loaded, trainer, out=self.run.out, seed=self.seed, cache_mb=cache_mb
            )
        data = encode_training_samples(
            read_groups(folders),
            loaded.processor,
            max_tokens=stage.max_tokens,
            cache_mb=cache_mb,
            objective=stage.objective,
            seed=self.seed,
        )
        return supervised_batches(
            data,
            stage,
            self.seed,
            shard_batch=lambda batch: self.dist_context.shard_batch(batch, stage.micro_batch),
        )

    def _resume(self, trainer: Trainer, *, start: str) -> None:
        out = self.run.out
        resumed = self.dist_context.run_on_main(lambda: self._find_state(start))
        if resumed is not None:
            folder, self.position = resumed
            load_state(folder, trainer.model, trainer.optimizer, self.dist_context)
            return
        # Later stages start from folders that this run wrote.
        self.position.start = "" if self.stage_index else start
        # A stage that starts from scratch keeps the log up to the end of the stage before it.
        finished = {stage.name for stage in self.config.stages[: self.stage_index]}
        self.position.log_bytes = self.dist_context.run_on_main(
            lambda: _finished_log_bytes(out / LOG_FILE, finished)
        )

    def _find_state(self, start: str) -> tuple[Path, TrainingPosition] | None:
        found = find_latest_state(self.run.out / "state")
        if found is None or found[1].stage != self.stage_index:
            return None
        if found[1].start not in ("", start):
            raise ConfigError(
                f"{self.run.start_name} is not the checkpoint that {self.run.out} started from, and"
                " its frozen weights are part of the run; restore it, or choose another --out."
            )
        return found

    def _take_steps(
        self,
        trainer: Trainer,
        source: BatchSource,
        log: TrainingLog | None,
        writer: CheckpointWriter,
    ) -> dict[str, float]:
        """Take the remaining steps; what was measured after the last one."""
        position, total = self.position, source.total
        clock, tokens, waited = time.monotonic(), 0, 0.0
        started = clock - position.seconds
        batches, values = source(position.step), dict[str, float]()
        save_due = False  # a state is due, and waits for a resumable step
        unread: list[tuple[int, StepResult]] = []  # reading one waits for the GPU
        for done in range(position.step + 1, total + 1):
            wait_started = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - wait_started
            result = trainer.step(batch, done - 1, total)
            position.step = done
            unread.append((done, result))
            tokens += sum(len(sample) for sequence in batch for sample in sequence)
            values = {}
            is_measured = self.validator is not None and self.validator.is_due(done, total)
            if is_measured or done % self.config.log_every == 0 or done == total:
                self._record_losses(unread)
                elapsed = max(1e-9, time.monotonic() - clock)
                tokens_per_s = self.dist_context.all_reduce_sum([tokens])[0] / elapsed
                metrics = {
                    "gradient_norm": result.norm,
                    "skipped": position.skipped,
                    "learning_rate": max(g["lr"] for g in trainer.optimizer.param_groups),
                    "tokens_per_s": round(tokens_per_s, 1),
                    "data_wait": round(waited / elapsed, 4),
                }
                metrics |= {**result.metrics, **source.metrics}
                if self.validator and is_measured:
                    values = self.validator.measure()
                dropped = sum(source.data.drops.values())
                self.log_step(log, total, metrics, dropped=dropped, validation=values)
                clock, tokens, waited = time.monotonic(), 0, 0.0
            if self.keeper and self.keeper.is_due(done, total):
                self._record_losses(unread)
                self.keeper.take(done, values)
            # One process that is asked to stop, or whose disk is full, stops all of them after the
            # same step.
            stop_requested, failed = self.dist_context.all_reduce_sum(
                [self.run.stop() or self.dist_context.is_orphaned(), writer.failed]
            )
            if failed:
                writer.wait()
            save_due = save_due or stop_requested > 0 or done % self.config.save_every == 0
            if done < total and save_due and source.is_resumable_at(done):
                self._record_losses(unread)
                position.log_bytes = log.size if log else 0  # the first process writes the position
                position.seconds = time.monotonic() - started
                writer.save(position, trainer.model, trainer.optimizer)
                if self.keeper:
                    self.keeper.state_saved()
                save_due = False
                if stop_requested:
                    writer.wait()
                    raise StopRequested(f"stage {self.stage.name!r}, step {done} of {total}")
        position.seconds = time.monotonic() - started
        return values

    def _record_losses(self, results: list[tuple[int, StepResult]]) -> None:
        """Record the losses of steps, and forget these; a non-finite one was skipped by the trainer
        and is counted.
        """
        position = self.position
        for step, (loss, norm) in [(step, (r.loss, r.norm)) for step, r in results]:
            if math.isfinite(loss) and math.isfinite(norm):
                position.first_losses = [*position.first_losses, loss][:LOSS_WINDOW]
                position.recent_losses = [*position.recent_losses, loss][-LOSS_WINDOW:]
                position.pending_losses.append(loss)
                continue
            position.skipped += 1
            if position.skipped > self.config.max_skipped_steps:
                raise TrainingError(
                    f"stage {self.stage.name!r}, step {step}: the loss is {loss}, its gradient"
                    f" norm {norm}, and {position.skipped} such steps were skipped; lower the"
                    " stage's learning rates or check the data."
                )
        results.clear()

    def log_step(
        self,
        log: TrainingLog | None,
        total: int,
        metrics: Mapping[str, float],
        *,
        dropped: int = 0,
        validation: Mapping[str, float] | None = None,
    ) -> None:
        """Add a row with the mean loss since the last one; only the first process has a log."""
        name, step, loss = self.stage.name, self.position.step, _mean(self.position.pending_losses)
        self.position.pending_losses = []
        if log is None:
            return
        # A skipped step may have values that JSON cannot hold.
        finite = {
            key: value if math.isfinite(value) else None
            for key, value in {"loss": loss, **metrics}.items()
        }
        measured = {f"{VALIDATION}/{key}": value for key, value in (validation or {}).items()}
        log.add({"stage": name, "step": step, "total": total, **finite, **measured}, step)
        if self.run.progress is not None:
            speed, waited = metrics["tokens_per_s"], metrics["data_wait"]
            skipped = self.position.skipped
            self.run.progress(
                StepProgress(
                    name, step, total, loss, speed, waited, dropped, skipped, validation or {}
                )
            )


def _mean(losses: Sequence[float]) -> float:
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
