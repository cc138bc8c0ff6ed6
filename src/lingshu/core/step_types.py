"""Curation steps: a function of one sample, a decision over all samples, or a teacher's dialogue.

A module of the group `ops` defines `step(**parameters)`, which returns one of the three. Parameters
are plain values with defaults, set by recipes and YAML files and part of a shard's digest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from lingshu.core.cached_client import Request
from lingshu.core.types import Drop, Image, Sample, Sampling

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Signature = Mapping[str, "str | int | float | bytes | None"]


class ImageHeader(Protocol):
    """Format and size of an image, from the first bytes of its file."""

    @property
    def format(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


class Pixels(Protocol):
    """The images of the current sample, each read and decoded once for all steps.

    Every method raises ImageError for an image that cannot be used; the runner counts it as a drop.
    """

    def header(self, image: Image) -> ImageHeader: ...
    def bytes(self, image: Image) -> bytes:
        """The encoded file."""
        ...

    def gray(self, image: Image) -> NDArray[np.uint8]:
        """Height x width."""
        ...

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        """Height x width x 3."""
        ...


# From one sample to itself or its changed form, several (in order, with different ids), or a drop.
# Any other exception than ImageError drops the sample as `error`, and the exit code is then 1.
SampleFunction = Callable[[Sample, Pixels], "Sample | Sequence[Sample] | Drop"]


@dataclass(frozen=True)
class MapStep:
    """A step on one sample at a time, pure and without memory of other samples.

    `open` is called once in each worker process and returns the function; an index or a model is
    built there. `input_files` decide what the step does: their digests are in the shard's key.
    """

    open: Callable[[], SampleFunction]
    input_files: Sequence[str] = ()


@dataclass(frozen=True)
class Decision:
    """A table step's drops and keys added to `meta.extra` of kept rows, by row of the table."""

    drops: Mapping[int, Drop]
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    # counts for the dataset card
    stats: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableStep:
    """A step that decides over all samples at once, from a small signature of each.

    `compute_signature` runs in the workers, shard by shard; `decide` runs once, on one table with
    the columns `id`, `source` (the name in the configuration), `rank` (of that source, 0 first) and
    the signatures' columns, in the order of the samples whatever the sharding. It must not depend on
    anything else, and is not called without samples. `split_sides`: the kept samples are used
    together with those of another run, and both must have one id for a patient.
    """

    compute_signature: Callable[[Sample, Pixels], Signature]
    decide: Callable[[pa.Table], Decision]
    input_files: Sequence[str] = ()
    split_sides: bool = False


# The requests about one sample, round by round: it yields the requests of a round, is sent their
# values in the same order, and returns what a map step returns. A failed request drops the sample.
TeacherDialogue = Generator[
    Sequence[Request[Any]], Sequence[Any], "Sample | Sequence[Sample] | Drop"
]


@dataclass(frozen=True)
class TeacherStep:
    """A step that generates samples of a `kind` with a teacher (curate/synthesize.py).

    `dialogue` must be deterministic: an interrupted run replays it from cached calls. `prompts`
    names the prompts and their digest, which each sample carries.
    """

    kind: str
    dialogue: Callable[[Sample, Pixels], TeacherDialogue]
    prompts: str
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024))


Step = MapStep | TableStep
