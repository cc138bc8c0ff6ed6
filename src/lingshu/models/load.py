"""Open a checkpoint: check the folder, refuse custom code, build the family's stock class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lingshu.core.artifacts import check_checkpoint
from lingshu.core.errors import ArtifactError, one_line
from lingshu.core.files import digest, read_json
from lingshu.models.base import VisionLanguageFamily, family_of
from lingshu.models.processor import Processor, load_processor
from lingshu.weights.safetensors_io import read_headers

HUB_ID_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' progress bars out of a program that shows its own."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its processor; `digest` identifies its weights and files.

    `settings` are what it answers with, for a run card; `notes` say what a user should know of how
    it was opened.
    """

    model: Any
    processor: Processor
    name: str
    digest: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def refuse_custom_code(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        ArtifactError: it would run its own code.
    """
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise ArtifactError(
            f"{folder} asks to run its own code (auto_map in config.json); only stock model classes"
            " are loaded."
        )
    return config


def check_model_folder(folder: Path) -> tuple[VisionLanguageFamily, str]:
    """The family and digest of a checkpoint folder, after every check that needs no model.

    Raises:
        ArtifactError: not a model folder, damaged files, pickled weights, custom code, or an
            unknown family.
    """
    checkpoint_digest = check_checkpoint(folder)
    config = refuse_custom_code(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        names = sorted(path.name for path in folder.iterdir())
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        remedy = "copy the folder again."
        if pickled:
            remedy = f"{pickled[0]} is pickled and is refused; convert it to safetensors."
        raise ArtifactError(f"{folder} holds no safetensors weights; {remedy}")
    for path in weights:
        read_headers(path)
    return family_of(str(config.get("model_type"))), checkpoint_digest


def load(
    name: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> LoadedModel:
    """Load a checkpoint folder, or a hub id such as `lingshu-medical-mllm/Lingshu-7B`.

    Raises:
        ArtifactError: the folder or hub id cannot be used; the message says why and what to do.
    """
    family, checkpoint_digest = identify(name, revision=revision)
    try:
        with no_progress_bars():
            model = family.stock_class.from_pretrained(
                name, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{name} cannot be loaded as {family.model_class}: {one_line(error)[:300]}"
        ) from error
    model.to(device).eval()
    processor = load_processor(name, family, model.config, revision=revision)
    return LoadedModel(model, processor, short_name(name), checkpoint_digest)


def load_on_meta(name: str) -> LoadedModel:
    """Like `load`, but the model has no values (torch's meta device): for a process that receives
    its weights from another.

    Nothing is hashed, so `digest` is empty: the other process has checked the folder.

    Raises:
        ArtifactError: as load.
    """
    config = _read_config(name)
    family = family_of(config.model_type)
    with torch.device("meta"):
        model = family.stock_class._from_config(config, dtype=torch.float32).eval()
    return LoadedModel(model, load_processor(name, family, config), short_name(name), "")


def open_processor(folder: Path) -> Processor:
    """The processor of a checkpoint folder, without its model.

    Raises:
        ArtifactError: as load.
    """
    family, _ = check_model_folder(folder)
    return load_processor(folder, family, _read_config(str(folder)))


def _read_config(name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{name} cannot be read by this process: {one_line(error)[:200]}"
        ) from error


def empty_meta_copy(model: Any) -> Any:
    """A model of the same class and configuration without values (torch's meta device)."""
    with torch.device("meta"):
        meta_model = type(model)._from_config(model.config, dtype=torch.float32)
    meta_model.generation_config = model.generation_config
    return meta_model


def short_name(name: str) -> str:
    """The name of a folder without its parents; a hub id as it is."""
    return Path(name).name if Path(name).is_dir() else name


def identify(name: str, *, revision: str | None = None) -> tuple[VisionLanguageFamily, str]:
    """The family and digest of a checkpoint folder or hub id, before any weights are read.

    Raises:
        ArtifactError: the folder or hub id cannot be used; the message says why and what to do.
    """
    if Path(name).is_dir() or not HUB_ID_PATTERN.fullmatch(name):
        return check_model_folder(Path(name))
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{name} is neither a folder here nor can it be fetched from the hub"
            f" ({one_line(error)[:200]})."
        ) from error
    # The resolved commit, so that a moved branch is another model to every cache.
    commit = getattr(config, "_commit_hash", None) or revision
    return family_of(config.model_type), digest([name, commit])
