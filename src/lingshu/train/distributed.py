"""The processes that torchrun started, if it did, and the sharding of a model over them by FSDP2.

Parameters, gradients and moments are spread over all processes and gathered block by block. The
model keeps its stock class and names. Full weights are only ever in the memory of the first
process, and there on the CPU: the others start from a model without values and receive their
shards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import MethodType
from typing import Any, Literal, TypeVar

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
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lingshu.core.errors import ConfigError, LingshuError, TrainingError
from lingshu.models.base import VisionLanguageFamily
from lingshu.train.config import Sharding, TrainConfig

T = TypeVar("T")
CPU, META = torch.device("cpu"), torch.device("meta")
# What one process does for all (hashing data, writing a checkpoint) may take hours while the others
# wait; torchrun ends them when a process dies, so waiting long hides nothing.
TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a run: this one's `rank` of `size`, `node_size` of them on each node, and its
    device.

    `control_group` carries small numbers and barriers, `checkpoint_group` the threads that write
    states; both are on the CPU, and None without torchrun, whose process is the `launcher`.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    node_size: int = 1
    control_group: distributed.ProcessGroup | None = None
    checkpoint_group: distributed.ProcessGroup | None = None
    launcher: int | None = None

    @property
    def is_distributed(self) -> bool:
        """Whether torchrun started this process; a model is then sharded, even over one process."""
        return self.control_group is not None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes in float64; every process gets the same bits."""
        if self.control_group is None:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total, group=self.control_group)
        return total.tolist()

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of this process's device summed over all processes, in place; the CPU does not wait."""
        if self.is_distributed:
            distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, values: Sequence[T]) -> list[T]:
        """The values of all processes, in the order of their ranks; they are pickled."""
        if self.control_group is None:
            return list(values)
        parts: list[list[T]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, list(values), group=self.control_group)
        return [value for part in parts for value in part]

    def run_on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, which alone runs it.

        Raises:
            LingshuError: `work` raised it; every process raises it then.
        """
        if self.control_group is None:
            return work()
        payload: list = [None, None]
        if self.is_main:
            try:
                payload[0] = work()
            except LingshuError as error:
                payload[1] = (type(error), str(error))
        distributed.broadcast_object_list(payload, src=0, group=self.control_group)
        if payload[1] is not None:
            error_type, message = payload[1]
            raise error_type(message)
        return payload[0]

    def shard_batch(self, batch: Sequence[T], micro_batch: int) -> list[T]:
        """This process's sequences of a global batch: its micro-batches in turn."""
        starts = range(self.rank * micro_batch, len(batch), self.size * micro_batch)
        return [sequence for start in starts for sequence in batch[start : start + micro_batch]]

    def is_orphaned(self) -> bool:
        """Whether the launcher is gone, so that nothing would restart or end this process."""
        return self.launcher is not None and os.getppid() != self.launcher


SINGLE_PROCESS = DistributedContext()


