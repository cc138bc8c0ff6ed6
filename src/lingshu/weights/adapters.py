"""LoRA adapters of one base, merged as the deltas that they represent.

An adapter stores factors A (rank x in) and B (out x rank) of the delta s·B·A (Hu et al. 2021, arXiv
2106.09685). Averaging factors is not averaging deltas: it adds products of one adapter's B with the
other's A. A weighted sum of deltas is exactly represented by concatenated factors, Σ wᵢ·sᵢ·Bᵢ·Aᵢ =
[w₁s₁B₁ w₂s₂B₂ ...]·[A₁; A₂; ...], an adapter of the summed rank.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lingshu.core.errors import ArtifactError, ConfigError, InputError
from lingshu.core.files import sha256_file, storage_errors, write_json
from lingshu.weights.base import COMPUTE_DTYPES, TORCH_DTYPES, MergeMethod, endpoint_model
from lingshu.weights.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from lingshu.weights.folder import FLOAT_DTYPES, ModelFolder
from lingshu.weights.merge import MergeSources, MergeTarget, StreamStats

LORA_FACTOR_PATTERN = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<side>[AB])(\.weight)?")
PEFT_PREFIX = "base_model.model."  # peft's name for the level above the stock model
# Settings under which the delta is not s·B·A, or more than factors is stored.
UNSUPPORTED_OPTIONS = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
)
# Initializations of factors that leave the base unchanged; others (PiSSA, OLoRA, CorDA, LoftQ)
# subtract the initial factors from it.
BASE_PRESERVING_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
MATCHING_KEYS = ("peft_type", "base_model_name_or_path", "revision", "fan_in_fan_out")
_MERGE_INTO_BASE = "merge the adapter into its base first"


class LoraFactors(NamedTuple):
    """The names of a module's two factors in the file, and the rank."""

    down: str
    up: str
    rank: int


class _Adapter(NamedTuple):
    folder: ModelFolder
    modules: Mapping[str, LoraFactors]
    tensors: Mapping[str, Tensor]  # as stored


def merge_adapters(
    sources: MergeSources, targets: Sequence[MergeTarget], method: MergeMethod
) -> StreamStats:
    """Write each target's adapter: the weighted sum of deltas, or a copy of the one with weight 1.

    Raises:
        ConfigError: a method that is not a weighted sum of deltas, or impossible weights.
        InputError: adapters of different bases or of other forms than plain LoRA.
        ArtifactError: a non-finite value; the tensor is named.
    """
    if not method.supports_lora:
        problem = "LoRA adapters are merged only as a weighted sum of deltas (linear, soup, task)"
        raise ConfigError(f"{problem}; merge each into its base first.")
    modules = [_adapted_modules(folder) for folder in sources.models]
    for folder in sources.models[1:]:
        _check_same_base(sources.first, folder)
    # Adapters with weight 0 are read too, so that a broken one is reported.
    adapters = [
        _Adapter(folder, adapted, _load_finite(folder))
        for folder, adapted in zip(sources.models, modules, strict=True)
    ]
    for target in targets:
        if target.weights.patterns:
            raise ConfigError("weights for patterns of tensors are for models, not for adapters.")
        target.weights.check(method, len(adapters), ())
        _write_merged(adapters, target)
    hashes: dict[str, str] = {}
    for folder in sources.models:
        digest = sha256_file(folder.path / ADAPTER_WEIGHTS)
        hashes |= folder.check_hashes({ADAPTER_WEIGHTS: digest})
    n_modules = len({name for adapted in modules for name in adapted})
    counts = {"adapters": len(adapters), "modules": n_modules}
    return StreamStats(hashes, [{} for _ in targets], counts)


def _adapted_modules(folder: ModelFolder) -> dict[str, LoraFactors]:
    config, factor_names = folder.config, dict[str, dict[str, str]]()
    for key in UNSUPPORTED_OPTIONS:
        if config.get(key):
            problem = f"uses {key}, which factors alone do not represent"
            raise InputError(f"{folder} {problem}; {_MERGE_INTO_BASE}.")
    if config.get("bias", "none") != "none":
        raise InputError(f"{folder} trains biases too; {_MERGE_INTO_BASE}.")
    if (init := config.get("init_lora_weights")) not in BASE_PRESERVING_INITS:
        problem = f"was initialized with init_lora_weights {init!r}, which changes the base"
        raise InputError(f"{folder} {problem}; {_MERGE_INTO_BASE}.")
    for name, location in folder.tensors.items():
        match = LORA_FACTOR_PATTERN.fullmatch(name)
        if match is None or location.dtype not in FLOAT_DTYPES:
            problem = f"{name} ({location.dtype}) is not a factor of a LoRA adapter"
            raise InputError(f"{folder}: {problem}; {_MERGE_INTO_BASE}.")
        factor_names.setdefault(match["module"], {})[match["side"]] = name
    return {name: _lora_factors(folder, name, sides) for name, sides in factor_names.items()}


