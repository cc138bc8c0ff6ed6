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

from lingshu.core.errors import ArtefactError
from lingshu.core.files import MANIFEST, disk
from lingshu.weights.folder import Folder, Place

# Bytes given to the system in one write. For larger ones Linux looks for pages of their size in one
# piece, which took four times as long as the writing where memory was in use (bench/merge.py; ext4,
# Linux 6.18).
SLICE = 1 << 16
# bytes after which the disk is set to work, so that the sync at the end finds little left to do
SYNCED = 64 << 20
# buffers in turn: one is filled while the other is hashed; more of them would leave the processor's
# cache
DEPTH = 2


class Lanes:
    """Two threads, one that syncs and one that hashes, each in the order of what it is given."""

    def __init__(self) -> None:
        self.syncing, self.hashing = (
            ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("sync", "hash")
        )

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lane in (self.syncing, self.hashing):
            lane.shutdown(cancel_futures=error is not None)


class Buffer:
    """Memory that is in use until what was begun with it has ended."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.begun: list[Future[None]] = []

    def begin(self, lane: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        self.begun.append(lane.submit(work))

    def wait(self) -> None:
        """Until it is free; raises what went wrong meanwhile."""
        for future in self.begun:
            future.result()
        self.begun.clear()


class Ring:
    """Buffers that are taken in turn."""

    def __init__(self, size: int, depth: int = DEPTH) -> None:
        self.buffers = [Buffer(size) for _ in range(depth)]
        self.next = 0

    def take(self) -> Buffer:
        buffer = self.buffers[self.next]
        self.next = (self.next + 1) % len(self.buffers)
        buffer.wait()
        return buffer

    def drain(self) -> None:
        for buffer in self.buffers:
            buffer.wait()


class _File:
    """An open source file, hashed as far as it was read from its beginning on."""

    def __init__(self, path: Path, *, hashed: bool) -> None:
        self.handle = os.open(path, os.O_RDONLY)
        self.path, self.digest, self.done = path, hashlib.sha256() if hashed else None, 0


class Reader:
    """Reads the tensors of one folder.

    Its files are hashed from what is read for the merge; what was not read in the order of the file
    is read once more at the end.
    """

    def __init__(self, folder: Folder, lanes: Lanes, *, hashing: bool) -> None:
        self.folder, self._lanes = folder, lanes
        self._files = {name: _File(folder.path / name, hashed=hashing) for name in folder.files}

    def read(self, place: Place, start: int, buffer: Buffer, size: int) -> memoryview:
        """Bytes `start` to `start + size` of a tensor."""
        file, offset = self._files[place.file], place.offset + start
        view = memoryview(buffer.bytes)[:size]
        _fill(file, view, offset)
        if file.digest is not None and offset >= file.done:
            self._catch_up(file, offset)
            digest, file.done = file.digest, offset + size
            buffer.begin(self._lanes.hashing, lambda: digest.update(view))
        return view

    def _catch_up(self, file: _File, until: int) -> None:
        """Hash what lies between the end of what is hashed and `until`, such as the header."""
        assert file.digest is not None
        digest = file.digest
        while file.done < until:
            piece = bytearray(min(1 << 19, until - file.done))
            _fill(file, memoryview(piece), file.done)
            file.done += len(piece)
            self._lanes.hashing.submit(digest.update, piece).result()

    def hashes(self) -> dict[str, str]:
        """sha256 of each file that was hashed, by its name after the folder's label.

        Raises:
            ArtefactError: a file is not what its folder's manifest says.
        """
        found = {}
        for name, file in self._files.items():
            if file.digest is not None:
                self._catch_up(file, file.path.stat().st_size)
                self._lanes.hashing.submit(lambda: None).result()
                found[f"{self.folder.label}/{name}"] = file.digest.hexdigest()
                if self.folder.known.get(name, file.digest.hexdigest()) != file.digest.hexdigest():
                    raise ArtefactError(
                        f"{file.path} does not match its sha256 in {MANIFEST}; copy the folder"
                        " again or make it anew."
                    )
        return found

    def close(self) -> None:
        for file in self._files.values():
            os.close(file.handle)


def _fill(file: _File, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        got = os.preadv(file.handle, [view[done:]], offset + done)
        if got == 0:
            raise ArtefactError(f"{file.path} became shorter while it was read; copy it again.")
        done += got


class Writer:
    """Writes one safetensors file, tensor after tensor in the order of its header, and knows its
    size and sha256.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[str, tuple[int, ...], int]],
        lanes: Lanes,
        *,
        hashing: bool,
    ) -> None:
        """`tensors`: name -> element type, shape, bytes."""
        self.path, self._lanes = path, lanes
        self._digest = hashlib.sha256() if hashing else None
        header = header_bytes(tensors)
        with disk(path):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self.size = 0
            self._append(memoryview(header))
        if self._digest is not None:
            self._digest.update(header)
        self._synced, self._sync = self.size, lanes.syncing.submit(lambda: None)

    def _append(self, view: memoryview) -> None:
        with disk(self.path):
            done = 0
            while done < len(view):
                done += os.pwrite(self._handle, view[done : done + SLICE], self.size + done)
        self.size += done

    def add(self, buffer: Buffer, view: memoryview) -> None:
        """Append `view`, a part of `buffer`, which stays in use until it is hashed."""
        self._append(view)
        digest = self._digest
        if digest is not None:
            buffer.begin(self._lanes.hashing, lambda: digest.update(view))
        if self.size - self._synced >= SYNCED and self._sync.done():
            self._synced, self._sync = self.size, self._lanes.syncing.submit(self._flush)

    def _flush(self) -> None:
        with disk(self.path):
            os.fdatasync(self._handle)

    def finish(self) -> str | None:
        """Wait for the lanes and sync; the file's sha256 where it was hashed."""
        self._sync.result()
        self._lanes.hashing.submit(lambda: None).result()
        with disk(self.path):
            os.fsync(self._handle)
        return self._digest.hexdigest() if self._digest is not None else None

    def close(self) -> None:
        os.close(self._handle)


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """The header of a safetensors file, padded so that the first tensor begins at a multiple of 8
    bytes.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
