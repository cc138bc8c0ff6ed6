"""The configuration of a curation or synthesis: its sources and its steps, as data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.types import Access

Plain = str | int | float | bool | None
ParamList = list[str] | list[int] | list[float]
ParamValue = Plain | ParamList | dict[str, str] | dict[str, int] | dict[str, float]


@dataclass(frozen=True)
class Source:
    """Where samples come from: a reader of the group `sources`, its path, and facts about its rows.

    `path` None: to be given with `sources.NAME.path=FOLDER`. `options` are passed to the reader.
    `license`, `access`, `agreement`, `deidentified`, `kind`, `modality` and `language` apply where
    a row does not state its own; a row that states no access counts as private until `access` says
    otherwise. `rank` orders sources that hold the same (0 first); an `optional` one may lack a path.
    """

    name: str
    reader: str
    path: str | None = None
    options: Mapping[str, ParamValue] = field(default_factory=dict)
    license: str | None = None
    access: Access | None = None
    agreement: str | None = None
    deidentified: bool | None = None
    kind: str | None = None
    modality: str | None = None
    language: str | None = None
    rank: int = 0
    optional: bool = False


@dataclass(frozen=True)
class StepConfig:
    """A step of the registry group `ops` with its parameters.

    `sources` limits it to samples of those; empty means all.
    """

    name: str  # unique in the run; drops are counted under it
    op: str
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class CurateConfig:
    """A curation run; `shard_rows` samples are one unit of work, done completely or repeated.

    `workers` is the number of processes: None means one for each core, and 0 works in the calling
    process. `license` "permissive" keeps only rows whose license allows any use for no more than
    attribution. `image_format` "png" re-encodes the pixels of every image and drops all other
    content of its file; "keep" leaves files as they are.
    """

    name: str
    sources: tuple[Source, ...]
    steps: tuple[StepConfig, ...]
    shard_rows: int = 512
    workers: int | None = None
    seed: int = 0
    license: Literal["any", "permissive"] = "any"
    image_format: Literal["keep", "png"] = "keep"

    def __post_init__(self) -> None:
        sources = [source.name for source in self.sources]
        _check_unique("source", sources)
        _check_unique("step", [step.name for step in self.steps])
        check_step_sources(self.steps, sources)
        if not self.sources:
            raise ConfigError("sources is empty; a curation needs at least one source.")
        if self.shard_rows < 1:
            raise ConfigError(f"shard_rows is {self.shard_rows}; it must be at least 1.")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; it must be 0 or more.")


@dataclass(frozen=True)
class SynthesisConfig:
    """A synthesis run: steps that make samples with a teacher; each step sees every row.

    A step's `sources` are the sources that the rows name. `review_rows` of every kind are queued
    for review; a kind of which reviewers reject a larger share than `max_rejected`, or than its own
    limit in `limits`, stops the run. Tokens and cost of all calls are bounded by `token_budget` and
    `cost_budget`; prices are per million tokens, `image_tokens` is the upper bound for an image.
    `max_attempts` is how often a request is sent until its reply is usable.
    """

    name: str
    steps: tuple[StepConfig, ...]
    seed: int = 0
    chunk_rows: int = 512
    max_attempts: int = 3
    token_budget: int | None = None
    cost_budget: float | None = None
    prompt_price: float = 0.0
    reply_price: float = 0.0
    image_tokens: int = 4096
    review_rows: int = 50
    max_rejected: float = 0.1
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("steps is empty; a synthesis needs at least one step.")
        _check_unique("step", [step.name for step in self.steps])
        if self.chunk_rows < 1 or self.max_attempts < 1 or self.review_rows < 0:
            raise ConfigError(
                f"chunk_rows {self.chunk_rows} and max_attempts {self.max_attempts} must be at"
                f" least 1, review_rows {self.review_rows} not negative."
            )
        for name, share in (("max_rejected", self.max_rejected), *self.limits.items()):
            if not 0 <= share <= 1:
                raise ConfigError(f"the limit of {name} is {share}; it must be between 0 and 1.")


def check_step_sources(steps: Sequence[StepConfig], sources: Collection[str]) -> None:
    """Check that every step is limited to known sources.

    Raises:
        ConfigError: a step is limited to a source that is not one of `sources`.
    """
    for step in steps:
        for name in step.sources:
            if name not in sources:
                problem = f"step {step.name!r} is limited to source {name!r}"
                raise ConfigError(f"{problem}; {suggest_name(name, sources)}")


def _check_unique(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ConfigError(f"{kind}s are named {names}; every name must be unique.")
