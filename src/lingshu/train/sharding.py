"""Sharding by FSDP2: parameters, gradients and moments spread over all processes, gathered block by
block.

The model keeps its stock class and names. Whole weights are only ever in the memory of the first
process, and there on the CPU: the others start from a model without values and are sent their
shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.utils.checkpoint import checkpoint

from lingshu.models.base import ModelFamily
from lingshu.train.distributed import DistributedContext

META = torch.device("meta")


def fsdp_units(model: Any, family: ModelFamily) -> list[nn.Module]:
    """The blocks that are sharded and recomputed one by one, in the order of the forward pass:
    vision, then language.
    """
    return [block for path in family.blocks for block in model.get_submodule(path)]


def set_activation_checkpointing(blocks: Sequence[nn.Module], *, enabled: bool) -> None:
    """Let each block compute its activations anew in the backward pass, or keep them again.

    Its forward alone is wrapped, so that what sharding hooks around the block's call happens once.
    """
    for block in blocks:
        block.__dict__.pop("forward", None)
        if enabled:
            # A method, not a function: a deep copy of the block then runs itself.
            block.__dict__["forward"] = MethodType(_checkpointed_forward, block)


def _checkpointed_forward(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)


def shard_model(
    root: nn.Module,
    model: Any,
    family: ModelFamily,
    *,
    dist_context: DistributedContext,
    bfloat16: bool,
    cpu_offload: bool,
) -> None:
    """Shard `model` in place, block by block, and what is left of it as one unit with `root`, whose
    call is the forward pass.

    The first process brings the weights; the others' may lie on the meta device. Gradients are
    summed over processes.
    """
    parameters = (
        {name: tensor.detach() for name, tensor in model.state_dict().items()}
        if dist_context.is_main
        else {}
    )
    buffers = dict(model.named_buffers()) if dist_context.is_main else {}
    if dist_context.is_main:
        _move(model, META)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(dist_context.device.type, (dist_context.size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if bfloat16
        else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
    }
    for unit in fsdp_units(model, family):
        _move(unit, dist_context.device)
        fully_shard(unit, **options)
    _move(model, dist_context.device)
    fully_shard(root, **options)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # A step divides its loss by what the whole batch holds: the shares' gradients are to be
            # added up, not averaged.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    set_model_state_dict(
        model,
        parameters,
        options=StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=True, cpu_offload=cpu_offload
        ),
    )
    for name, buffer in model.named_buffers():
        if dist_context.is_main:
            buffer.copy_(buffers[name])
        distributed.broadcast(buffer, src=0)


def full_state_dict(model: Any) -> dict[str, Any]:
    """Every weight of a sharded model in the first process, on the CPU; nothing in the others."""
    return get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )


def _move(module: nn.Module, device: torch.device) -> None:
    """Put every unsharded tensor of a module on `device` without its values; a tensor that is
    shared stays shared.
    """
    replacements: dict[int, Any] = {}
    for submodule in module.modules():
        for tensors in (submodule._parameters, submodule._buffers):
            for name, tensor in tensors.items():
                if (
                    tensor is None
                    or tensor.device == device
                    or (device != META and tensor.device != META)
                ):
                    continue
                if id(tensor) not in replacements:
                    empty = torch.empty_like(tensor, device=device)
                    replacements[id(tensor)] = (
                        nn.Parameter(empty, tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else empty
                    )
                tensors[name] = replacements[id(tensor)]
