"""The tensors of a checkpoint against those of its stock class: names, shapes, ties, values.

Names and shapes are compared before any value is read, with the renaming of transformers itself
(`conversion_mapping.py`), which covers the names of every version that published a checkpoint.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lingshu.core.errors import ArtifactError, library_errors
from lingshu.models.base import VisionLanguageFamily
from lingshu.weights.base import TORCH_DTYPES
from lingshu.weights.checkpoint_files import (
    CONFIG,
    COPY_AGAIN,
    CheckpointFiles,
    equal_tensors,
)
from lingshu.weights.safetensors_io import TensorLocation
from lingshu.weights.stock_model import class_names

# Counts of layers in configurations; no model has more layers than tensors.
LAYER_COUNTS = frozenset(("num_hidden_layers", "num_layers", "depth"))
# Buffers that older versions stored and today's classes compute.
COMPUTED_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|(^|\.)position_ids$")
FINITE_BLOCK = 1 << 24  # values that are checked one by one at a time


class MetaModel(NamedTuple):
    """The stock model without values (torch's meta device), and where its tensors are stored.

    `locations` are those of the stored tensors by their stored names; `model.config` states in
    `tie_word_embeddings` what the tensors show.
    """

    model: Any
    locations: Mapping[str, TensorLocation]


def open_meta_model(files: CheckpointFiles, family: VisionLanguageFamily) -> MetaModel:
    """Build the stock class of a checkpoint on the meta device and check that exactly its tensors
    are stored.

    Raises:
        ArtifactError: an unusable configuration; quantized weights; a tensor that is missing,
            unknown, or of another shape or type.
    """
    refuse_quantized(files)
    _check_layer_counts(files)
    config = read_stock_config(files.folder, files.config, family)
    with library_errors(f"{files.folder / CONFIG} cannot be used", "fix it, or " + COPY_AGAIN):
        model = build_meta_model(family, config)
    locations = _by_class_name(files, model)
    tied, was_tied = is_tied(files, model, locations), bool(config.tie_word_embeddings)
    for part in (config, config.text_config):
        part.tie_word_embeddings = tied
    if tied != was_tied:
        model = build_meta_model(family, config)
    _check_complete(files, model, locations, is_head_optional=tied)
    stored = {at: name for name, at in files.tensors.items()}
    is_used = model.state_dict().keys()
    return MetaModel(model, {stored[at]: at for name, at in locations.items() if name in is_used})


def build_meta_model(family: VisionLanguageFamily, config: Any) -> Any:
    """The stock class of a configuration, without values."""
    with torch.device("meta"):
        return family.stock_class._from_config(config, dtype=torch.float32).eval()


def read_stock_config(folder: Path, config: Mapping[str, Any], family: VisionLanguageFamily) -> Any:
    """The config.json of a folder as the configuration class of transformers reads it."""
    with library_errors(f"{folder / CONFIG} cannot be used", "fix it, or " + COPY_AGAIN):
        return family.stock_class.config_class.from_dict(dict(config))


def refuse_quantized(files: CheckpointFiles) -> None:
    """Raise ArtifactError for weights that are not plain numbers."""
    for key in ("quantization_config", "compression_config"):
        settings = files.config.get(key)
        if settings is None:
            continue
        method = settings.get("quant_method") if isinstance(settings, Mapping) else None
        problem = f"is quantized by {method or 'an unnamed method'} ({key} of {CONFIG})"
        raise ArtifactError(f"{files.folder} {problem}; take the 16-bit folder of the same model.")


def _check_layer_counts(files: CheckpointFiles) -> None:
    for part in (files.config, *files.config.values()):
        for key in LAYER_COUNTS & part.keys() if isinstance(part, Mapping) else ():
            if isinstance(part[key], int) and part[key] > len(files.tensors):
                problem = f"{CONFIG} has {key} {part[key]}, the weights hold {len(files.tensors)}"
                raise ArtifactError(f"{files.folder}: {problem} tensors in all; {COPY_AGAIN}.")


def _by_class_name(files: CheckpointFiles, model: Any) -> dict[str, TensorLocation]:
    """The stored tensors under the names of the class."""
    locations: dict[str, TensorLocation] = {}
    stored: dict[str, str] = {}
    for name, renamed in class_names(model, files.tensors).items():
        if renamed in stored:
            problem = f"holds {renamed} twice, as {stored[renamed]!r} and {name!r}"
            raise ArtifactError(f"{files.folder} {problem}; {COPY_AGAIN}.")
        stored[renamed], locations[renamed] = name, files.tensors[name]
    return locations


def is_tied(files: CheckpointFiles, model: Any, locations: Mapping[str, TensorLocation]) -> bool:
    """Whether the output head shares the embedding, by the tensors where both are stored.

    A model that says it is tied and stores two different tensors is untied, as in transformers. If
    only one is stored, the configuration decides, at either of the two places that versions of
    transformers write it to.
    """
    pair = [locations.get(name) for name in tied_names(model)]
    if not pair:
        return False
    text = files.config.get("text_config")
    stated = [
        part["tie_word_embeddings"]
        for part in (files.config, text)
        if isinstance(part, Mapping) and isinstance(part.get("tie_word_embeddings"), bool)
    ]
    config_ties = any(stated) if stated else bool(model.config.tie_word_embeddings)
    head, embedding = pair
    if head is None or embedding is None:
        return config_ties
    return config_ties and equal_tensors(files.folder, head, embedding)


def tied_names(model: Any) -> tuple[str, ...]:
    """The names of the output head and of the embedding that it can share; none for a class whose
    head never does.
    """
    return next(iter((type(model)._tied_weights_keys or {}).items()), ())


def _check_complete(
    files: CheckpointFiles,
    model: Any,
    locations: Mapping[str, TensorLocation],
    *,
    is_head_optional: bool,
) -> None:
    expected = model.state_dict()
    ignorable = [*(model._keys_to_ignore_on_load_unexpected or ()), COMPUTED_BUFFERS.pattern]
    unknown = [
        name
        for name in locations
        if name not in expected and not any(re.search(pattern, name) for pattern in ignorable)
    ]
    optional = set(tied_names(model)) if is_head_optional else set()
    missing = [name for name in expected if name not in locations]
    if is_head_optional and optional.isdisjoint(locations):
        optional = set()
    missing = [name for name in missing if name not in optional]
    for names, problem in (
        (missing, f"lacks {len(missing)} of the {len(expected)} tensors of its class"),
        (unknown, f"holds {len(unknown)} tensors that its class does not have"),
    ):
        if names:
            more = ", ..." if len(names) > 3 else ""
            raise ArtifactError(
                f"{files.folder} {problem} {type(model).__name__}"
                f" ({', '.join(names[:3])}{more}); {COPY_AGAIN}."
            )
    for name in expected.keys() & locations.keys():
        location, shape = locations[name], tuple(expected[name].shape)
        if location.shape != shape:
            problem = f"has shape {list(location.shape)}, {CONFIG} requires {list(shape)}"
            remedy = f"weights and {CONFIG} are not of one model; {COPY_AGAIN}"
            raise ArtifactError(f"{files.folder}: tensor {name} {problem}; {remedy}.")
        if location.dtype not in TORCH_DTYPES:
            problem = f"is stored as {location.dtype}, which is not a plain floating-point type"
            remedy = "take the 16-bit folder of the same model"
            raise ArtifactError(f"{files.folder}: tensor {name} {problem}; {remedy}.")


class LazyTensor:
    """A tensor that is read from its file, and checked, when transformers asks for its values.

    Values are read into memory of their own: a mapped file would change a running model when the
    file is overwritten.
    """

    def __init__(self, path: Path, name: str, location: TensorLocation, broken: list[str]) -> None:
        """The names of tensors with non-finite values are added to `broken`."""
        self._path, self._name, self._location, self._broken = path, name, location, broken

    def __getitem__(self, index: object) -> torch.Tensor:
        if index is not Ellipsis:
            raise NotImplementedError("a stored tensor is read whole")
        at = self._location
        values = torch.empty(at.shape, dtype=TORCH_DTYPES[at.dtype])
        if at.size:
            self._read_into(memoryview(values.view(-1).view(torch.uint8).numpy().data))
        if not is_finite(values):
            self._broken.append(self._name)
        return values

    def _read_into(self, view: memoryview) -> None:
        n_read, at = 0, self._location
        file = os.open(self._path, os.O_RDONLY)
        try:
            while n_read < at.size:
                n_bytes = os.preadv(file, [view[n_read : n_read + (1 << 28)]], at.offset + n_read)
                if n_bytes == 0:
                    raise ArtifactError(f"{self._path} shrank while it was read; copy it again.")
                n_read += n_bytes
        finally:
            os.close(file)


def is_finite(values: torch.Tensor) -> bool:
    """Whether no value is infinite or not a number; needs little memory in addition to `values`."""
    # The sum shows it at a fraction of the cost, unless it overflows.
    return math.isfinite(float(values.sum())) or all(
        bool(torch.isfinite(block).all()) for block in values.view(-1).split(FINITE_BLOCK)
    )


def stored_tensors(
    files: CheckpointFiles, locations: Mapping[str, TensorLocation], broken: list[str]
) -> Iterator[tuple[str, LazyTensor]]:
    """The stored name and the values of each tensor."""
    for name, at in locations.items():
        yield name, LazyTensor(files.folder / at.file, name, at, broken)
