"""What a killed run resumes from: weights, optimiser moments, position and random state, in safetensors and JSON.

Nothing is pickled. A state is a folder of its own that appears by one rename; the older one goes only after that.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lingshu.core.errors import ArtefactError
from lingshu.core.files import atomic_folder, check_manifest, read_json, write_json, write_manifest

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Position:
    """Where a run stands: stage by its position in the chain, optimiser steps done in it, log bytes written by then.

    `first` and `recent` are the losses of the first and the last steps, `pending` those since the last row of the log,
    and `skipped` counts the steps that gave no number.
    """

    stage: int
    step: int
    log_bytes: int
    seconds: float
    first: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    pending: tuple[float, ...] = ()
    skipped: int = 0


def save_state(folder: Path, position: Position, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after a step; older states are removed once it stands.

    Raises:
        StorageError: the disk refused the write; the older state is untouched.
    """
    name = f"{position.stage:02d}-{position.step:08d}"
    with atomic_folder(folder / name) as temporary:
        save_file({k: v.contiguous() for k, v in _unique(model).items()}, temporary / "model.safetensors")
        save_file(_moments(model, optimizer), temporary / "optimizer.safetensors")
        random: dict[str, torch.Tensor] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        save_file(random, temporary / "random.safetensors")
        write_json(temporary / "position.json", asdict(position))
        write_manifest(temporary)
    for older in [*states(folder), *folder.glob(".*.tmp")]:
        if older.name != name:
            shutil.rmtree(older)


def states(folder: Path) -> list[Path]:
    """Complete states, oldest first; half-written ones keep a hidden name and are not among them."""
    return sorted(path for path in folder.glob("[0-9]*-[0-9]*") if path.is_dir()) if folder.is_dir() else []


def latest(folder: Path) -> tuple[Path, Position] | None:
    """The newest state, checked against its manifest.

    Raises:
        ArtefactError: it is damaged.
    """
    found = states(folder)
    if not found:
        return None
    check_manifest(found[-1])
    return found[-1], Position(**read_json(found[-1] / "position.json"))


def load_state(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Put a state's weights, moments and random state back, bit for bit.

    Raises:
        ArtefactError: the state is of another model.
    """
    try:
        weights = load_file(path / "model.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        random = load_file(path / "random.safetensors")
        result = model.load_state_dict(weights, strict=False)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ArtefactError(f"{path} is of another model or damaged; train anew without --resume.") from error
    # Tied weights are stored once; anything else that is missing would be trained from noise.
    if result.unexpected_keys or set(result.missing_keys) - _tied(model):
        raise ArtefactError(f"{path} is of another model; train anew without --resume.")
    for name, parameter in _trained(model, optimizer).items():
        if f"{name}|step" in moments:  # a part that no sample has reached yet has no moments
            optimizer.state[parameter] = {key: moments[f"{name}|{key}"].to("cpu" if key == "step" else parameter.device) for key in MOMENTS}
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])


def _unique(model: Any) -> dict[str, torch.Tensor]:
    seen: dict[int, str] = {}
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if seen.setdefault(tensor.data_ptr(), name) == name or not tensor.numel()
    }


def _tied(model: Any) -> set[str]:
    return set(model.state_dict()) - set(_unique(model))


def _trained(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.nn.Parameter]:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if id(p) in trained}


def _moments(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}|{key}": optimizer.state[parameter][key].contiguous()
        for name, parameter in _trained(model, optimizer).items()
        for key in MOMENTS
        if parameter in optimizer.state
    }
