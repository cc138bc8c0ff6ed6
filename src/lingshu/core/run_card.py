"""The run card: how an artifact was made, stored in it as `run.json`."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lingshu import __version__
from lingshu.core.errors import ArtifactError
from lingshu.core.files import read_json, sha256_file, write_json

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


def file_card(path: Path) -> Path:
    """The run card of an artifact that is a single file."""
    return path.with_name(f"{path.name}.{RUN_CARD}")


def write_file_card(path: Path, card: RunCard) -> None:
    """Write the run card of a single file, which names the file's own sha256."""
    card = replace(card, hashes={**card.hashes, path.name: sha256_file(path)})
    write_json(file_card(path), asdict(card))


def check_file_card(path: Path) -> bool:
    """Compare a single file with its run card; False if it has none, or one without its sha256.

    Raises:
        ArtifactError: the file was changed, or the card is damaged.
    """
    if not file_card(path).is_file():
        return False
    hashes = read_json(file_card(path)).get("hashes")
    if not isinstance(hashes, dict):
        raise ArtifactError(f"{file_card(path)} is damaged (hashes); make {path.name} again.")
    if path.name in hashes and hashes[path.name] != sha256_file(path):
        problem = f"{path} does not match its sha256 in {file_card(path).name}"
        raise ArtifactError(f"{problem}; make it again.")
    return path.name in hashes


def write_run_card(folder: Path, card: RunCard) -> None:
    write_json(folder / RUN_CARD, asdict(card))


def read_run_card(folder: Path) -> dict[str, Any]:
    """The run card of an artifact.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    return read_json(folder / RUN_CARD)
