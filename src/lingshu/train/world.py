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
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's `rank` of `size`, and its device.

    `talk` carries small numbers and waiting, `saves` what the threads that write states agree on;
    both run on the CPU. They are None without torchrun. `launcher` is the process that started this
    one.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    talk: distributed.ProcessGroup | None = None
    saves: distributed.ProcessGroup | None = None
    launcher: int | None = None

    @property
    def sharded(self) -> bool:
        """Whether torchrun started this process; a model is then sharded, also over a world of one."""
        return self.talk is not None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes in float64; every process gets the same bits."""
        if self.talk is None:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(summed, group=self.talk)
        return summed.tolist()

    def lead(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, which alone does it while the others wait.

        Raises:
            LingshuError: `work` raised it; every process raises it then.
        """
        if self.talk is None:
            return work()
        box: list = [None, None]
        if self.first:
            try:
                box[0] = work()
            except LingshuError as error:
                box[1] = (type(error), str(error))
        distributed.broadcast_object_list(box, src=0, group=self.talk)
        if box[1] is not None:
            kind, message = box[1]
            raise kind.__new__(kind, message)  # an error class may ask for more than its message
        return box[0]

    def share(self, batch: Sequence[T], micro_batch: int) -> list[T]:
        """This process's sequences of a global batch: micro-batches in turn, as neighbours in a
        batch are of similar length.
        """
        starts = range(self.rank * micro_batch, len(batch), self.size * micro_batch)
        return [sequence for start in starts for sequence in batch[start : start + micro_batch]]

    def abandoned(self) -> bool:
        """Whether the launcher is gone, so that nobody would restart or end this process."""
        return self.launcher is not None and os.getppid() != self.launcher


ALONE = World()


@contextmanager
def open_world(device: Literal["auto", "cpu", "cuda"]) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end; without torchrun nothing
    is set up.

    Raises:
        ConfigError: a device that is not here.
        TrainingError: another process of the run ended while this one was waiting for it.
    """
    kind = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here; set device=cpu.")
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield World(device=torch.device(kind))
        return
    place = _place(kind)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    talk, saves = (_group() for _ in range(2))
    whole = False
    try:
        yield World(
            distributed.get_rank(), distributed.get_world_size(), place, talk, saves, os.getppid()
        )
        whole = True
    except (RuntimeError, distributed.DistError) as error:
        if not _lost(error):
            raise
        raise TrainingError(
            "another process of this run ended; see what it or torchrun says of it, then go on with"
            " --resume."
        ) from error
    finally:
        # After an error of this process alone NCCL would wait for the others; the end of the
        # process frees the group too.
        if whole or kind == "cpu":
            distributed.destroy_process_group()


def _group() -> distributed.ProcessGroup:
    made = distributed.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(made, distributed.ProcessGroup)  # every process belongs to it
    return made


def _place(kind: str) -> torch.device:
    if kind == "cpu":
        return CPU
    local = distributed.get_node_local_rank()  # pyright: ignore[reportPrivateImportUsage] - documented
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started more processes on this node than its {torch.cuda.device_count()}"
            " GPUs; lower --nproc-per-node."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _lost(error: Exception) -> bool:
    # gloo tells of a peer that is gone in a plain RuntimeError.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
