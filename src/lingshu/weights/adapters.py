"""LoRA adapters of one base, merged as the deltas that they stand for.

An adapter stores factors A (rank x in) and B (out x rank) of the delta s·B·A (Hu et al. 2021, arXiv
2106.09685). The mean of factors is not the factors of the mean: it brings in products of one
adapter's B with the other's A. A weighted sum of deltas is said exactly by longer factors, Σ
wᵢ·sᵢ·Bᵢ·Aᵢ = [w₁s₁B₁ w₂s₂B₂ ...]·[A₁; A₂; ...], an adapter of the summed rank.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lingshu.core.errors import ArtifactError, ConfigError, InputError
from lingshu.core.files import write_json
from lingshu.weights.base import MergeMethod
from lingshu.weights.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FLOAT_DTYPES,
    ModelFolder,
    TensorLocation,
)
from lingshu.weights.merge import (
    COMPUTE_DTYPES,
    TORCH_DTYPES,
    MergeSources,
    MergeTarget,
    StreamStats,
)
from lingshu.weights.safetensors_header import ELEMENT_BYTES
from lingshu.weights.safetensors_io import (
    BackgroundThreads,
    Buffer,
    SafetensorsWriter,
    TensorReader,
)

LORA_FACTOR_PATTERN = re.compile(
    r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(?P<end>(\.weight)?)"
)
PEFT_PREFIX = "base_model.model."  # peft's name for the level above the stock model
# Settings under which factors say something else than s·B·A, or more than factors is stored.
UNSUPPORTED_OPTIONS = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
)
# First values of factors that leave the base as it is; others (PiSSA, OLoRA, CorDA, LoftQ) take the
# start out of it.
BASE_PRESERVING_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
MATCHING_KEYS = ("peft_type", "base_model_name_or_path", "revision", "fan_in_fan_out")


class LoraFactors(NamedTuple):
    """The names of a module's two factors in the file, and the rank."""

    down: str
    up: str
    rank: int


def merge_adapters(
    sources: MergeSources,
    targets: Sequence[MergeTarget],
    method: MergeMethod,
    *,
    compute_hashes: bool = True,
) -> StreamStats:
    """Write each target's adapter: the weighted sum of the sources' deltas, or a copy of the one
    that has all the weight.

    Raises:
        ConfigError: a method that is no weighted sum of deltas, or weights that it cannot work
            with.
        InputError: adapters of different bases or of other forms than plain LoRA.
        ArtefactError: a value that is no number; the tensor is named.
    """
    if not method.supports_lora:
        raise ConfigError(
            "LoRA adapters can be merged by a weighted sum of deltas only (linear, soup, task);"
            " merge each into its base first."
        )
    modules = [_adapted_modules(folder) for folder in sources.models]
    for folder in sources.models[1:]:
        _same_base(sources.first, folder)
    with ExitStack() as stack:
        threads = stack.enter_context(BackgroundThreads())
        readers = [
            TensorReader(folder, threads, compute_hashes=compute_hashes)
            for folder in sources.models
        ]
        for reader in readers:
            stack.callback(reader.close)
        for folder, reader in zip(sources.models, readers, strict=True):
            for name, location in folder.tensors.items():
                # also of an adapter without weight: a broken one is named
                _read_tensor(folder, reader, name, location)
        written_files = []
        for target in targets:
            if target.weights.patterns:
                raise ConfigError(
                    "weights for patterns of tensors are for whole models; give adapters one weight"
                    " each."
                )
            target.weights.check(method, len(sources.models), ())
            written_files.append(
                _write_merged(
                    sources.models, modules, readers, target, threads, compute_hashes=compute_hashes
                )
            )
        counts = {
            "adapters": len(sources.models),
            "modules": len({name for adapted in modules for name in adapted}),
        }
        return StreamStats(
            {name: value for reader in readers for name, value in reader.hashes().items()},
            written_files,
            counts,
        )


