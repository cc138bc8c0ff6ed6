"""The one supervised loop: a chain of stages, each resumable to the last bit, each ending in a
checkpoint others can load.

OUT/config.yaml             the resolved configuration; can be run again
OUT/data.json               the digest of each data group, so that a resumed run learns from the same
OUT/start/                  the model before the first stage, where it was built here
OUT/stages/<n>-<name>/      the checkpoint after each stage but the last
OUT/adapters/<n>-<name>/    the adapter of each LoRA stage, for peft; the checkpoint after that stage has it merged in
OUT/checkpoint/             the checkpoint after the last stage
OUT/log.jsonl, tensorboard/ the learning log
OUT/state/<n>-<step>/       what a killed run resumes from; removed at the end (files: train/checkpoint_storage.py)
OUT/summary.json            stages with steps, seconds, first and last loss, tokens, drops

Under torchrun every process runs this same loop; the first one alone writes, but for its share of
each state.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from lingshu.core import config as configuration
from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json, write_json
from lingshu.core.run_card import RUN_CARD, RunCard, write_run_card
from lingshu.core.types import Sample
from lingshu.models.export import export
from lingshu.models.load import LoadedModel, load, load_on_meta
from lingshu.models.model_spec import TinyModel
from lingshu.models.processor import Processor
from lingshu.models.tiny import build_tiny
from lingshu.train.config import TrainConfig
from lingshu.train.data import DataGroup, open_data_group, read_groups
from lingshu.train.distributed import DistributedContext, init_distributed
from lingshu.train.length_stats import tokenizer_texts
from lingshu.train.log import SUMMARY_FILE, ProgressCallback
from lingshu.train.trainer import StageRun, StageSummary

DATA_FILE = "data.json"


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

    `stop` is asked after each step; once it says yes the state is saved and Stopped is raised.
    Under torchrun each process calls this; `world` is the one it has joined, None to join it here.

    Raises:
        ConfigError: a data group without a folder, an option that cannot work, or an OUT in use.
        ArtefactError: a model or dataset that cannot be used.
        TrainingError: too many losses that are no number, no usable sample, or another process that
            ended.
        Stopped: see above.
        StorageError: the disk refused a write; what was written before stays whole.
    """
    with (
        init_distributed(config.device)
        if dist_context is None
        else nullcontext(dist_context) as joined_context
    ):
        return _train(config, out, joined_context, resume=resume, progress=progress, stop=stop)


def _train(
    config: TrainConfig,
    out: Path,
    dist_context: DistributedContext,
    *,
    resume: bool,
    progress: ProgressCallback | None,
    stop: Callable[[], bool],
) -> Path:
    check_distributed(config, dist_context)
    final = out / "checkpoint"
    groups, summaries = dist_context.run_on_main(lambda: _open_run(config, out, resume=resume))
    if not (out / "config.yaml").exists():
        raise ConfigError(
            f"process {dist_context.rank} sees no {out}; --out must lie on a disk that all nodes share."
        )
    if dist_context.run_on_main(lambda: final.is_dir() and (out / RUN_CARD).exists()):
        return final
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    paths = {name: group.path for name, group in groups.items()}
    bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and dist_context.device.type == "cuda"
    )
    loaded: LoadedModel | None = None
    # the first drops of each stage, so that the card of the run names them too
    drop_examples: list[str] = []
    for stage_index in range(len(summaries), len(config.stages)):
        # A sharded model is not whole in any process; the stage after it starts from its
        # checkpoint.
        start_model = (
            loaded
            if loaded is not None and not dist_context.is_distributed
            else _load_start_model(config, out, stage_index, paths, dist_context)
        )
        summary, drops, loaded = StageRun(
            config, stage_index, paths, out, stop=stop, dist_context=dist_context
        ).run(
            start_model, progress, bfloat16=bfloat16, base=_start_folder(config, out, stage_index)
        )
        summaries.append(summary)
        drop_examples += drops
        last = stage_index == len(config.stages) - 1
        folder = final if last else stage_folder(out, stage_index, config.stages[stage_index].name)
        dist_context.run_on_main(
            partial(
                _finish_stage,
                loaded,
                folder,
                out,
                summaries,
                _build_run_card(config, summaries, groups, drop_examples),
            )
        )
    dist_context.run_on_main(
        lambda: _finish_run(out, _build_run_card(config, summaries, groups, drop_examples))
    )
    return final


