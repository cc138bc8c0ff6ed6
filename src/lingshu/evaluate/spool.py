"""Samples and rows on the disk, read one at a time: memory holds only their offsets."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

from lingshu.core.files import storage_errors
from lingshu.core.messages import sample_from_json, sample_to_json
from lingshu.core.types import Sample

T = TypeVar("T")


class DiskSamples(Sequence[Sample]):
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

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._read_sample(i) for i in range(len(self))[index]]
        return self._read_sample(range(len(self))[index])

    def _read_sample(self, index: int) -> Sample:
        start, end = self._offsets[index], self._offsets[index + 1]
        self._file.seek(start)
        return sample_from_json(json.loads(self._file.read(end - start)))

    def __iter__(self) -> Iterator[Sample]:
        return map(self._read_sample, range(len(self)))

    def close(self) -> None:
        self._file.close()


def enumerate_offsets(path: Path, numbered: Iterable[tuple[int, T]]) -> Iterator[tuple[int, T]]:
    """The rows of a JSONL file, given with line numbers from 1, with the byte offset of their line."""
    last_line = 0
    with path.open("rb") as lines:
        for line_number, row in numbered:
            for _ in range(line_number - 1 - last_line):
                lines.readline()
            offset, last_line = lines.tell(), line_number
            lines.readline()
            yield offset, row
