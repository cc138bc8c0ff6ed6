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
from lingshu.weights.stock_model import unwrapped

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
    "target_parameters",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "arrow_config",
)
# Initializations of factors that leave the base unchanged; others (PiSSA, OLoRA, CorDA, LoftQ)
# subtract the initial factors from it.
BASE_PRESERVING_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
MATCHING_KEYS = ("peft_type", "revision", "fan_in_fan_out")
# What unsloth adds to the hub name of a base that it publishes quantized for training.
QUANTIZED_COPY = re.compile(r"(-unsloth)?-bnb-4bit$")
_MERGE_INTO_BASE = "merge the adapter into its base first"


class LoraFactors(NamedTuple):
    """The names of a module and of its two factors in the file, and the rank."""

    module: str
    down: str
    up: str
    rank: int


class _Adapter(NamedTuple):
    folder: ModelFolder
    modules: Mapping[str, LoraFactors]  # by their names without outer modules
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
    names = _module_names(sources.models, modules)
    # Adapters with weight 0 are read too, so that a broken one is reported.
    adapters = [
        _Adapter(folder, adapted, _load_finite(folder))
        for folder, adapted in zip(sources.models, modules, strict=True)
    ]
    for target in targets:
        if target.weights.patterns:
            raise ConfigError("weights for patterns of tensors are for models, not for adapters.")
        target.weights.check(method, len(adapters), ())
        _write_merged(adapters, names, target)
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
    modules: dict[str, LoraFactors] = {}
    for name, sides in factor_names.items():
        factors = _lora_factors(folder, name, sides)
        if (other := modules.setdefault(unwrapped(name), factors)) is not factors:
            problem = f"{other.module} and {name} are one module under two names"
            raise ArtifactError(f"{folder}: {problem}; copy the adapter again.")
    return modules


def _lora_factors(folder: ModelFolder, module: str, sides: Mapping[str, str]) -> LoraFactors:
    down, up = (folder.tensors[sides[side]].shape if side in sides else () for side in "AB")
    if len(down) < 2 or len(up) < 2 or up[1] != down[0]:
        problem = f"the factors of {module} do not fit each other"
        raise ArtifactError(f"{folder}: {problem}; copy the adapter again.")
    return LoraFactors(module, sides["A"], sides["B"], down[0])


def _check_same_base(first: ModelFolder, other: ModelFolder) -> None:
    bases = [folder.config.get("base_model_name_or_path") for folder in (first, other)]
    pairs = {"base_model_name_or_path": bases if not _is_same_base(*bases) else (None, None)}
    for key in MATCHING_KEYS:
        pairs[key] = [folder.config.get(key) for folder in (first, other)]
    for key, (expected, actual) in pairs.items():
        if expected != actual:
            problem = f"{other} has {key} {actual!r}, {first} has {expected!r}"
            raise InputError(f"{problem}; only adapters of one base can be merged.")


def _is_same_base(first: object, other: object) -> bool:
    """Whether two adapters name one base: by its hub id, a download of it, or a quantized copy.

    Paths that are not of a hub id count only as they are: two folders named `checkpoint` are not
    one model.
    """
    if first == other or not (isinstance(first, str) and isinstance(other, str)):
        return first == other
    names = [_hub_name(base) for base in (first, other)]
    is_hub_id = any(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in names)
    last = {QUANTIZED_COPY.sub("", name.rstrip("/").rpartition("/")[2]).lower() for name in names}
    return is_hub_id and len(last) == 1


def _hub_name(base: str) -> str:
    """The hub id of a path in the hub's cache; any other name as it is."""
    match = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", base)
    return f"{match[1]}/{match[2]}" if match else base


def _module_names(
    folders: Sequence[ModelFolder], modules: Sequence[Mapping[str, LoraFactors]]
) -> dict[str, str]:
    """The name of every module in the result, as the first adapter spells it.

    Raises:
        InputError: an adapter nests modules in another way, and has modules in a part of the model
            where the first has none, so that its spelling is not known.
    """
    names = {name: factors.module for name, factors in modules[0].items()}
    outer = {name.partition(".")[0]: at.removesuffix(name) for name, at in names.items()}
    for folder, adapted in zip(folders[1:], modules[1:], strict=True):
        is_same = len(_nesting(modules[0]) | _nesting(adapted)) <= 1
        for name in sorted(adapted.keys() - names.keys()):
            prefix = outer.get(name.partition(".")[0])
            if prefix is None and not is_same:
                problem = f"adapts {name}, a part that {folders[0]} does not adapt"
                remedy = f"and names modules in another way; name {folder.path} first"
                raise InputError(f"{folder} {problem}, {remedy}.")
            names[name] = adapted[name].module if is_same or prefix is None else prefix + name
    return names


def _nesting(modules: Mapping[str, LoraFactors]) -> set[bool]:
    """Whether all parts are below `model`, as since transformers 4.52, or only the language model."""
    names = (factors.module.removeprefix(PEFT_PREFIX) for factors in modules.values())
    return {
        bool(re.match(r"model\.(?!layers\.|embed_tokens)", name))
        for name in names
        if name != "lm_head"
    }


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


def _write_merged(
    adapters: Sequence[_Adapter], names: Mapping[str, str], target: MergeTarget
) -> None:
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
        ranks[names[module]] = sum(adapter.modules[module].rank for adapter, _ in parts)
        merged |= _merged_factors(module, names[module], parts, weights)
    with storage_errors(path):
        save_file(merged, path, metadata={"format": "pt"})
    write_json(target.folder / ADAPTER_CONFIG, _merged_config(adapters[0].folder.config, ranks))


def _merged_factors(
    module: str,
    name: str,
    parts: Sequence[tuple[_Adapter, float]],
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """The two concatenated factors of the module that the result calls `name`; weight and scale go
    into B.
    """
    first, merged = parts[0][0], {}
    of_first = first.modules[module]
    for side, stored in enumerate((of_first.down, of_first.up)):
        dtype, blocks = first.folder.tensors[stored].dtype, []
        for adapter, weight in parts:
            factors = adapter.modules[module]
            source = factors.up if side else factors.down
            block = adapter.tensors[source].to(COMPUTE_DTYPES[adapter.folder.tensors[source].dtype])
            if side == 1:
                block = block * (
                    weight * lora_scale(adapter.folder.config, factors.module, factors.rank)
                )
            blocks.append(block.to(COMPUTE_DTYPES[dtype]))
            if _other_axes(block, side) != _other_axes(blocks[0], side):
                problem = f"{adapter.folder}: {module} has factors for a layer of another shape"
                raise InputError(f"{problem}; only adapters of one base can be merged.")
        factor = torch.cat(blocks, dim=side).to(TORCH_DTYPES[dtype])
        if not torch.isfinite(factor).all():
            problem = f"the merge with weights {tuple(weights)} is too large for {dtype}"
            raise ArtifactError(f"{stored}: {problem}; choose smaller weights.")
        merged[name + stored.removeprefix(of_first.module)] = factor
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
