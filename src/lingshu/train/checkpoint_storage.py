"""How torch's distributed checkpoint stores a state here: safetensors and JSON, nothing pickled,
whole or not at all.

A state is a folder that takes its name by one rename, after every process has written and synced
its own file:

rank-00000.safetensors ...  what each process holds: whole tensors, or its chunks of sharded ones
index.json                  of each tensor its dtype and shape, and where its chunks lie
position.json               where the run stands
manifest.json               bytes and sha256 of each file
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from lingshu.core.files import (
    MANIFEST,
    read_json,
    sha256_file,
    storage_errors,
    sync_file,
    sync_folder,
    write_json,
)

INDEX = "index.json"


class StateWriter(StorageWriter):
    """Writes one state; `finished` is called with its folder's name once it stands, in the first
    process alone.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        position: Mapping[str, Any],
        *,
        on_finished: Callable[[], None],
    ) -> None:
        super().__init__()
        self.folder, self.rank, self.position, self.on_finished = (
            folder,
            rank,
            position,
            on_finished,
        )
        # One name for all processes; what a kill left under it is thrown away when the next state
        # is begun.
        self.temporary = folder.with_name(f".{folder.name}.tmp")

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        del checkpoint_id

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        del is_coordinator

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        with storage_errors(self.folder):
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        path = self.temporary / f"rank-{self.rank:05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        entries: list[tuple[MetadataIndex, dict[str, Any]]] = []
        for item in plan.items:
            assert item.tensor_data is not None  # a state holds tensors only
            chunk = item.tensor_data.chunk
            tensors[key := _key(item.index.fqn, chunk.offsets)] = (
                planner.resolve_data(item).detach().contiguous()  # pyright: ignore
            )
            entries.append(
                (
                    item.index,
                    {
                        "file": path.name,
                        "key": key,
                        "offsets": list(chunk.offsets),
                        "sizes": list(chunk.sizes),
                    },
                )
            )
        with storage_errors(self.folder):
            save_file(tensors, path)
            sync_file(path)
            file_info = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        future: Future[list[WriteResult]] = Future()
        future.set_result([WriteResult(index, 0, entry | file_info) for index, entry in entries])
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: dict[str, dict[str, Any]] = {}
        tensors: dict[str, dict[str, Any]] = {}
        for result in (result for rank_results in results for result in rank_results):
            tensor_metadata = metadata.state_dict_metadata[result.index.fqn]
            assert isinstance(tensor_metadata, TensorStorageMetadata)
            entry = dict(result.storage_data)
            files[entry["file"]] = {name: entry.pop(name) for name in ("bytes", "sha256")}
            dtype = str(tensor_metadata.properties.dtype).removeprefix("torch.")
            tensors.setdefault(
                result.index.fqn,
                {"dtype": dtype, "shape": list(tensor_metadata.size), "chunks": []},
            )["chunks"].append(entry)
        with storage_errors(self.folder):
            write_json(self.temporary / INDEX, {"tensors": tensors})
            write_json(self.temporary / "position.json", self.position)
            for name in (INDEX, "position.json"):
                files[name] = {
                    "bytes": (self.temporary / name).stat().st_size,
                    "sha256": sha256_file(self.temporary / name),
                }
            write_json(self.temporary / MANIFEST, {"files": files})
            self.temporary.rename(self.folder)
            sync_folder(self.folder.parent)
        self.on_finished()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        del checkpoint_id
        return True


class StateReader(StorageReader):
    """Reads the chunks of a state that this process needs, by whichever number of processes it was
    written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.tensors: dict[str, Any] = read_json(folder / INDEX)["tensors"]

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        del checkpoint_id

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        tensor_metadata: dict[str, Any] = {}
        for name, info in self.tensors.items():
            chunks = [
                ChunkStorageMetadata(torch.Size(chunk["offsets"]), torch.Size(chunk["sizes"]))
                for chunk in info["chunks"]
            ]
            tensor_metadata[name] = TensorStorageMetadata(
                TensorProperties(getattr(torch, info["dtype"])), torch.Size(info["shape"]), chunks
            )
        return Metadata(tensor_metadata)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any
    ) -> None:
        del metadata, is_coordinator

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        files: dict[str, list[tuple[str, Any]]] = {}
        for item in plan.items:
            name, offsets = item.storage_index.fqn, list(item.storage_index.offset or ())
            chunk = next(c for c in self.tensors[name]["chunks"] if c["offsets"] == offsets)
            files.setdefault(chunk["file"], []).append((chunk["key"], item))
        for name, read_items in files.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for key, item in read_items:
                    target = planner.resolve_tensor(item)
                    slices = tuple(
                        slice(start, start + length)
                        for start, length in zip(item.storage_offsets, item.lengths, strict=True)
                    )
                    # A number without dimensions has no slices.
                    target.copy_(file.get_slice(key)[slices] if slices else file.get_tensor(key))
                    planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        del checkpoint_id
        return True


def _key(name: str, offsets: torch.Size) -> str:
    return f"{name}@{','.join(map(str, offsets))}"
