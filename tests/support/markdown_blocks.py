"""The fenced blocks of a Markdown page, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

SHELL = {"sh", "bash", "console", "shell"}


@dataclass(frozen=True)
class Block:
    """A fence: its language, what it holds, the file it is to be written to, and why it is not run."""

    line: int
    language: str
    text: str
    title: str | None
    not_run: str | None

    @property
    def runs(self) -> bool:
        return (
            self.not_run is None
            and self.title is None
            and (self.language == "python" or bool(commands(self)))
        )


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"^```(\w*)(.*)$", lines[number])
        if fence is None:
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
        mark = re.match(r"<!-- not run: (.+) -->", lines[number - 1] if number else "")
        title = re.search(r'title="([^"]+)"', fence[2])
        text = "\n".join(lines[number + 1 : end]) + "\n"
        found.append(
            Block(
                number + 1, fence[1], text, title[1] if title else None, mark[1] if mark else None
            )
        )
        number = end + 1
    return found


def commands(block: Block) -> list[list[str]]:
    """The `lingshu` commands of a shell fence, as arguments."""
    if block.language not in SHELL:
        return []
    join_fields = block.text.replace("\\\n", " ")
    lines = (line.removeprefix("$ ").strip() for line in join_fields.splitlines())
    # A "#" inside a word is part of it, as in http://host/v1#name; shlex would cut the line there.
    return [
        shlex.split(re.sub(r"\s#\s.*", "", line))[1:]
        for line in lines
        if line.startswith("lingshu ")
    ]
