"""Safetensors files: headers, and tensors streamed in blocks through a few buffers.

Hashing and syncing run in background threads. Nothing is mapped into memory: pages of a mapped file
count as the program's own, buffers need only a few MB.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import ArtifactError
from lingshu.core.files import storage_errors

# Bytes of one element, by the type names of the safetensors format.
ELEMENT_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
MAX_HEADER_BYTES = 100_000_000  # the format's own bound
# Bytes per write call. For larger ones Linux looks for large contiguous pages, which took four
# times as long as the writing where memory was in use (bench/merge.py; ext4, Linux 6.18).
WRITE_CHUNK_BYTES = 1 << 16
# Bytes after which a sync is started, so that the final sync has little left to do.
SYNC_INTERVAL_BYTES = 64 << 20
# One buffer is filled while the other is hashed; more would not fit the processor's cache.
RING_DEPTH = 2


class TensorLocation(NamedTuple):
    """Where a tensor is stored: file name, first byte in the file, length in bytes."""

    file: str
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]


def read_headers(path: Path) -> dict[str, TensorLocation]:
    """The tensors of a safetensors file in the order of their bytes; their values are not read.

    Raises:
        ArtifactError: the file is missing, not a safetensors file, or its size does not match its
            header.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
            if length > MAX_HEADER_BYTES:
                problem = "is not a safetensors file or is truncated"
                raise ArtifactError(f"{path} {problem}; copy it again.")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        tensors = {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            tensors[name] = TensorLocation(
                path.name, start + first, stop - first, entry["dtype"], shape
            )
            expected_size = math.prod(shape) * ELEMENT_BYTES.get(entry["dtype"], -1)
            if stop - first != expected_size:
                problem = f"tensor {name!r} has offsets that do not fit its shape"
                raise ArtifactError(f"{path}: {problem}; copy the file again.")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} has a damaged header; copy it again.") from error
    size = path.stat().st_size
    expected = max((tensor.offset + tensor.size for tensor in tensors.values()), default=start)
    if size != expected:
        problem = f"has {size} bytes, its header requires {expected}: it is truncated or damaged"
        raise ArtifactError(f"{path} {problem}; copy it again.")
    return tensors


class BackgroundThreads:
    """Two threads, one that syncs and one that hashes, each in the order of submission."""

    def __init__(self) -> None:
        self.sync_executor = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self.hash_executor = ThreadPoolExecutor(1, thread_name_prefix="hash")

    def __enter__(self) -> BackgroundThreads:
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        for executor in (self.sync_executor, self.hash_executor):
            executor.shutdown(cancel_futures=exc_type is not None)