def _finish_stage(
    loaded: LoadedModel | None,
    folder: Path,
    out: Path,
    summaries: Sequence[StageSummary],
    card: RunCard,
) -> None:
    assert loaded is not None  # the process that writes has the whole model
    export(loaded.model, loaded.processor, folder, card)
    write_json(out / SUMMARY_FILE, {"stages": [asdict(s) for s in summaries]})


def _finish_run(out: Path, card: RunCard) -> None:
    write_run_card(out, card)
    shutil.rmtree(out / "state", ignore_errors=True)


def check_distributed(config: TrainConfig, dist_context: DistributedContext) -> None:
    """Refuse what this number of processes cannot run.

    Raises:
        ConfigError: a batch that cannot be shared out evenly, or an option that asks for torchrun
            and GPUs.
    """
    if config.sharding.cpu_offload and not (
        dist_context.is_distributed and dist_context.device.type == "cuda"
    ):
        raise ConfigError(
            "sharding.cpu_offload needs GPUs under torchrun; set sharding.cpu_offload=false."
        )
    for stage in config.stages if dist_context.is_distributed else ():
        # What varies in a round is shared out as it comes.
        if not stage.grpo and stage.batch % (dist_context.size * stage.micro_batch):
            raise ConfigError(
                f"stage {stage.name!r}: batch {stage.batch} cannot be shared out to {dist_context.size}"
                f" processes in micro-batches of {stage.micro_batch}; choose a multiple of"
                f" {dist_context.size * stage.micro_batch}, or another number of processes."
            )


def _open_run(
    config: TrainConfig, out: Path, *, resume: bool
) -> tuple[dict[str, DataGroup], list[StageSummary]]:
    groups = check_data(config)
    prepare_folder(config, out, resume=resume)
    _check_same_data(groups, out)
    return groups, _read_summaries(out)


def _check_same_data(groups: Mapping[str, DataGroup], out: Path) -> None:
    """Note which data the run learns from; one that goes on has to find the same.

    Raises:
        ConfigError: a data group has changed since.
    """
    path, digests = out / DATA_FILE, {name: group.digest for name, group in groups.items()}
    if not path.exists():
        write_json(path, digests)
        return
    recorded = read_json(path)
    changed = next((name for name, digest in digests.items() if recorded.get(name) != digest), None)
    if changed is not None and not (out / RUN_CARD).exists():
        label = f"data group {changed!r} ({groups[changed].path})"
        raise ConfigError(
            f"{label} is not what {out} has learnt from so far; put it back, or choose another"
            " --out."
        )


def stage_folder(out: Path, stage_index: int, name: str) -> Path:
    return out / "stages" / f"{stage_index + 1}-{name}"


def check_data(config: TrainConfig) -> dict[str, DataGroup]:
    """Every data group that a stage uses, each checked to be whole.

    Raises:
        ConfigError: a group without a folder.
        ArtefactError, InputError: a folder that is no dataset or is damaged.
    """
    folders: dict[str, Path] = {}
    for stage in config.stages:
        for group in stage.data:
            folder = config.data[group]
            if folder is None:
                raise ConfigError(
                    f"stage {stage.name!r} needs data group {group!r}; give it with"
                    f" data.{group}=FOLDER."
                )
            folders[group] = Path(folder)
    return {name: open_data_group(folder) for name, folder in folders.items()}


