"""Stored replies by key, read one at a time from where they lie."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import IO

from lingshu.core.artifacts import enumerate_replies, reply_files
from lingshu.core.types import Reply


class ReplyIndex:
    """The reply that counts for each of `keys`: its first answer, else its last error.

    Only its place is kept, and the reply read when it is asked for: all texts together may be
    larger than memory.

    Raises:
        ArtefactError: a row that is none of replies.
    """

    def __init__(self, folder: Path, keys: Container[str]) -> None:
        self._files: dict[Path, IO[bytes]] = {}
        self._positions: dict[str, tuple[Path, int]] = {}
        failed: set[str] = set()
        for path in reply_files(folder):
            with path.open("rb") as lines:
                last_line = 0
                for line_number, key, reply in enumerate_replies(path):
                    for _ in range(line_number - 1 - last_line):
                        lines.readline()
                    offset, last_line = lines.tell(), line_number
                    lines.readline()
                    if key in keys and (key not in self._positions or key in failed):
                        self._positions[key] = path, offset
                        (failed.add if reply.error else failed.discard)(key)

    def get(self, key: str | None) -> Reply | None:
        """The reply to a key; None where there is none."""
        if key is None or key not in self._positions:
            return None
        path, offset = self._positions[key]
        file = self._files.get(path) or self._files.setdefault(path, path.open("rb"))
        file.seek(offset)
        row = json.loads(file.readline().decode("utf-8-sig"))
        return Reply(**{name: value for name, value in row.items() if name != "key"})

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> ReplyIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
