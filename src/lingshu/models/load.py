"""Open a checkpoint: check the folder, refuse what could run code, build the stock model class of
its family.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lingshu.core.artifacts import check_checkpoint
from lingshu.core.errors import ArtifactError, one_line
from lingshu.core.files import digest, read_json
from lingshu.models.base import ModelFamily, family_of
from lingshu.models.processor import Processor, load_processor
from lingshu.weights.safetensors_header import read_headers


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


HUB_ID_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its processor; `digest` identifies the weights and files it
    came from.
    """

    model: Any
    processor: Processor
    name: str
    digest: str


def check_model_folder(folder: Path) -> tuple[ModelFamily, str]:
    """The family and digest of a checkpoint folder, after every check that needs no model.

    Raises:
        ArtefactError: no model folder, damaged files, pickled weights, custom code, or an unknown
            family.
    """
    checkpoint_digest = check_checkpoint(folder)
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise ArtifactError(
            f"{folder} asks to run its own code (auto_map in config.json); only stock model classes"
            " are loaded."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled_files = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
        )
        remedy = (
            f"{pickled_files[0]} is pickled and is refused; convert it to safetensors."
            if pickled_files
            else "copy the folder again."
        )
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
        ArtefactError: the folder or hub id cannot be used; the message says why and what to do.
    """
    import transformers

    folder = Path(name)
    family, checkpoint_digest = identify(name, revision=revision)
    cls = getattr(transformers, family.model_class)
    try:
        with no_progress_bars():
            model = cls.from_pretrained(
                name, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{name} cannot be loaded as {family.model_class}: {one_line(error)[:300]}"
        ) from error
    model.to(device).eval()
    processor = load_processor(name, family, revision=revision)
    return LoadedModel(
        model, processor, folder.name if folder.is_dir() else name, checkpoint_digest
    )


def load_on_meta(name: str, *, revision: str | None = None) -> LoadedModel:
    """As `load`, but the model has no values (torch's meta device): for a process that another
    sends its weights to.

    Nothing is hashed, so `digest` is empty: the other process has checked the folder.

    Raises:
        ArtefactError: as load.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{name} cannot be read by this process: {one_line(error)[:200]}"
        ) from error
    family = family_of(config.model_type)
    with torch.device("meta"):
        model = (
            getattr(transformers, family.model_class)
            ._from_config(config, dtype=torch.float32)
            .eval()
        )
    return LoadedModel(
        model,
        load_processor(name, family, revision=revision),
        Path(name).name if Path(name).is_dir() else name,
        "",
    )


def empty_meta_copy(model: Any) -> Any:
    """A model of the same class and configuration without values (torch's meta device)."""
    with torch.device("meta"):
        meta_model = type(model)._from_config(model.config, dtype=torch.float32)
    meta_model.generation_config = model.generation_config
    return meta_model


def identify(name: str, *, revision: str | None = None) -> tuple[ModelFamily, str]:
    """The family and digest of a checkpoint folder or hub id, before any weights are read.

    Raises:
        ArtefactError: the folder or hub id cannot be used; the message says why and what to do.
    """
    folder = Path(name)
    return (
        check_model_folder(folder)
        if folder.is_dir() or not HUB_ID_PATTERN.fullmatch(name)
        else _hub_family(name, revision)
    )


def _hub_family(name: str, revision: str | None) -> tuple[ModelFamily, str]:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{name} is neither a folder here nor can it be fetched from the hub"
            f" ({one_line(error)[:200]})."
        ) from error
    # The commit that was resolved, so that a moved branch is another model to every cache.
    commit = getattr(config, "_commit_hash", None) or revision
    return family_of(config.model_type), digest([name, commit])
