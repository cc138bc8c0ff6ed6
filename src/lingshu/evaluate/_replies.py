"""Stored replies by key, read one at a time from where they lie."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import IO

from lingshu.core.artefacts import numbered_replies, reply_files
from lingshu.core.nouns import Reply


class ReplyIndex:
    """The reply that counts for each of `keys`: its first answer, else its last error.

    Only its place is kept, and the reply read when it is asked for: all texts together may be
    larger than memory.

    Raises:
        ArtefactError: a row that is none of replies.
    """

    def __init__(self, folder: Path, keys: Container[str]) -> None:
        self._files: dict[Path, IO[bytes]] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        failed: set[str] = set()
        for path in reply_files(folder):
            with path.open("rb") as lines:
                before = 0
                for number, key, reply in numbered_replies(path):
                    for _ in range(number - 1 - before):
                        lines.readline()
                    start, before = lines.tell(), number
                    lines.readline()
                    if key in keys and (key not in self._places or key in failed):
                        self._places[key] = path, start
                        (failed.add if reply.error else failed.discard)(key)

    def get(self, key: str | None) -> Reply | None:
        """The reply to a key; None where there is none."""
        if key is None or key not in self._places:
            return None
        path, start = self._places[key]
        file = self._files.get(path) or self._files.setdefault(path, path.open("rb"))
        file.seek(start)
        row = json.loads(file.readline().decode("utf-8-sig"))
        return Reply(**{name: value for name, value in row.items() if name != "key"})

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> ReplyIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
