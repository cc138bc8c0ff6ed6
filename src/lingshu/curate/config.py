"""The configuration of a curation run: its sources and its steps, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lingshu.core.errors import ConfigError, nearest
from lingshu.core.nouns import Access

Plain = str | int | float | bool | None | list[str] | list[int] | list[float] | dict[str, str] | dict[str, int] | dict[str, float]


@dataclass(frozen=True)
class Source:
    """Where samples come from: a reader of the `sources` shelf, its folder or file, and what is known of all its rows.

    `path` None: to be given with `sources.NAME.path=FOLDER`. `options` go to the reader. `licence`, `access`,
    `agreement` and `deidentified` fill what a row does not state for itself; `rank` orders sources where two hold the
    same thing (0 first). `optional` leaves a source out, counted, while it has no path.
    """

    name: str
    reader: str
    path: str | None = None
    options: Mapping[str, Plain] = field(default_factory=dict)
    licence: str | None = None
    access: Access | None = None
    agreement: str | None = None
    deidentified: bool | None = None
    rank: int = 0
    optional: bool = False


@dataclass(frozen=True)
class StepUse:
    """A step of the `ops` shelf with its parameters. `sources` limits it to samples of those; empty means all."""

    name: str  # of this use, unique in the run; reasons in the card are counted under it
    op: str
    params: Mapping[str, Plain] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class CurateConfig:
    """A complete curation run. `shard_rows` samples are one unit of work: done whole, or done again."""

    name: str
    sources: tuple[Source, ...]
    steps: tuple[StepUse, ...]
    shard_rows: int = 512
    workers: int | None = None
    seed: int = 0
    licence: Literal["any", "permissive"] = "any"
    image_format: Literal["keep", "png"] = "keep"

    def __post_init__(self) -> None:
        for kind, names in (("source", [s.name for s in self.sources]), ("step", [s.name for s in self.steps])):
            if len(set(names)) < len(names):
                raise ConfigError(f"{kind}s are named {names}; every name must differ.")
        if not self.sources:
            raise ConfigError("no source is named; a curation needs at least one.")
        known = [source.name for source in self.sources]
        for step in self.steps:
            for name in step.sources:
                if name not in known:
                    raise ConfigError(f"step {step.name!r} is limited to source {name!r}; {nearest(name, known)}")
        if self.shard_rows < 1:
            raise ConfigError(f"shard_rows is {self.shard_rows}; it must be at least 1.")