class Buffer:
    """Memory that is in use until the tasks submitted with it have ended."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.pending: list[Future[None]] = []

    def submit(self, executor: ThreadPoolExecutor, task: Callable[[], None]) -> None:
        self.pending.append(executor.submit(task))

    def wait(self) -> None:
        """Wait until it is free; raises what a task raised."""
        for future in self.pending:
            future.result()
        self.pending.clear()


class BufferRing:
    """Buffers that are used in turn."""

    def __init__(self, size: int) -> None:
        self.buffers = [Buffer(size) for _ in range(RING_DEPTH)]
        self.next_index = 0

    def acquire(self) -> Buffer:
        buffer = self.buffers[self.next_index]
        self.next_index = (self.next_index + 1) % RING_DEPTH
        buffer.wait()
        return buffer

    def drain(self) -> None:
        for buffer in self.buffers:
            buffer.wait()


class _SourceFile:
    """An open source file; its first `hashed_bytes` bytes are in its digest."""

    def __init__(self, path: Path, *, compute_hash: bool) -> None:
        self.path, self.fd = path, os.open(path, os.O_RDONLY)
        self.digest, self.hashed_bytes = hashlib.sha256() if compute_hash else None, 0

    def fill(self, view: memoryview, offset: int) -> None:
        n_read = 0
        while n_read < len(view):
            n_bytes = os.preadv(self.fd, [view[n_read:]], offset + n_read)
            if n_bytes == 0:
                raise ArtifactError(f"{self.path} shrank while it was read; copy it again.")
            n_read += n_bytes


class TensorReader:
    """Reads the tensors of one folder and hashes its files from what is read.

    What was not read in the order of the file is read once more at the end.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        threads: BackgroundThreads,
        *,
        compute_hashes: bool,
    ) -> None:
        self._threads = threads
        self._files = {
            name: _SourceFile(folder / name, compute_hash=compute_hashes) for name in files
        }

    def read(self, location: TensorLocation, start: int, buffer: Buffer, size: int) -> memoryview:
        """Bytes `start` to `start + size` of a tensor."""
        file, offset = self._files[location.file], location.offset + start
        view = memoryview(buffer.bytes)[:size]
        file.fill(view, offset)
        if file.digest is not None and offset >= file.hashed_bytes:
            self._catch_up(file, offset)
            digest, file.hashed_bytes = file.digest, offset + size
            buffer.submit(self._threads.hash_executor, lambda: digest.update(view))
        return view

    def _catch_up(self, file: _SourceFile, end: int) -> None:
        """Hash the bytes up to `end` that were not read as tensors, such as the header."""
        assert file.digest is not None
        while file.hashed_bytes < end:
            chunk = bytearray(min(1 << 19, end - file.hashed_bytes))
            file.fill(memoryview(chunk), file.hashed_bytes)
            file.hashed_bytes += len(chunk)
            self._threads.hash_executor.submit(file.digest.update, chunk).result()

    def hashes(self) -> dict[str, str]:
        """The sha256 of each file that was hashed."""
        digests = {}
        for name, file in self._files.items():
            if file.digest is not None:
                self._catch_up(file, file.path.stat().st_size)
                self._threads.hash_executor.submit(lambda: None).result()
                digests[name] = file.digest.hexdigest()
        return digests

    def close(self) -> None:
        for file in self._files.values():
            os.close(file.fd)


class SafetensorsWriter:
    """Writes one safetensors file, tensor after tensor in the order of its header."""

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorLocation],
        threads: BackgroundThreads,
        *,
        compute_hashes: bool,
    ) -> None:
        """Of `tensors`, dtype, shape and size count."""
        self.path, self._threads = path, threads
        self._digest = hashlib.sha256() if compute_hashes else None
        header = _encode_header(tensors)
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
                chunk = view[n_written : n_written + WRITE_CHUNK_BYTES]
                n_written += os.pwrite(self._fd, chunk, self.size + n_written)
        self.size += n_written

    def add(self, buffer: Buffer, view: memoryview) -> None:
        """Append `view`, a part of `buffer`, which stays in use until it is hashed."""
        self._append(view)
        digest = self._digest
        if digest is not None:
            buffer.submit(self._threads.hash_executor, lambda: digest.update(view))
        if self.size - self._synced_size >= SYNC_INTERVAL_BYTES and self._sync_future.done():
            self._synced_size = self.size
            self._sync_future = self._threads.sync_executor.submit(self._flush)

    def _flush(self) -> None:
        with storage_errors(self.path):
            os.fdatasync(self._fd)

    def finish(self) -> str | None:
        """Wait for the threads and sync; the file's sha256 if it was hashed."""
        self._sync_future.result()
        self._threads.hash_executor.submit(lambda: None).result()
        with storage_errors(self.path):
            os.fsync(self._fd)
        return self._digest.hexdigest() if self._digest is not None else None

    def close(self) -> None:
        os.close(self._fd)


def _encode_header(tensors: Mapping[str, TensorLocation]) -> bytes:
    """A header, padded so that the first tensor begins at a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (_, _, size, dtype, shape) in tensors.items():
        offsets = [offset, offset + size]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        offset += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
