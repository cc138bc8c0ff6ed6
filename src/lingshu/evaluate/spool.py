"""Samples and rows on the disk, read one at a time: memory holds only their offsets."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self, TypeVar, overload

from lingshu.core.files import (
    Closeable,
    enumerate_jsonl,
    enumerate_offsets,
    read_line,
    storage_errors,
)
from lingshu.core.messages import sample_from_json, sample_to_json
from lingshu.core.types import Sample

T = TypeVar("T")


class LazySamples(Sequence[Sample]):
    """`n_samples` samples of which none is held: `read` gives the one at an index."""

    def __init__(self, n_samples: int, read: Callable[[int], Sample]) -> None:
        self._indices, self._read = range(n_samples), read

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._read(i) for i in self._indices[index]]
        return self._read(self._indices[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self._read, self._indices)


class DiskSamples(LazySamples):
    """The given samples in their order, in an unnamed file that is removed with this object.

    It is in `folder`, next to the run's replies, not in a shared folder for temporary files.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, samples: Iterable[Sample], folder: Path) -> None:
        self._offsets = array("Q", [0])
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as this
            for sample in samples:
                self._file.write(json.dumps(sample_to_json(sample), ensure_ascii=False).encode())
                self._offsets.append(self._file.tell())
            self._file.flush()
        super().__init__(len(self._offsets) - 1, self._read_sample)

    def _read_sample(self, index: int) -> Sample:
        start, end = self._offsets[index], self._offsets[index + 1]
        self._file.seek(start)
        return sample_from_json(json.loads(self._file.read(end - start)))

    def close(self) -> None:
        self._file.close()


class RowIndex(Closeable):
    """Rows of JSONL files by name, read on request: only their offsets are held, file by file."""

    def __init__(self) -> None:
        self.offsets: dict[Path, dict[str, int]] = {}
        self._files: dict[Path, IO[bytes]] = {}

    def add_file(self, path: Path, key: str, *, allow_truncated: bool = False) -> Self:
        """Index a file, if it exists, by one of its keys; the first row of a name counts."""
        offsets = self.offsets.setdefault(path, {})
        if path.is_file():
            rows = enumerate_jsonl(path, allow_truncated=allow_truncated)
            for offset, row in enumerate_offsets(path, rows):
                offsets.setdefault(str(row.get(key)), offset)
        return self

    def row(self, name: object) -> dict[str, Any] | None:
        for path, offsets in self.offsets.items():
            if (offset := offsets.get(str(name))) is not None:
                file = self._files.get(path) or self._files.setdefault(path, path.open("rb"))
                return read_line(file, offset)
        return None

    def close(self) -> None:
        for file in self._files.values():
            file.close()