def prepare_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Refuse an OUT that holds another run, and write the configuration that this one can be run
    again with.

    Raises:
        ConfigError: OUT holds a run and `resume` is off, or it holds one of another configuration.
    """
    path = out / "config.yaml"
    if path.exists():
        if not resume:
            raise ConfigError(
                f"{out} holds a training run already; pass --resume to go on with it, remove it, or"
                " choose another --out."
            )
        # Read as a configuration, so that a field which a later version added counts with its
        # default.
        if configuration.from_plain(TrainConfig, configuration.read_plain(path)) != config:
            raise ConfigError(
                f"{out} holds a run of another configuration ({path}); resume it with that file,"
                " remove it, or choose another --out."
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no training run; choose another --out.")
    configuration.write(config, path)


def _read_summaries(out: Path) -> list[StageSummary]:
    path = out / SUMMARY_FILE
    return [StageSummary(**row) for row in read_json(path)["stages"]] if path.exists() else []


def _load_start_model(
    config: TrainConfig,
    out: Path,
    n_done: int,
    groups: Mapping[str, Path],
    dist_context: DistributedContext,
) -> LoadedModel:
    """The model to go on with: the last finished stage's, else the configured one; without values
    but in the first process.
    """
    name = _start_folder(config, out, n_done)
    on_main: list[LoadedModel] = []

    def load_on_main() -> None:
        if not n_done and isinstance(config.model, TinyModel) and not Path(name).is_dir():
            _build_start(config, config.model, Path(name), groups)
        on_main.append(load(name))

    dist_context.run_on_main(load_on_main)
    loaded = on_main[0] if on_main else load_on_meta(name)
    if not dist_context.is_distributed:
        loaded.model.to(dist_context.device)
    previous = loaded.processor
    image_processor = previous.family.with_budget(previous.image_processor, config.pixels)
    processor = Processor(previous.family, previous.tokenizer, image_processor, config.pixels)
    return LoadedModel(loaded.model, processor, _start_name(config), loaded.digest)


def _start_folder(config: TrainConfig, out: Path, n_done: int) -> str:
    """Where the model lies that the stage after `done` others starts from: a folder, or a hub id."""
    if n_done:
        return str(stage_folder(out, n_done - 1, config.stages[n_done - 1].name))
    return str(out / "start") if isinstance(config.model, TinyModel) else config.model


def _start_name(config: TrainConfig) -> str:
    return (
        config.model if isinstance(config.model, str) else f"random weights ({config.model.family})"
    )


def _build_start(
    config: TrainConfig, spec: TinyModel, folder: Path, groups: Mapping[str, Path]
) -> None:
    """Build a tiny model, only once in a run, with a tokenizer trained on the text of all data
    groups in order.
    """
    items = read_groups(list(groups.values()))
    corpus = [
        text
        for item in items
        if isinstance(item, Sample)
        for text in tokenizer_texts(item.messages)
    ]
    model, processor = build_tiny(spec, corpus, budget=config.pixels, seed=config.seed)
    export(
        model,
        processor,
        folder,
        RunCard("train", configuration.to_plain(config), config.seed, notes={"name": "untrained"}),
    )


def _build_run_card(
    config: TrainConfig,
    summaries: list[StageSummary],
    groups: Mapping[str, DataGroup],
    drops: Sequence[str],
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
    data = []
    for name, (_, card, _) in groups.items():
        data.append(
            {
                "group": name,
                "rows": card.rows,
                "images": card.images,
                "licenses": ", ".join(card.licenses),
            }
        )
    counts = {f"dropped_{reason}": 0 for s in summaries for reason in s.dropped}
    for s in summaries:
        for reason, n_dropped in s.dropped.items():
            counts[f"dropped_{reason}"] += n_dropped
    if skipped := sum(s.skipped for s in summaries):
        counts["skipped_steps"] = skipped
    hashes = {str(group.path): group.digest for group in groups.values()}
    notes = {
        "name": config.name,
        "start": _start_name(config),
        "stages": stages,
        "data": data,
        "first_drops": list(drops),
    }
    return RunCard("train", configuration.to_plain(config), config.seed, counts, hashes, notes)
