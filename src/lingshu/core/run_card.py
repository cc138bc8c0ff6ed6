"""The run card: how an artifact was made, stored in it as `run.json`."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lingshu import __version__
from lingshu.core.files import read_json, write_json

RUN_CARD = "run.json"
TRACKED_PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors"),
    *("numpy", "pyarrow", "pillow"),
)


def installed_versions() -> dict[str, str]:
    """Versions of this package, of Python and of installed libraries that affect results."""
    versions = {"lingshu": __version__, "python": platform.python_version()}
    for name in TRACKED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _command() -> tuple[str, ...]:
    # Without the folder of the program, which may name a user.
    return (Path(sys.argv[0]).name, *sys.argv[1:]) if sys.argv else ()


@dataclass(frozen=True)
class RunCard:
    """What was run and its result.

    `config` is the resolved configuration, `counts` every number of things made, dropped or failed,
    `hashes` the sha256 of inputs and outputs, `notes` what a reader of the artifact must know.
    """

    verb: str
    config: Mapping[str, Any]
    seed: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=installed_versions)
    command: tuple[str, ...] = field(default_factory=_command)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def write_run_card(folder: Path, card: RunCard) -> None:
    write_json(folder / RUN_CARD, asdict(card))


def read_run_card(folder: Path) -> dict[str, Any]:
    """The run card of an artifact.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    return read_json(folder / RUN_CARD)
