"""The one supervised loop: a chain of stages, each resumable to the last bit, each ending in a
checkpoint others can load.

OUT/config.yaml             the resolved configuration; can be run again
OUT/data.json               the digest of each data group, so that a resumed run learns from the same
OUT/start/                  the model before the first stage, where it was built here
OUT/stages/<n>-<name>/      the checkpoint after each stage but the last
OUT/adapters/<n>-<name>/    the adapter of each LoRA stage, for peft; the checkpoint after that stage has it merged in
OUT/checkpoint/             the checkpoint after the last stage
OUT/log.jsonl, tensorboard/ the learning log
OUT/state/<n>-<step>/       what a killed run resumes from; removed at the end (files: train/storage.py)
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
from lingshu.core.nouns import Sample
from lingshu.core.runcard import RUN_CARD, RunCard, write_run_card
from lingshu.models.export import export
from lingshu.models.load import Loaded, load, load_hollow
from lingshu.models.processor import Processor
from lingshu.models.spec import TinyModel
from lingshu.models.tiny import build_tiny
from lingshu.train.config import TrainConfig
from lingshu.train.data import Group, open_group, read_groups
from lingshu.train.lengths import words_of
from lingshu.train.log import SUMMARY, Progress
from lingshu.train.stage import StageRun, StageSummary
from lingshu.train.world import World, open_world

DATA = "data.json"


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: World | None = None,
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
    with open_world(config.device) if world is None else nullcontext(world) as joined:
        return _train(config, out, joined, resume=resume, progress=progress, stop=stop)


def _train(
    config: TrainConfig,
    out: Path,
    world: World,
    *,
    resume: bool,
    progress: Progress | None,
    stop: Callable[[], bool],
) -> Path:
    check_world(config, world)
    final = out / "checkpoint"
    groups, summaries = world.lead(lambda: _open_run(config, out, resume=resume))
    if not (out / "config.yaml").exists():
        raise ConfigError(
            f"process {world.rank} sees no {out}; --out must lie on a disk that all nodes share."
        )
    if world.lead(lambda: final.is_dir() and (out / RUN_CARD).exists()):
        return final
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    paths = {name: group.path for name, group in groups.items()}
    bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and world.device.type == "cuda"
    )
    loaded: Loaded | None = None
    # the first drops of each stage, so that the card of the run names them too
    named: list[str] = []
    for number in range(len(summaries), len(config.stages)):
        # A sharded model is not whole in any process; the stage after it starts from its
        # checkpoint.
        begun = (
            loaded
            if loaded is not None and not world.sharded
            else _starting_point(config, out, number, paths, world)
        )
        summary, drops, loaded = StageRun(config, number, paths, out, stop=stop, world=world).run(
            begun, progress, bfloat16=bfloat16, base=_start_folder(config, out, number)
        )
        summaries.append(summary)
        named += drops
        last = number == len(config.stages) - 1
        folder = final if last else stage_folder(out, number, config.stages[number].name)
        world.lead(
            partial(
                _finish_stage,
                loaded,
                folder,
                out,
                summaries,
                _card(config, summaries, groups, named),
            )
        )
    world.lead(lambda: _finish_run(out, _card(config, summaries, groups, named)))
    return final


def _finish_stage(
    loaded: Loaded | None, folder: Path, out: Path, summaries: Sequence[StageSummary], card: RunCard
) -> None:
    assert loaded is not None  # the process that writes has the whole model
    export(loaded.model, loaded.processor, folder, card)
    write_json(out / SUMMARY, {"stages": [asdict(s) for s in summaries]})


def _finish_run(out: Path, card: RunCard) -> None:
    write_run_card(out, card)
    shutil.rmtree(out / "state", ignore_errors=True)


def check_world(config: TrainConfig, world: World) -> None:
    """Refuse what this number of processes cannot run.

    Raises:
        ConfigError: a batch that cannot be shared out evenly, or an option that asks for torchrun
            and GPUs.
    """
    if config.sharding.cpu_offload and not (world.sharded and world.device.type == "cuda"):
        raise ConfigError(
            "sharding.cpu_offload needs GPUs under torchrun; set sharding.cpu_offload=false."
        )
    for stage in config.stages if world.sharded else ():
        # What varies in a round is shared out as it comes.
        if not stage.grpo and stage.batch % (world.size * stage.micro_batch):
            raise ConfigError(
                f"stage {stage.name!r}: batch {stage.batch} cannot be shared out to {world.size}"
                f" processes in micro-batches of {stage.micro_batch}; choose a multiple of"
                f" {world.size * stage.micro_batch}, or another number of processes."
            )


def _open_run(
    config: TrainConfig, out: Path, *, resume: bool
) -> tuple[dict[str, Group], list[StageSummary]]:
    groups = check_data(config)
    prepare_folder(config, out, resume=resume)
    _same_data(groups, out)
    return groups, _summaries(out)


def _same_data(groups: Mapping[str, Group], out: Path) -> None:
    """Note which data the run learns from; one that goes on has to find the same.

    Raises:
        ConfigError: a data group has changed since.
    """
    path, found = out / DATA, {name: group.digest for name, group in groups.items()}
    if not path.exists():
        write_json(path, found)
        return
    known = read_json(path)
    changed = next((name for name, digest in found.items() if known.get(name) != digest), None)
    if changed is not None and not (out / RUN_CARD).exists():
        where = f"data group {changed!r} ({groups[changed].path})"
        raise ConfigError(
            f"{where} is not what {out} has learnt from so far; put it back, or choose another"
            " --out."
        )


def stage_folder(out: Path, number: int, name: str) -> Path:
    return out / "stages" / f"{number + 1}-{name}"


def check_data(config: TrainConfig) -> dict[str, Group]:
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
    return {name: open_group(folder) for name, folder in folders.items()}


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


def _summaries(out: Path) -> list[StageSummary]:
    path = out / SUMMARY
    return [StageSummary(**row) for row in read_json(path)["stages"]] if path.exists() else []


def _starting_point(
    config: TrainConfig, out: Path, done: int, groups: Mapping[str, Path], world: World
) -> Loaded:
    """The model to go on with: the last finished stage's, else the configured one; without values
    but in the first process.
    """
    name = _start_folder(config, out, done)
    found: list[Loaded] = []

    def first() -> None:
        if not done and isinstance(config.model, TinyModel) and not Path(name).is_dir():
            _build_start(config, config.model, Path(name), groups)
        found.append(load(name))

    world.lead(first)
    loaded = found[0] if found else load_hollow(name)
    if not world.sharded:
        loaded.model.to(world.device)
    old = loaded.processor
    image_processor = old.family.with_budget(old.image_processor, config.pixels)
    processor = Processor(old.family, old.tokenizer, image_processor, config.pixels)
    return Loaded(loaded.model, processor, _start_name(config), loaded.digest)


def _start_folder(config: TrainConfig, out: Path, done: int) -> str:
    """Where the model lies that the stage after `done` others starts from: a folder, or a hub id."""
    if done:
        return str(stage_folder(out, done - 1, config.stages[done - 1].name))
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
        text for item in items if isinstance(item, Sample) for text in words_of(item.messages)
    ]
    model, processor = build_tiny(spec, corpus, budget=config.pixels, seed=config.seed)
    export(
        model,
        processor,
        folder,
        RunCard("train", configuration.to_plain(config), config.seed, notes={"name": "untrained"}),
    )


def _card(
    config: TrainConfig,
    summaries: list[StageSummary],
    groups: Mapping[str, Group],
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
                "licences": ", ".join(card.licences),
            }
        )
    counts = {f"dropped_{reason}": 0 for s in summaries for reason in s.dropped}
    for s in summaries:
        for reason, number in s.dropped.items():
            counts[f"dropped_{reason}"] += number
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