def _lora_factors(folder: ModelFolder, module: str, sides: Mapping[str, str]) -> LoraFactors:
    down, up = (folder.tensors[sides[side]].shape if side in sides else () for side in "AB")
    if len(down) < 2 or len(up) < 2 or up[1] != down[0]:
        problem = f"the factors of {module} do not fit each other"
        raise ArtifactError(f"{folder}: {problem}; copy the adapter again.")
    return LoraFactors(sides["A"], sides["B"], down[0])


def _check_same_base(first: ModelFolder, other: ModelFolder) -> None:
    for key in MATCHING_KEYS:
        expected, actual = first.config.get(key), other.config.get(key)
        if expected != actual:
            problem = f"{other} has {key} {actual!r}, {first} has {expected!r}"
            raise InputError(f"{problem}; only adapters of one base can be merged.")


def _load_finite(folder: ModelFolder) -> dict[str, Tensor]:
    """The factors as stored: mapped from the file, which needs no memory of its own."""
    path = folder.path / ADAPTER_WEIGHTS
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); copy it again.") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            problem = f"tensor {name!r} holds a non-finite value"
            raise ArtifactError(f"{folder}: {problem}; it is broken and cannot be merged.")
    return tensors


def lora_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The factor of a module's B·A: alpha / rank, or alpha / √rank for rank-stabilized LoRA."""
    name = module.removeprefix(PEFT_PREFIX)
    patterns = config.get("alpha_pattern") or {}
    matches = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
    alpha = next(matches, config.get("lora_alpha"))
    if not isinstance(alpha, int | float):
        problem = f"the adapter's configuration has lora_alpha {alpha!r} instead of a number"
        raise ArtifactError(f"{problem}; copy the adapter again.")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _write_merged(adapters: Sequence[_Adapter], target: MergeTarget) -> None:
    weights = target.weights.default
    path = target.folder / ADAPTER_WEIGHTS
    endpoint = endpoint_model(weights)
    if endpoint is not None:
        with storage_errors(path):
            for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
                shutil.copyfile(adapters[endpoint].folder.path / name, target.folder / name)
        return
    active = [pair for pair in zip(adapters, weights, strict=True) if pair[1] != 0]
    merged: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for module in dict.fromkeys(name for adapter, _ in active for name in adapter.modules):
        parts = [(adapter, weight) for adapter, weight in active if module in adapter.modules]
        ranks[module] = sum(adapter.modules[module].rank for adapter, _ in parts)
        merged |= _merged_factors(module, parts, weights)
    with storage_errors(path):
        save_file(merged, path, metadata={"format": "pt"})
    write_json(target.folder / ADAPTER_CONFIG, _merged_config(adapters[0].folder.config, ranks))


def _merged_factors(
    module: str, parts: Sequence[tuple[_Adapter, float]], weights: Sequence[float]
) -> dict[str, Tensor]:
    """The two concatenated factors of a module; weight and scale go into B."""
    first, merged = parts[0][0], {}
    for side, name in enumerate((first.modules[module].down, first.modules[module].up)):
        dtype, blocks = first.folder.tensors[name].dtype, []
        for adapter, weight in parts:
            factors = adapter.modules[module]
            factor = factors.up if side else factors.down
            block = adapter.tensors[factor].to(COMPUTE_DTYPES[adapter.folder.tensors[factor].dtype])
            if side == 1:
                block = block * (weight * lora_scale(adapter.folder.config, module, factors.rank))
            blocks.append(block.to(COMPUTE_DTYPES[dtype]))
            if _other_axes(block, side) != _other_axes(blocks[0], side):
                problem = f"{adapter.folder}: {module} has factors for a layer of another shape"
                raise InputError(f"{problem}; only adapters of one base can be merged.")
        merged[name] = torch.cat(blocks, dim=side).to(TORCH_DTYPES[dtype])
        if not torch.isfinite(merged[name]).all():
            problem = f"the merge with weights {tuple(weights)} is too large for {dtype}"
            raise ArtifactError(f"{name}: {problem}; choose smaller weights.")
    return merged


def _other_axes(tensor: Tensor, axis: int) -> tuple[int, ...]:
    return (*tensor.shape[:axis], *tensor.shape[axis + 1 :])


def _merged_config(first: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """peft's configuration of the merged adapter: alpha equals the rank, so that its scale is 1."""
    ranks = {name.removeprefix(PEFT_PREFIX): rank for name, rank in ranks.items()}
    default_rank = Counter(ranks.values()).most_common(1)[0][0]
    overrides = {name: rank for name, rank in ranks.items() if rank != default_rank}
    return {
        **first,
        "r": default_rank,
        "lora_alpha": default_rank,
        "rank_pattern": overrides,
        "alpha_pattern": overrides,
        "use_rslora": False,
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
