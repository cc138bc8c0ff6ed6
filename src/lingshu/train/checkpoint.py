"""What an interrupted run resumes from, through torch's distributed checkpoint; nothing pickled.

The state is copied to the CPU immediately, and a thread writes it while training continues. A state
is a folder that takes its name by one rename, after every process has written and synced its own
file; the older one is removed only after that. Any number of processes can resume from it:

rank-00000.safetensors ...  what each process holds: full tensors, or its chunks of sharded ones
index.json                  the dtype and shape of each tensor, and the location of its chunks
position.json               the position of the run
manifest.json               bytes and sha256 of each file
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future as TorchFuture

from lingshu.core.errors import ArtifactError, LingshuError, TrainingError, one_line
from lingshu.core.files import (
    MANIFEST,
    check_manifest,
    read_json,
    sha256_file,
    storage_errors,
    sync_file,
    sync_folder,
    write_json,
)
from lingshu.train.distributed import DistributedContext
from lingshu.train.optimizer import AdamW

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
INDEX, POSITION = "index.json", "position.json"


@dataclass
class TrainingPosition:
    """How far a run is: stage index, optimizer steps in it, log bytes, seconds, recorded losses.

    `pending_losses` are those since the last row of the log; `skipped` counts non-finite steps.
    `start` is the digest of the checkpoint that the first stage started from, whose frozen weights
    a state does not repeat. `kept` lists the checkpoints inside the stage (kept_checkpoints.py).
    """

    stage: int
    step: int = 0
    log_bytes: int = 0
    seconds: float = 0.0
    first_losses: list[float] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)
    pending_losses: list[float] = field(default_factory=list)
    skipped: int = 0
    start: str = ""
    kept: list[Mapping[str, Any]] = field(default_factory=list)


class CheckpointWriter:
    """Writes states while training continues, one at a time; as a context it waits for the last."""

    def __init__(self, folder: Path, dist_context: DistributedContext) -> None:
        self.folder, self.dist_context = folder, dist_context
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._pending_write: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @property
    def failed(self) -> bool:
        """Whether a state could not be written; `wait` raises the reason."""
        pending = self._pending_write
        return pending is not None and pending.done() and pending.exception() is not None

    def save(self, position: TrainingPosition, model: Any, optimizer: AdamW) -> None:
        """Copy the state after a step and start to write it; waits for the one before."""
        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))
        staged = stager.stage(
            {**_state_tensors(model, optimizer), **_rng_state(self.dist_context.rank)}
        )
        # asdict copies the losses, which grow while the thread writes.
        name = f"{position.stage:02d}-{position.step:08d}"
        self._pending_write = self._pool.submit(self._write, name, asdict(position), staged)

    def wait(self) -> None:
        """Return once the last state is complete; raises StorageError if the disk refused it."""
        writing, self._pending_write = self._pending_write, None
        if writing is not None:
            writing.result()

    def _write(self, name: str, position: Mapping[str, Any], state: Any) -> None:
        folder, rank = self.folder / name, self.dist_context.rank
        writer = StateWriter(folder, rank, position, on_finished=lambda: self._remove_older(name))
        try:
            with _no_process_warning():
                save(
                    state,
                    storage_writer=writer,
                    process_group=self.dist_context.checkpoint_group,
                    no_dist=not self.dist_context.is_distributed,
                )
        except CheckpointException as error:
            if self.dist_context.is_main:
                shutil.rmtree(writer.temporary, ignore_errors=True)
            raise _cause(error) from error

    def _remove_older(self, name: str) -> None:
        for old_state in [*list_states(self.folder), *self.folder.glob(".*.tmp")]:
            if old_state.name != name:
                shutil.rmtree(old_state)


def list_states(folder: Path) -> list[Path]:
    """Complete states, oldest first; incomplete ones have a hidden name and are left out."""
    return sorted(path for path in folder.glob("[0-9]*-[0-9]*") if path.is_dir())


def find_latest_state(folder: Path) -> tuple[Path, TrainingPosition] | None:
    """The newest state; raises ArtifactError if it does not match its manifest."""
    states = list_states(folder)
    if not states:
        return None
    check_manifest(states[-1])
    return states[-1], TrainingPosition(**read_json(states[-1] / POSITION))


def load_state(
    folder: Path, model: Any, optimizer: AdamW, dist_context: DistributedContext
) -> None:
    """Restore weights, moments and random state; raises ArtifactError if of another model."""
    reader = StateReader(folder)
    for name, parameter in _trained_parameters(model, optimizer).items():
        # A part that no sample has reached yet has no moments.
        if f"step/{name}" in reader.tensors:
            optimizer.state[parameter] = optimizer.create_state(parameter)
    target_state = _state_tensors(model, optimizer)
    rng_state = _rng_state(dist_context.rank)
    rng_tensors = {name: value for name, value in rng_state.items() if name in reader.tensors}
    # States of earlier versions repeat the frozen weights.
    frozen = {f"weight/{name}" for name, _ in model.named_parameters()} - set(target_state)
    stored = {name for name in reader.tensors if not name.startswith("random/")} - frozen
    if mismatched := stored ^ set(target_state):
        raise ArtifactError(
            f"{folder} is of another model ({min(mismatched)}); train again without --resume."
        )
    try:
        with _no_process_warning():
            load(
                {**target_state, **rng_tensors},
                storage_reader=reader,
                process_group=dist_context.control_group,
                no_dist=not dist_context.is_distributed,
            )
    except CheckpointException as error:
        raise ArtifactError(
            f"{folder} is of another model or damaged ({one_line(_cause(error))}); train again"
            " without --resume."
        ) from error
    for name, tensor in rng_tensors.items():
        (torch.cuda.set_rng_state if name.endswith("/cuda") else torch.set_rng_state)(tensor)


@contextmanager
def _no_process_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process")
        yield


def _cause(error: CheckpointException) -> Exception:
    """What failed in one of the processes: an error of ours if there is one."""
    causes = [cause for cause, _ in error.failures.values()]
    for cause in causes:
        if isinstance(cause, LingshuError):
            return cause
    if isinstance(causes[0], Exception):
        return causes[0]
    return TrainingError(f"the state could not be written: {one_line(causes[0])}")


def _state_tensors(model: Any, optimizer: AdamW) -> dict[str, torch.Tensor]:
    """The tensors of a state by name, not copied: what a stage changes, and buffers.

    A weight that two modules share appears once; frozen ones are those of the stage's start.
    """
    trained = _trained_parameters(model, optimizer)
    state = {f"weight/{name}": parameter.detach() for name, parameter in trained.items()}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    state |= {
        f"weight/{name}": tensor for name, tensor in model.state_dict().items() if name in buffers
    }
    for name, parameter in trained.items():
        if parameter in optimizer.state:
            state |= {f"{key}/{name}": optimizer.state[parameter][key] for key in MOMENTS}
    return state


def _trained_parameters(model: Any, optimizer: AdamW) -> dict[str, torch.nn.Parameter]:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if id(p) in trained}


def _rng_state(rank: int) -> dict[str, torch.Tensor]:
    state = {f"random/{rank}/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state[f"random/{rank}/cuda"] = torch.cuda.get_rng_state()
    return state


class _FixedFolder:
    """Methods that torch requires for a checkpoint id, which is not used here."""

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None: ...

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        return True


class StateWriter(_FixedFolder, StorageWriter):
    """Writes one state; `on_finished` is called once it is complete, in the first process only."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        position: Mapping[str, Any],
        *,
        on_finished: Callable[[], None],
    ) -> None:
        super().__init__()
        self.folder, self.rank, self.position = folder, rank, position
        self.on_finished = on_finished
        # One name for all processes; leftovers of an interrupted run under it are removed when the
        # next state is started.
        self.temporary = folder.with_name(f".{folder.name}.tmp")

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None: ...

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        with storage_errors(self.folder):
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        path = self.temporary / f"rank-{self.rank:05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        entries: list[tuple[MetadataIndex, dict[str, Any]]] = []
        for item in plan.items:
            assert item.tensor_data is not None  # a state holds tensors only
            chunk = item.tensor_data.chunk
            key = f"{item.index.fqn}@{','.join(map(str, chunk.offsets))}"
            tensors[key] = planner.resolve_data(item).detach().contiguous()  # pyright: ignore
            offsets, sizes = list(chunk.offsets), list(chunk.sizes)
            entry = {"file": path.name, "key": key, "offsets": offsets, "sizes": sizes}
            entries.append((item.index, entry))
        with storage_errors(self.folder):
            save_file(tensors, path)
            sync_file(path)
            info = _file_info(path)
        results = [WriteResult(index, 0, entry | info) for index, entry in entries]
        return _completed(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: dict[str, dict[str, Any]] = {}
        tensors: dict[str, dict[str, Any]] = {}
        for result in (result for rank_results in results for result in rank_results):
            name = result.index.fqn
            stored = metadata.state_dict_metadata[name]
            assert isinstance(stored, TensorStorageMetadata)
            entry = dict(result.storage_data)
            files[entry["file"]] = {key: entry.pop(key) for key in ("bytes", "sha256")}
            dtype = str(stored.properties.dtype).removeprefix("torch.")
            info = {"dtype": dtype, "shape": list(stored.size), "chunks": []}
            tensors.setdefault(name, info)["chunks"].append(entry)
        with storage_errors(self.folder):
            write_json(self.temporary / INDEX, {"tensors": tensors})
            write_json(self.temporary / POSITION, self.position)
            files |= {name: _file_info(self.temporary / name) for name in (INDEX, POSITION)}
            write_json(self.temporary / MANIFEST, {"files": files})
            self.temporary.rename(self.folder)
            sync_folder(self.folder.parent)
        self.on_finished()


class StateReader(_FixedFolder, StorageReader):
    """Reads the chunks of a state that this process needs, however many processes wrote it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.tensors: dict[str, Any] = read_json(folder / INDEX)["tensors"]

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        for name, info in self.tensors.items():
            chunks = [
                ChunkStorageMetadata(torch.Size(chunk["offsets"]), torch.Size(chunk["sizes"]))
                for chunk in info["chunks"]
            ]
            properties = TensorProperties(getattr(torch, info["dtype"]))
            tensors[name] = TensorStorageMetadata(properties, torch.Size(info["shape"]), chunks)
        return Metadata(tensors)

    def set_up_storage_reader(self, *_: Any, **__: Any) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> TorchFuture[None]:
        files: dict[str, list[tuple[str, Any]]] = {}
        for item in plan.items:
            name, offsets = item.storage_index.fqn, list(item.storage_index.offset or ())
            chunk = next(c for c in self.tensors[name]["chunks"] if c["offsets"] == offsets)
            files.setdefault(chunk["file"], []).append((chunk["key"], item))
        for name, items in files.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for key, item in items:
                    target = planner.resolve_tensor(item)
                    bounds = zip(item.storage_offsets, item.lengths, strict=True)
                    slices = tuple(slice(start, start + length) for start, length in bounds)
                    # A number without dimensions has no slices.
                    target.copy_(file.get_slice(key)[slices] if slices else file.get_tensor(key))
                    planner.commit_tensor(item, target)
        return _completed(None)


def _file_info(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _completed(value: Any) -> TorchFuture[Any]:
    future: TorchFuture[Any] = TorchFuture()
    future.set_result(value)
    return future
