"""Writing measurements into docs/benchmarks.md: each bench owns the section between its two marks."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Each table was written by the script named below it, with the date, the machine and the versions of
that run. Speed is quoted as a ratio between runs on one machine; absolute times differ from
machine to machine.
"""


def describe_machine() -> str:
    """Processor, cores and versions on one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    # An environment made for a peer has no torch.
    installed = {found.name for found in metadata.distributions()}
    versions = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("lingshu", "torch", "transformers", "numpy")
        if name in installed
    )
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def record(name: str, title: str, body: str) -> None:
    """Replace the section `name` of the page, or add it at the end."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    day = datetime.now(UTC).date().isoformat()
    section = (
        f"{start}\n## {title}\n\n{body.strip()}\n\n`{Path(sys.argv[0]).name}`, {day},"
        f" {describe_machine()}\n{end}\n"
    )
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    if start in text:
        before, rest = text.split(start, 1)
        text = before + section + rest.split(end + "\n", 1)[1]
    else:
        text = text.rstrip() + "\n\n" + section
    PAGE.write_text(text, encoding="utf-8")


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
