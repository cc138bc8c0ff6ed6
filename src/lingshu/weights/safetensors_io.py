"""Blocks of tensors from files and into files: through a few buffers, hashed and synced by threads
beside the arithmetic.

Nothing is mapped into memory: pages of a mapped file count as the program's own, buffers of a few
MB are all there is.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from lingshu.core.errors import ArtifactError
from lingshu.core.files import MANIFEST, storage_errors
from lingshu.weights.folder import ModelFolder, TensorLocation

# Bytes given to the system in one write. For larger ones Linux looks for pages of their size in one
# piece, which took four times as long as the writing where memory was in use (bench/merge.py; ext4,
# Linux 6.18).
WRITE_CHUNK_BYTES = 1 << 16
# bytes after which the disk is set to work, so that the sync at the end finds little left to do
SYNC_INTERVAL_BYTES = 64 << 20
# buffers in turn: one is filled while the other is hashed; more of them would leave the processor's
# cache
RING_DEPTH = 2


class BackgroundThreads:
    """Two threads, one that syncs and one that hashes, each in the order of what it is given."""

    def __init__(self) -> None:
        self.sync_executor, self.hash_executor = (
            ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("sync", "hash")
        )

    def __enter__(self) -> BackgroundThreads:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for executor in (self.sync_executor, self.hash_executor):
            executor.shutdown(cancel_futures=exc is not None)


class Buffer:
    """Memory that is in use until what was begun with it has ended."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.pending: list[Future[None]] = []

    def submit(self, executor: ThreadPoolExecutor, task: Callable[[], None]) -> None:
        self.pending.append(executor.submit(task))

    def wait(self) -> None:
        """Until it is free; raises what went wrong meanwhile."""
        for future in self.pending:
            future.result()
        self.pending.clear()


class BufferRing:
    """Buffers that are taken in turn."""

    def __init__(self, size: int, depth: int = RING_DEPTH) -> None:
        self.buffers = [Buffer(size) for _ in range(depth)]
        self.next_index = 0

    def acquire(self) -> Buffer:
        buffer = self.buffers[self.next_index]
        self.next_index = (self.next_index + 1) % len(self.buffers)
        buffer.wait()
        return buffer

    def drain(self) -> None:
        for buffer in self.buffers:
            buffer.wait()


class _SourceFile:
    """An open source file, hashed as far as it was read from its beginning on."""

    def __init__(self, path: Path, *, compute_hash: bool) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.path, self.digest, self.hashed_bytes = (
            path,
            hashlib.sha256() if compute_hash else None,
            0,
        )


class TensorReader:
    """Reads the tensors of one folder.

    Its files are hashed from what is read for the merge; what was not read in the order of the file
    is read once more at the end.
    """

    def __init__(
        self, folder: ModelFolder, threads: BackgroundThreads, *, compute_hashes: bool
    ) -> None:
        self.folder, self._threads = folder, threads
        self._files = {
            name: _SourceFile(folder.path / name, compute_hash=compute_hashes)
            for name in folder.files
        }

    def read(self, location: TensorLocation, start: int, buffer: Buffer, size: int) -> memoryview:
        """Bytes `start` to `start + size` of a tensor."""
        file, offset = self._files[location.file], location.offset + start
        view = memoryview(buffer.bytes)[:size]
        _fill(file, view, offset)
        if file.digest is not None and offset >= file.hashed_bytes:
            self._catch_up(file, offset)
            digest, file.hashed_bytes = file.digest, offset + size
            buffer.submit(self._threads.hash_executor, lambda: digest.update(view))
        return view

    def _catch_up(self, file: _SourceFile, end: int) -> None:
        """Hash what lies between the end of what is hashed and `until`, such as the header."""
        assert file.digest is not None
        digest = file.digest
        while file.hashed_bytes < end:
            chunk = bytearray(min(1 << 19, end - file.hashed_bytes))
            _fill(file, memoryview(chunk), file.hashed_bytes)
            file.hashed_bytes += len(chunk)
            self._threads.hash_executor.submit(digest.update, chunk).result()

    def hashes(self) -> dict[str, str]:
        """sha256 of each file that was hashed, by its name after the folder's label.

        Raises:
            ArtefactError: a file is not what its folder's manifest says.
        """
        digests = {}
        for name, file in self._files.items():
            if file.digest is not None:
                self._catch_up(file, file.path.stat().st_size)
                self._threads.hash_executor.submit(lambda: None).result()
                digests[f"{self.folder.label}/{name}"] = file.digest.hexdigest()
                if (
                    self.folder.known_hashes.get(name, file.digest.hexdigest())
                    != file.digest.hexdigest()
                ):
                    raise ArtifactError(
                        f"{file.path} does not match its sha256 in {MANIFEST}; copy the folder"
                        " again or make it anew."
                    )
        return digests

    def close(self) -> None:
        for file in self._files.values():
            os.close(file.fd)


def _fill(file: _SourceFile, view: memoryview, offset: int) -> None:
    n_read = 0
    while n_read < len(view):
        n_bytes = os.preadv(file.fd, [view[n_read:]], offset + n_read)
        if n_bytes == 0:
            raise ArtifactError(f"{file.path} became shorter while it was read; copy it again.")
        n_read += n_bytes


class SafetensorsWriter:
    """Writes one safetensors file, tensor after tensor in the order of its header, and knows its
    size and sha256.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[str, tuple[int, ...], int]],
        threads: BackgroundThreads,
        *,
        compute_hashes: bool,
    ) -> None:
        """`tensors`: name -> element type, shape, bytes."""
        self.path, self._threads = path, threads
        self._digest = hashlib.sha256() if compute_hashes else None
        header = encode_header(tensors)
        with storage_errors(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self.size = 0
            self._append(memoryview(header))
        if self._digest is not None:
            self._digest.update(header)
        self._synced_size, self._sync_future = self.size, threads.sync_executor.submit(lambda: None)

    def _append(self, view: memoryview) -> None:
        with storage_errors(self.path):
            n_written = 0
            while n_written < len(view):
                n_written += os.pwrite(
                    self._fd, view[n_written : n_written + WRITE_CHUNK_BYTES], self.size + n_written
                )
        self.size += n_written

    def add(self, buffer: Buffer, view: memoryview) -> None:
        """Append `view`, a part of `buffer`, which stays in use until it is hashed."""
        self._append(view)
        digest = self._digest
        if digest is not None:
            buffer.submit(self._threads.hash_executor, lambda: digest.update(view))
        if self.size - self._synced_size >= SYNC_INTERVAL_BYTES and self._sync_future.done():
            self._synced_size, self._sync_future = (
                self.size,
                self._threads.sync_executor.submit(self._flush),
            )

    def _flush(self) -> None:
        with storage_errors(self.path):
            os.fdatasync(self._fd)

    def finish(self) -> str | None:
        """Wait for the lanes and sync; the file's sha256 where it was hashed."""
        self._sync_future.result()
        self._threads.hash_executor.submit(lambda: None).result()
        with storage_errors(self.path):
            os.fsync(self._fd)
        return self._digest.hexdigest() if self._digest is not None else None

    def close(self) -> None:
        os.close(self._fd)


def encode_header(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """The header of a safetensors file, padded so that the first tensor begins at a multiple of 8
    bytes.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
