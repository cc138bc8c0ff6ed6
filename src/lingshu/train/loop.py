"""The one supervised loop: a chain of stages, each resumable to the last bit, each ending in a checkpoint others can load.

OUT/config.yaml             the resolved configuration; can be run again
OUT/start/                  the model before the first stage, where it was built here
OUT/stages/<n>-<name>/      the checkpoint after each stage but the last
OUT/adapters/<n>-<name>/    the adapter of each LoRA stage, for peft; the checkpoint after that stage has it merged in
OUT/checkpoint/             the checkpoint after the last stage
OUT/log.jsonl, tensorboard/ the learning log
OUT/state/                  what a killed run resumes from; removed at the end
OUT/summary.json            stages with steps, seconds, first and last loss, tokens, drops
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from lingshu.core import config as configuration
from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json, write_json
from lingshu.core.nouns import Message, Sample
from lingshu.core.runcard import RUN_CARD, RunCard, write_run_card
from lingshu.models.export import export
from lingshu.models.load import Loaded, load
from lingshu.models.processor import Processor
from lingshu.models.spec import TinyModel
from lingshu.models.tiny import build_tiny
from lingshu.train.config import TrainConfig
from lingshu.train.data import Group, open_group, read_groups
from lingshu.train.log import SUMMARY, Progress
from lingshu.train.stage import StageRun, StageSummary


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Run every stage that is not done yet and return the folder of the final checkpoint.

    `stop` is asked after each step; once it says yes the state is saved and Stopped is raised.

    Raises:
        ConfigError: a data group without a folder, an option that cannot work, or an OUT in use.
        ArtefactError: a model or dataset that cannot be used.
        TrainingError: too many losses that are no number, or no usable sample.
        Stopped: see above.
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
    paths = {name: group.path for name, group in groups.items()}
    loaded = _starting_point(config, out, len(summaries), paths)
    device, bfloat16 = _device(config)
    loaded.model.to(device)
    named: list[str] = []  # the first drops of each stage, so that the card of the run names them too
    for number in range(len(summaries), len(config.stages)):
        run = StageRun(config, number, paths, out, stop=stop)
        summary, drops = run.run(loaded, progress, device=device, bfloat16=bfloat16)
        summaries.append(summary)
        named += drops
        last = number == len(config.stages) - 1
        folder = final if last else stage_folder(out, number, config.stages[number].name)
        export(loaded.model, loaded.processor, folder, _card(config, summaries, groups, loaded.name, named))
        write_json(out / SUMMARY, {"stages": [asdict(s) for s in summaries]})
    write_run_card(out, _card(config, summaries, groups, loaded.name, named))
    shutil.rmtree(out / "state", ignore_errors=True)
    return final


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
                raise ConfigError(f"stage {stage.name!r} needs data group {group!r}; give it with data.{group}=FOLDER.")
            folders[group] = Path(folder)
    return {name: open_group(folder) for name, folder in folders.items()}


def prepare_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Refuse an OUT that holds another run, and write the configuration that this one can be run again with.

    Raises:
        ConfigError: OUT holds a run and `resume` is off, or it holds one of another configuration.
    """
    path = out / "config.yaml"
    if path.exists():
        if not resume:
            raise ConfigError(f"{out} holds a training run already; pass --resume to go on with it, or another --out.")
        # Read as a configuration, so that a field which a later version added counts with its default.
        if configuration.from_plain(TrainConfig, configuration.read_plain(path)) != config:
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


def _card(config: TrainConfig, summaries: list[StageSummary], groups: Mapping[str, Group], start: str, drops: Sequence[str]) -> RunCard:
    stages = [
        {"stage": s.name, "steps": s.steps, "samples": s.samples, "first loss": s.first_loss, "last loss": s.last_loss} for s in summaries
    ]
    data = []
    for name, (_, card, _) in groups.items():
        data.append({"group": name, "rows": card.rows, "images": card.images, "licences": ", ".join(card.licences)})
    counts = {f"dropped_{reason}": 0 for s in summaries for reason in s.dropped}
    for s in summaries:
        for reason, number in s.dropped.items():
            counts[f"dropped_{reason}"] += number
    if skipped := sum(s.skipped for s in summaries):
        counts["skipped_steps"] = skipped
    hashes = {str(group.path): group.digest for group in groups.values()}
    notes = {"name": config.name, "start": start, "stages": stages, "data": data, "first_drops": list(drops)}
    return RunCard("train", configuration.to_plain(config), config.seed, counts, hashes, notes)
