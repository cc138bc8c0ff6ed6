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

from lingshu.core.errors import ArtefactError, ConfigError, InputError
from lingshu.core.files import write_json
from lingshu.weights.folder import ADAPTER, ADAPTER_CONFIG, FLOATS, Folder, Place
from lingshu.weights.headers import ELEMENT_BYTES
from lingshu.weights.merge import STORED, WIDE, Sources, Streamed, Target
from lingshu.weights.method import Method
from lingshu.weights.stream import Buffer, Lanes, Reader, Writer

FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(?P<end>(\.weight)?)")
WRAPPER = "base_model.model."  # peft's name for the level above the stock model
# Settings under which factors say something else than s·B·A, or more than factors is stored.
OTHER_FORMS = (
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
KEPT_BASE = (None, True, False, "gaussian", "orthogonal", "eva")
SAME = ("peft_type", "base_model_name_or_path", "revision", "fan_in_fan_out")


class Factors(NamedTuple):
    """The names of a module's two factors in the file, and the rank."""

    down: str
    up: str
    rank: int


def merge_adapters(
    sources: Sources, targets: Sequence[Target], method: Method, *, hashing: bool = True
) -> Streamed:
    """Write each target's adapter: the weighted sum of the sources' deltas, or a copy of the one
    that has all the weight.

    Raises:
        ConfigError: a method that is no weighted sum of deltas, or weights that it cannot work
            with.
        InputError: adapters of different bases or of other forms than plain LoRA.
        ArtefactError: a value that is no number; the tensor is named.
    """
    if not method.factors:
        raise ConfigError(
            "LoRA adapters can be merged by a weighted sum of deltas only (linear, soup, task);"
            " merge each into its base first."
        )
    modules = [_modules(folder) for folder in sources.models]
    for folder in sources.models[1:]:
        _same_base(sources.first, folder)
    with ExitStack() as stack:
        lanes = stack.enter_context(Lanes())
        readers = [Reader(folder, lanes, hashing=hashing) for folder in sources.models]
        for reader in readers:
            stack.callback(reader.close)
        for folder, reader in zip(sources.models, readers, strict=True):
            for name, place in folder.tensors.items():
                # also of an adapter without weight: a broken one is named
                _read(folder, reader, name, place)
        written = []
        for target in targets:
            if target.weights.patterns:
                raise ConfigError(
                    "weights for patterns of tensors are for whole models; give adapters one weight"
                    " each."
                )
            target.weights.check(method, len(sources.models), ())
            written.append(
                _combine(sources.models, modules, readers, target, lanes, hashing=hashing)
            )
        counts = {
            "adapters": len(sources.models),
            "modules": len({name for found in modules for name in found}),
        }
        return Streamed(
            {name: value for reader in readers for name, value in reader.hashes().items()},
            written,
            counts,
        )


def _modules(folder: Folder) -> dict[str, Factors]:
    """The adapted modules of a folder, by name."""
    found: dict[str, dict[str, str]] = {}
    for key in OTHER_FORMS:
        if folder.config.get(key):
            raise InputError(
                f"{folder} uses {key}, which factors alone do not say; merge the adapter into its"
                " base first."
            )
    if folder.config.get("bias", "none") != "none":
        raise InputError(f"{folder} trains biases too; merge the adapter into its base first.")
    if (start := folder.config.get("init_lora_weights")) not in KEPT_BASE:
        raise InputError(
            f"{folder} was begun with init_lora_weights {start!r}, which changes the base; merge"
            " the adapter into its base first."
        )
    for name, place in folder.tensors.items():
        match = FACTOR.fullmatch(name)
        if match is None or place.dtype not in FLOATS:
            raise InputError(
                f"{folder}: {name} ({place.dtype}) is no factor of a LoRA adapter; merge the"
                " adapter into its base first."
            )
        found.setdefault(match["module"], {})[match["side"]] = name
    factors = {}
    for module, sides in found.items():
        down, up = (folder.tensors.get(sides.get(side, "")) for side in "AB")
        if (
            down is None
            or up is None
            or len(down.shape) < 2
            or len(up.shape) < 2
            or up.shape[1] != down.shape[0]
        ):
            raise ArtefactError(
                f"{folder}: the factors of {module} do not fit each other; copy the adapter again."
            )
        factors[module] = Factors(sides["A"], sides["B"], down.shape[0])
    return factors


def _same_base(first: Folder, other: Folder) -> None:
    for key in SAME:
        if first.config.get(key) != other.config.get(key):
            raise InputError(
                f"{other} has {key} {other.config.get(key)!r}, {first} has"
                f" {first.config.get(key)!r}; only adapters of one base can be merged."
            )


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What a module's B·A is multiplied with: alpha / rank, or alpha / √rank for rank-stabilised
    LoRA.
    """
    name = module.removeprefix(WRAPPER)
    patterns = config.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)),
        config.get("lora_alpha"),
    )
    if not isinstance(alpha, int | float):
        raise ArtefactError(
            f"the adapter's configuration has lora_alpha {alpha!r}; a number is needed: copy the"
            " adapter again."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _combine(
    folders: Sequence[Folder],
    modules: Sequence[Mapping[str, Factors]],
    readers: Sequence[Reader],
    target: Target,
    lanes: Lanes,
    *,
    hashing: bool,
) -> dict[str, dict[str, object]]:
    weights = target.weights.default
    used = [number for number, weight in enumerate(weights) if weight != 0]
    if len(used) == 1 and weights[used[0]] == 1:
        return _copy(folders[used[0]], readers[used[0]], target, lanes, hashing=hashing)
    names = list(dict.fromkeys(name for number in used for name in modules[number]))
    parts = {
        name: [(number, modules[number][name]) for number in used if name in modules[number]]
        for name in names
    }
    header, ranks = {}, {}
    for name, found in parts.items():
        number, factors = found[0]
        ranks[name] = sum(each.rank for _, each in found)
        down, up = (folders[number].tensors[tensor] for tensor in (factors.down, factors.up))
        for tensor, shape, place in (
            (factors.down, (ranks[name], *down.shape[1:]), down),
            (factors.up, (up.shape[0], ranks[name], *up.shape[2:]), up),
        ):
            header[tensor] = (place.dtype, shape, math.prod(shape) * ELEMENT_BYTES[place.dtype])
    writer = Writer(target.folder / ADAPTER, header, lanes, hashing=hashing)
    try:
        for name, found in parts.items():
            for buffer, view in _factors(name, found, folders, readers, weights, header):
                writer.add(buffer, view)
                buffer.wait()
        facts: dict[str, object] = {"bytes": writer.size, "sha256": writer.finish()}
    finally:
        writer.close()
    write_json(target.folder / ADAPTER_CONFIG, _settings(folders[0].config, ranks))
    return {ADAPTER: facts}


def _copy(
    folder: Folder, reader: Reader, target: Target, lanes: Lanes, *, hashing: bool
) -> dict[str, dict[str, object]]:
    header = {
        name: (place.dtype, place.shape, place.size) for name, place in folder.tensors.items()
    }
    writer = Writer(target.folder / ADAPTER, header, lanes, hashing=hashing)
    try:
        for place in folder.tensors.values():
            buffer = Buffer(place.size)
            writer.add(buffer, reader.read(place, 0, buffer, place.size))
            buffer.wait()
        facts: dict[str, object] = {"bytes": writer.size, "sha256": writer.finish()}
    finally:
        writer.close()
    write_json(target.folder / ADAPTER_CONFIG, dict(folder.config))
    return {ADAPTER: facts}


def _factors(
    module: str,
    found: Sequence[tuple[int, Factors]],
    folders: Sequence[Folder],
    readers: Sequence[Reader],
    weights: Sequence[float],
    header: Mapping[str, tuple[str, tuple[int, ...], int]],
) -> Iterator[tuple[Buffer, memoryview]]:
    """The two long factors of a module; weight and scale go into B."""
    first = found[0][1]
    for side, tensor in enumerate((first.down, first.up)):
        pieces = []
        for number, factors in found:
            name = factors.up if side else factors.down
            piece = _read(folders[number], readers[number], name, folders[number].tensors[name])
            if side == 1:
                piece = piece * (
                    weights[number] * scale_of(folders[number].config, module, factors.rank)
                )
            pieces.append(piece)
        dtype, shape, size = header[tensor]
        _fits(module, pieces, folders, found, side)
        buffer = Buffer(size)
        long = torch.cat([piece.to(WIDE[dtype]) for piece in pieces], dim=side)
        stored = torch.frombuffer(buffer.bytes, dtype=STORED[dtype]).view(shape).copy_(long)
        if not torch.isfinite(stored).all():
            raise ArtefactError(
                f"{tensor}: the merge with weights {tuple(weights)} is too large for {dtype};"
                " choose smaller weights."
            )
        yield buffer, memoryview(buffer.bytes)


def _fits(
    module: str,
    pieces: Sequence[Tensor],
    folders: Sequence[Folder],
    found: Sequence[tuple[int, Factors]],
    side: int,
) -> None:
    for piece, (number, _) in zip(pieces, found, strict=True):
        if (
            piece.shape[:side] + piece.shape[side + 1 :]
            != pieces[0].shape[:side] + pieces[0].shape[side + 1 :]
        ):
            raise InputError(
                f"{folders[number]}: {module} has factors for a layer of another shape; only"
                " adapters of one base can be merged."
            )


def _read(folder: Folder, reader: Reader, name: str, place: Place) -> Tensor:
    buffer = Buffer(place.size)
    reader.read(place, 0, buffer, place.size)
    buffer.wait()
    values = (
        torch.frombuffer(buffer.bytes, dtype=STORED[place.dtype])
        .view(place.shape)
        .to(WIDE[place.dtype])
    )
    if not torch.isfinite(values).all():
        raise ArtefactError(
            f"{folder}: tensor {name!r} holds a value that is no finite number; it is broken and"
            " cannot be merged."
        )
    return values


def _settings(first: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """peft's configuration of the merged adapter: alpha equals the rank everywhere, so that its
    scale is 1.
    """
    common = Counter(ranks.values()).most_common(1)[0][0]
    other = {name.removeprefix(WRAPPER): rank for name, rank in ranks.items() if rank != common}
    return {
        **first,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": other,
        "alpha_pattern": other,
        "use_rslora": False,
        "target_modules": sorted(name.removeprefix(WRAPPER) for name in ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