def _adapted_modules(folder: ModelFolder) -> dict[str, LoraFactors]:
    """The adapted modules of a folder, by name."""
    factor_names: dict[str, dict[str, str]] = {}
    for key in UNSUPPORTED_OPTIONS:
        if folder.config.get(key):
            raise InputError(
                f"{folder} uses {key}, which factors alone do not say; merge the adapter into its"
                " base first."
            )
    if folder.config.get("bias", "none") != "none":
        raise InputError(f"{folder} trains biases too; merge the adapter into its base first.")
    if (init := folder.config.get("init_lora_weights")) not in BASE_PRESERVING_INITS:
        raise InputError(
            f"{folder} was begun with init_lora_weights {init!r}, which changes the base; merge"
            " the adapter into its base first."
        )
    for name, location in folder.tensors.items():
        match = LORA_FACTOR_PATTERN.fullmatch(name)
        if match is None or location.dtype not in FLOAT_DTYPES:
            raise InputError(
                f"{folder}: {name} ({location.dtype}) is no factor of a LoRA adapter; merge the"
                " adapter into its base first."
            )
        factor_names.setdefault(match["module"], {})[match["side"]] = name
    factors = {}
    for module, sides in factor_names.items():
        down, up = (folder.tensors.get(sides.get(side, "")) for side in "AB")
        if (
            down is None
            or up is None
            or len(down.shape) < 2
            or len(up.shape) < 2
            or up.shape[1] != down.shape[0]
        ):
            raise ArtifactError(
                f"{folder}: the factors of {module} do not fit each other; copy the adapter again."
            )
        factors[module] = LoraFactors(sides["A"], sides["B"], down.shape[0])
    return factors


def _same_base(first: ModelFolder, other: ModelFolder) -> None:
    for key in MATCHING_KEYS:
        if first.config.get(key) != other.config.get(key):
            raise InputError(
                f"{other} has {key} {other.config.get(key)!r}, {first} has"
                f" {first.config.get(key)!r}; only adapters of one base can be merged."
            )


