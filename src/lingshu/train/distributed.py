"""The processes that train together, as torchrun started them; without it a world of one, in which
nothing is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

import torch
from torch import distributed

from lingshu.core.errors import ConfigError, LingshuError, TrainingError

T = TypeVar("T")
CPU = torch.device("cpu")
# What one process does for all (hashing data, writing a checkpoint) may take hours while the others
# wait; torchrun ends them when a process dies, so waiting long hides nothing.
TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a run: this one's `rank` of `size`, and its device.

    `talk` carries small numbers and waiting, `saves` what the threads that write states agree on;
    both run on the CPU. They are None without torchrun. `launcher` is the process that started this
    one.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    control_group: distributed.ProcessGroup | None = None
    checkpoint_group: distributed.ProcessGroup | None = None
    launcher: int | None = None

    @property
    def is_distributed(self) -> bool:
        """Whether torchrun started this process; a model is then sharded, also over a world of one."""
        return self.control_group is not None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes in float64; every process gets the same bits."""
        if self.control_group is None:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total, group=self.control_group)
        return total.tolist()

    def run_on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, which alone does it while the others wait.

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
        """This process's sequences of a global batch: micro-batches in turn, as neighbours in a
        batch are of similar length.
        """
        starts = range(self.rank * micro_batch, len(batch), self.size * micro_batch)
        return [sequence for start in starts for sequence in batch[start : start + micro_batch]]

    def is_orphaned(self) -> bool:
        """Whether the launcher is gone, so that nobody would restart or end this process."""
        return self.launcher is not None and os.getppid() != self.launcher


SINGLE_PROCESS = DistributedContext()


@contextmanager
def init_distributed(device: Literal["auto", "cpu", "cuda"]) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, and leave them at the end; without torchrun nothing
    is set up.

    Raises:
        ConfigError: a device that is not here.
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
    control_group, checkpoint_group = (_new_gloo_group() for _ in range(2))
    finished_cleanly = False
    try:
        yield DistributedContext(
            distributed.get_rank(),
            distributed.get_world_size(),
            local_device,
            control_group,
            checkpoint_group,
            os.getppid(),
        )
        finished_cleanly = True
    except (RuntimeError, distributed.DistError) as error:
        if not _is_peer_failure(error):
            raise
        raise TrainingError(
            "another process of this run ended; see what it or torchrun says of it, then go on with"
            " --resume."
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
    local_rank = distributed.get_node_local_rank()  # pyright: ignore[reportPrivateImportUsage] - documented
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started more processes on this node than its {torch.cuda.device_count()}"
            " GPUs; lower --nproc-per-node."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _is_peer_failure(error: Exception) -> bool:
    # gloo tells of a peer that is gone in a plain RuntimeError.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
