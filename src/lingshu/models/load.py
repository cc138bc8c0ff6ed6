"""Open a checkpoint: its files, the stock class of its family with its values, its processor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PIL

from lingshu.core.errors import ArtifactError, library_errors, one_line
from lingshu.core.files import digest
from lingshu.core.types import Message
from lingshu.models.base import VisionLanguageFamily, family_of_config
from lingshu.models.checkpoint_tensors import (
    MetaModel,
    open_meta_model,
    read_stock_config,
    stored_tensors,
)
from lingshu.models.processor import Processor, load_processor
from lingshu.models.quantization import Quantization, loading_arguments
from lingshu.weights.chat_template import StoredTemplate
from lingshu.weights.checkpoint_files import (
    COPY_AGAIN,
    GENERATION_CONFIG,
    INDEX_FILE,
    SINGLE_FILE,
    CheckpointFiles,
    indexed_files,
    open_checkpoint,
    read_config,
)

HUB_ID_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")
# What is fetched of a model besides its weights: never code or pickles.
SMALL_FILE_PATTERNS = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
# Floating-point operations that a model on a CPU may spend on being tried at load: seconds.
PROBE_OPERATIONS = 1e12


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


def open_model_files(folder: Path) -> tuple[CheckpointFiles, VisionLanguageFamily]:
    """The files and the family of a checkpoint folder, after every check that needs no model.

    Raises:
        ArtifactError: not a model folder, damaged files, pickled weights, custom code, files that
            are not part of the model, or an unknown family.
    """
    files = open_checkpoint(folder)
    try:
        return files, family_of_config(files.config)
    except ArtifactError as error:
        raise ArtifactError(f"{folder}: {error}") from None


def load(
    name: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
    revision: str | None = None,
    template: StoredTemplate | None = None,
) -> LoadedModel:
    """Load a checkpoint folder, or a hub id such as `lingshu-medical-mllm/Lingshu-7B`, with another
    chat template if one is given.

    With `quantization` the weights of the language model are in 8 or 4 bits and `dtype` is that of
    the others.

    Raises:
        MissingExtraError: the library of the quantization is not installed.
        ArtifactError: the folder or hub id cannot be used; the message says why and what to do.
    """
    folder, commit_digest = local_folder(name, revision, with_weights=True)
    files, family = open_model_files(folder)
    meta = open_meta_model(files, family)
    checkpoint_digest = commit_digest or files.digest()
    quantized = loading_arguments(quantization, family, device=device)
    model = _read_values(files, meta, dtype, quantized)
    # Quantized weights are on the device from the start.
    (model if quantized else model.to(device)).eval()
    processor = _load_processor(folder, family, model.config, template)
    loaded = LoadedModel(model, processor, short_name(name), checkpoint_digest, notes=files.notes)
    files.check_unchanged()
    _check_it_answers(loaded, folder)
    return loaded


def _read_values(
    files: CheckpointFiles, meta: MetaModel, dtype: torch.dtype, quantized: Mapping[str, Any]
) -> Any:
    """The stock model with the values of a checkpoint, tensor by tensor.

    transformers is given the configuration and the tensors and no path, so that it finds no other
    file: no adapter, no code, no second set of weights.
    """
    from transformers import GenerationConfig

    broken: list[str] = []
    settings = files.settings(GENERATION_CONFIG)
    model_class = type(meta.model)
    with (
        no_progress_bars(),
        library_errors(f"{files.folder} cannot be loaded as {model_class.__name__}", COPY_AGAIN),
    ):
        model, info = model_class.from_pretrained(
            None,
            config=meta.model.config,
            state_dict=dict(stored_tensors(files, meta.locations, broken)),
            generation_config=GenerationConfig.from_dict(settings) if settings else None,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            **quantized,
        )
    if broken:
        problem = f"{len(broken)} tensors hold values that are not finite numbers (NaN or infinite)"
        raise ArtifactError(
            f"{files.folder}: {problem}, such as {sorted(broken)[0]}; the model is broken,"
            f" {COPY_AGAIN}."
        )
    if unread := sorted(info["missing_keys"]) or sorted(map(str, info["mismatched_keys"])):
        raise ArtifactError(
            f"{files.folder}: {unread[0]} could not be read as {model_class.__name__}; {COPY_AGAIN}."
        )
    return model


def _check_it_answers(loaded: LoadedModel, folder: Path) -> None:
    """Compute the next token of a short question about a gray image: settings that do not fit each
    other must not be found by the first user.

    Raises:
        ArtifactError: it fails, or gives no finite numbers.
    """
    model, processor = loaded.model, loaded.processor
    with library_errors(f"{folder} cannot answer", "its settings do not fit its weights"):
        question = Message("user", (0, "Is there a lesion?"))
        encoded = processor.encode([question], processor.tiles([PIL.new("RGB", (56, 56))]))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if model.device.type == "cpu" and 2 * parameters * len(encoded) > PROBE_OPERATIONS:
            encoded = processor.encode([Message("user", ("Is there a lesion?",))], [])
        batch = processor.collate([encoded], pad="left")
        inputs = {key: tensor.to(model.device) for key, tensor in batch.items() if key != "labels"}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.inference_mode():
            logits_V = model(**inputs, use_cache=False).logits[0, -1]
    if not torch.isfinite(logits_V).all():
        raise ArtifactError(
            f"{folder} answers with values that are not finite numbers; {COPY_AGAIN}."
        )


def load_on_meta(name: str) -> LoadedModel:
    """Like `load`, but the model has no values (torch's meta device): for a process that receives
    its weights from another. Its parameters are those of `load`.

    Nothing is hashed, so `digest` is empty: the other process has checked the folder.

    Raises:
        ArtifactError: as load.
    """
    folder, _ = local_folder(name, None, with_weights=True)
    files, family = open_model_files(folder)
    model = open_meta_model(files, family).model
    processor = _load_processor(folder, family, model.config)
    return LoadedModel(model, processor, short_name(name), "", notes=files.notes)


def open_processor(name: str | Path, *, template: StoredTemplate | None = None) -> Processor:
    """The processor of a checkpoint folder or hub id, without its model.

    Raises:
        ArtifactError: as load.
    """
    folder, commit_digest = local_folder(str(name), None, with_weights=False)
    if commit_digest is None:
        files, family = open_model_files(folder)
        config = files.config
    else:
        config = read_config(folder)
        family = family_of_config(config)
    stock_config = read_stock_config(folder, config, family)
    return _load_processor(folder, family, stock_config, template)


def _load_processor(
    folder: Path,
    family: VisionLanguageFamily,
    config: Any,
    template: StoredTemplate | None = None,
) -> Processor:
    with library_errors(f"{folder}: its tokenizer or processor cannot be used", COPY_AGAIN):
        return load_processor(folder, family, config, template=template)


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

    The digest is that of the content of its files; for a hub id, of the commit.

    Raises:
        ArtifactError: the folder or hub id cannot be used; the message says why and what to do.
    """
    folder, commit_digest = local_folder(name, revision, with_weights=False)
    if commit_digest is not None:
        return family_of_config(read_config(folder)), commit_digest
    files, family = open_model_files(folder)
    return family, files.digest()


def local_folder(name: str, revision: str | None, *, with_weights: bool) -> tuple[Path, str | None]:
    """The folder of a model; for a hub id its download, and the digest of its commit."""
    if Path(name).is_dir() or not HUB_ID_PATTERN.fullmatch(name):
        return Path(name), None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=list(SMALL_FILE_PATTERNS))
        )
        # The resolved commit, so that a moved branch is another model to every cache.
        commit = folder.name
        if with_weights:
            index = folder / INDEX_FILE
            weights = indexed_files(index) if index.is_file() else (SINGLE_FILE,)
            snapshot_download(name, revision=commit, allow_patterns=list(weights))
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{name} is neither a folder here nor can it be fetched from the hub"
            f" ({one_line(error)[:200]})."
        ) from error
    return folder, digest([name, commit])