@contextmanager
def init_distributed(device: Literal["auto", "cpu", "cuda"]) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, and leave them at the end; a single one without it.

    Raises:
        ConfigError: a device that this machine does not have.
        TrainingError: another process of the run ended while this one was waiting for it.
    """
    device_type = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if device_type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here; set device=cpu.")
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield DistributedContext(device=torch.device(device_type))
        return
    local_device = _local_device(device_type)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo")
    groups = [_new_gloo_group() for _ in range(2)]
    rank, size = distributed.get_rank(), distributed.get_world_size()
    local_ranks: list[int] = [0] * size
    distributed.all_gather_object(local_ranks, _local_rank(), group=groups[0])
    node_size = max(local_ranks) + 1
    finished_cleanly = False
    try:
        yield DistributedContext(
            rank, size, local_device, node_size, *groups, launcher=os.getppid()
        )
        finished_cleanly = True
    except (RuntimeError, distributed.DistError) as error:
        # gloo reports a peer that is gone in a plain RuntimeError.
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise TrainingError(
            "another process of this run ended; see its output or that of torchrun, then continue"
            " with --resume."
        ) from error
    finally:
        # After an error of this process alone NCCL would wait for the others; the end of the
        # process frees the group too.
        if finished_cleanly or device_type == "cpu":
            distributed.destroy_process_group()


def _new_gloo_group() -> distributed.ProcessGroup:
    group = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(group, distributed.ProcessGroup)  # every process belongs to it
    return group


def _local_device(device_type: str) -> torch.device:
    if device_type == "cpu":
        return CPU
    local_rank = _local_rank()
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started more processes on this node than its {torch.cuda.device_count()}"
            " GPUs; lower --nproc-per-node."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _local_rank() -> int:
    return distributed.get_node_local_rank()  # pyright: ignore[reportPrivateImportUsage] - documented


def check_distributed(config: TrainConfig, dist_context: DistributedContext) -> None:
    """Raise ConfigError for a batch or an option that this number of processes cannot run."""
    on_gpus = dist_context.is_distributed and dist_context.device.type == "cuda"
    is_float32 = config.precision == "float32" or (
        config.precision == "auto" and dist_context.device.type != "cuda"
    )
    for stage in config.stages:
        base = stage.lora.base if stage.lora else "auto"
        if base in ("bfloat16", "int4") and is_float32:
            raise ConfigError(
                f"stage {stage.name!r}: lora.base is {base}, and steps are in float32; set"
                " precision=bfloat16 or leave lora.base out."
            )
        if base == "int4" and config.checkpoints.every is not None:
            raise ConfigError(
                f"stage {stage.name!r}: checkpoints.every needs the weights as they are stored, which"
                " lora.base=int4 does not hold; leave it out (states are kept all the same)."
            )
        if base == "int4" and dist_context.is_distributed:
            raise ConfigError(
                f"stage {stage.name!r}: lora.base is int4, which a single process holds whole; start"
                " it without torchrun or set lora.base=bfloat16."
            )
    if config.sharding.cpu_offload and not on_gpus:
        raise ConfigError(
            "sharding.cpu_offload needs GPUs under torchrun; set sharding.cpu_offload=false."
        )
    if dist_context.is_distributed and dist_context.size % (config.sharding.shard_size or 1):
        raise ConfigError(
            f"sharding.shard_size is {config.sharding.shard_size}, which does not divide"
            f" {dist_context.size} processes; choose a divisor, or leave it out."
        )
    for stage in config.stages if dist_context.is_distributed else ():
        divisor = dist_context.size * stage.micro_batch
        # The replies of a round vary in number and are divided as they come.
        if not stage.grpo and stage.batch % divisor:
            raise ConfigError(
                f"stage {stage.name!r}: batch {stage.batch} cannot be divided over"
                f" {dist_context.size} processes in micro-batches of {stage.micro_batch}; choose a"
                f" multiple of {divisor}, or another number of processes."
            )


def fsdp_units(model: Any, family: VisionLanguageFamily) -> list[nn.Module]:
    """The blocks that are sharded and recomputed one by one: vision, then language."""
    return [block for path in family.blocks for block in model.get_submodule(path)]


def set_compiled(blocks: Sequence[nn.Module], *, enabled: bool) -> None:
    """Let blocks be compiled when they are first called; blocks of one class share the result."""
    for block in blocks:
        block._compiled_call_impl = None
        if enabled:
            block.compile()


def set_activation_checkpointing(blocks: Sequence[nn.Module], *, enabled: bool) -> None:
    """Let blocks recompute their activations going backward; only their forward is wrapped."""
    for block in blocks:
        block.__dict__.pop("forward", None)
        if enabled:
            # A method, not a function: a deep copy of the block then calls itself.
            block.__dict__["forward"] = MethodType(_checkpointed_forward, block)


def _checkpointed_forward(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)


def shard_model(
    root: nn.Module,
    model: Any,
    family: VisionLanguageFamily,
    *,
    dist_context: DistributedContext,
    bfloat16: bool,
    sharding: Sharding,
) -> None:
    """Shard `model` block by block, and the rest of it with `root`, whose call is the forward pass.

    Where fewer processes than all share a copy, the copies are equal: gradients are scattered inside
    a copy and then summed over copies (hybrid sharding). The first process has the weights; the
    others may be on the meta device. Gradients are summed.
    """
    parameters, buffers = {}, {}
    if dist_context.is_main:
        parameters = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        buffers = dict(model.named_buffers())
        _move(model, META)
    size = dist_context.size
    shards = sharding.processes_per_copy(size, dist_context.node_size)
    shape, names = ((size,), ("shard",))
    if shards < size:
        shape, names = (size // shards, shards), ("replicate", "shard")
    options: dict[str, Any] = {
        "mesh": init_device_mesh(dist_context.device.type, shape, mesh_dim_names=names),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if bfloat16
        else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if sharding.cpu_offload else OffloadPolicy(),
    }
    if bfloat16 and dist_context.device == CPU:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.__dict__["forward"] = MethodType(_layer_norm_in_float32, module)
    for unit in fsdp_units(model, family):
        _move(unit, dist_context.device)
        fully_shard(unit, **options)
    _move(model, dist_context.device)
    fully_shard(root, **options)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # A step divides its loss by the tokens of the whole batch: gradients are summed, not
            # averaged.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    state_options = StateDictOptions(
        full_state_dict=True, broadcast_from_rank0=True, cpu_offload=sharding.cpu_offload
    )
    set_model_state_dict(model, parameters, options=state_options)
    for name, buffer in model.named_buffers():
        if dist_context.is_main:
            buffer.copy_(buffers[name])
        distributed.broadcast(buffer, src=0)


def _layer_norm_in_float32(norm: nn.LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    """What autocast does on a GPU and leaves out on a CPU, where the two types must not differ."""
    weight, bias = (None if t is None else t.float() for t in (norm.weight, norm.bias))
    return functional.layer_norm(hidden.float(), norm.normalized_shape, weight, bias, norm.eps)


def set_gradient_sync(root: nn.Module, *, is_last: bool, once: bool) -> None:
    """Before a backward pass of a sharded model: whether it is the `last` of an update, and whether
    gradients are reduced `once` then, or scattered in each.
    """
    if isinstance(root, FSDPModule):
        root.set_is_last_backward(is_last)
        root.set_requires_gradient_sync(is_last or not once)
        # Copies of the model are summed at the end in any case.
        root.set_requires_all_reduce(is_last)


def full_state_dict(model: Any) -> dict[str, Any]:
    """Every weight of a sharded model in the first process, on the CPU; nothing in the others."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def _move(module: nn.Module, device: torch.device) -> None:
    """Put the unsharded tensors of a module on `device` without values; shared ones stay shared."""
    replacements: dict[int, Any] = {}
    for submodule in module.modules():
        for tensors in (submodule._parameters, submodule._buffers):
            for name, tensor in tensors.items():
                if tensor is None or tensor.device == device:
                    continue
                if device != META and tensor.device != META:
                    continue
                if id(tensor) not in replacements:
                    empty: Any = torch.empty_like(tensor, device=device)
                    if isinstance(tensor, nn.Parameter):
                        empty = nn.Parameter(empty, tensor.requires_grad)
                    replacements[id(tensor)] = empty
                tensors[name] = replacements[id(tensor)]