def lora_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What a module's B·A is multiplied with: alpha / rank, or alpha / √rank for rank-stabilised
    LoRA.
    """
    name = module.removeprefix(PEFT_PREFIX)
    patterns = config.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)),
        config.get("lora_alpha"),
    )
    if not isinstance(alpha, int | float):
        raise ArtifactError(
            f"the adapter's configuration has lora_alpha {alpha!r}; a number is needed: copy the"
            " adapter again."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _write_merged(
    folders: Sequence[ModelFolder],
    modules: Sequence[Mapping[str, LoraFactors]],
    readers: Sequence[TensorReader],
    target: MergeTarget,
    threads: BackgroundThreads,
    *,
    compute_hashes: bool,
) -> dict[str, dict[str, object]]:
    weights = target.weights.default
    active = [index for index, weight in enumerate(weights) if weight != 0]
    if len(active) == 1 and weights[active[0]] == 1:
        return _copy_adapter(
            folders[active[0]], readers[active[0]], target, threads, compute_hashes=compute_hashes
        )
    names = list(dict.fromkeys(name for index in active for name in modules[index]))
    entries_by_module = {
        name: [(index, modules[index][name]) for index in active if name in modules[index]]
        for name in names
    }
    header, ranks = {}, {}
    for name, entries in entries_by_module.items():
        index, factors = entries[0]
        ranks[name] = sum(lora.rank for _, lora in entries)
        down, up = (folders[index].tensors[tensor] for tensor in (factors.down, factors.up))
        for tensor, shape, location in (
            (factors.down, (ranks[name], *down.shape[1:]), down),
            (factors.up, (up.shape[0], ranks[name], *up.shape[2:]), up),
        ):
            header[tensor] = (
                location.dtype,
                shape,
                math.prod(shape) * ELEMENT_BYTES[location.dtype],
            )
    writer = SafetensorsWriter(
        target.folder / ADAPTER_WEIGHTS, header, threads, compute_hashes=compute_hashes
    )
    try:
        for name, entries in entries_by_module.items():
            for buffer, view in _merged_factors(name, entries, folders, readers, weights, header):
                writer.add(buffer, view)
                buffer.wait()
        file_info: dict[str, object] = {"bytes": writer.size, "sha256": writer.finish()}
    finally:
        writer.close()
    write_json(target.folder / ADAPTER_CONFIG, _merged_config(folders[0].config, ranks))
    return {ADAPTER_WEIGHTS: file_info}


def _copy_adapter(
    folder: ModelFolder,
    reader: TensorReader,
    target: MergeTarget,
    threads: BackgroundThreads,
    *,
    compute_hashes: bool,
) -> dict[str, dict[str, object]]:
    header = {
        name: (location.dtype, location.shape, location.size)
        for name, location in folder.tensors.items()
    }
    writer = SafetensorsWriter(
        target.folder / ADAPTER_WEIGHTS, header, threads, compute_hashes=compute_hashes
    )
    try:
        for location in folder.tensors.values():
            buffer = Buffer(location.size)
            writer.add(buffer, reader.read(location, 0, buffer, location.size))
            buffer.wait()
        file_info: dict[str, object] = {"bytes": writer.size, "sha256": writer.finish()}
    finally:
        writer.close()
    write_json(target.folder / ADAPTER_CONFIG, dict(folder.config))
    return {ADAPTER_WEIGHTS: file_info}


def _merged_factors(
    module: str,
    entries: Sequence[tuple[int, LoraFactors]],
    folders: Sequence[ModelFolder],
    readers: Sequence[TensorReader],
    weights: Sequence[float],
    header: Mapping[str, tuple[str, tuple[int, ...], int]],
) -> Iterator[tuple[Buffer, memoryview]]:
    """The two long factors of a module; weight and scale go into B."""
    first = entries[0][1]
    for side, tensor in enumerate((first.down, first.up)):
        blocks = []
        for index, factors in entries:
            name = factors.up if side else factors.down
            block = _read_tensor(folders[index], readers[index], name, folders[index].tensors[name])
            if side == 1:
                block = block * (
                    weights[index] * lora_scale(folders[index].config, module, factors.rank)
                )
            blocks.append(block)
        dtype, shape, size = header[tensor]
        _check_shapes(module, blocks, folders, entries, side)
        buffer = Buffer(size)
        merged = torch.cat([block.to(COMPUTE_DTYPES[dtype]) for block in blocks], dim=side)
        output = torch.frombuffer(buffer.bytes, dtype=TORCH_DTYPES[dtype]).view(shape).copy_(merged)
        if not torch.isfinite(output).all():
            raise ArtifactError(
                f"{tensor}: the merge with weights {tuple(weights)} is too large for {dtype};"
                " choose smaller weights."
            )
        yield buffer, memoryview(buffer.bytes)


def _check_shapes(
    module: str,
    blocks: Sequence[Tensor],
    folders: Sequence[ModelFolder],
    entries: Sequence[tuple[int, LoraFactors]],
    side: int,
) -> None:
    for block, (index, _) in zip(blocks, entries, strict=True):
        if (
            block.shape[:side] + block.shape[side + 1 :]
            != blocks[0].shape[:side] + blocks[0].shape[side + 1 :]
        ):
            raise InputError(
                f"{folders[index]}: {module} has factors for a layer of another shape; only"
                " adapters of one base can be merged."
            )


def _read_tensor(
    folder: ModelFolder, reader: TensorReader, name: str, location: TensorLocation
) -> Tensor:
    buffer = Buffer(location.size)
    reader.read(location, 0, buffer, location.size)
    buffer.wait()
    values = (
        torch.frombuffer(buffer.bytes, dtype=TORCH_DTYPES[location.dtype])
        .view(location.shape)
        .to(COMPUTE_DTYPES[location.dtype])
    )
    if not torch.isfinite(values).all():
        raise ArtifactError(
            f"{folder}: tensor {name!r} holds a value that is no finite number; it is broken and"
            " cannot be merged."
        )
    return values


def _merged_config(first: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """peft's configuration of the merged adapter: alpha equals the rank everywhere, so that its
    scale is 1.
    """
    default_rank = Counter(ranks.values()).most_common(1)[0][0]
    overrides = {
        name.removeprefix(PEFT_PREFIX): rank for name, rank in ranks.items() if rank != default_rank
    }
    return {
        **first,
        "r": default_rank,
        "lora_alpha": default_rank,
        "rank_pattern": overrides,
        "alpha_pattern": overrides,
        "use_rslora": False,
        "target_modules": sorted(name.removeprefix(PEFT_PREFIX) for name in ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
