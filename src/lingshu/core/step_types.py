"""What a curation step is: a function of one sample, a decision over signatures of all of them, or
a talk with a teacher.

A module of the `ops` shelf defines `step(**parameters)`, which returns one of the three. Parameters
are plain values with defaults: they stand in recipes and YAML files, and are part of the digest
that a finished shard is known by.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from lingshu.core.response_format import Request
from lingshu.core.types import Drop, Image, Sample, Sampling

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Signature = Mapping[str, "str | int | float | bytes | None"]


class ImageHeader(Protocol):
    """What the first bytes of an image file say."""

    @property
    def format(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


class Pixels(Protocol):
    """The images of the sample at hand, read and decoded once however many steps ask.

    Every method raises BadImage for an image that cannot be used; the runner turns that into a
    counted drop.
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


# One sample in; itself or its changed form, several (their order is kept, their ids differ), or a
# drop with its reason out. Any other exception than BadImage makes the sample a drop with the
# reason `error`, and the run ends with exit code 1.
SampleFunction = Callable[[Sample, Pixels], "Sample | Sequence[Sample] | Drop"]


@dataclass(frozen=True)
class MapStep:
    """A step on one sample at a time, pure and without memory of other samples.

    `open` is called once in each worker process and returns the function; what is costly to build
    (an index, a model) is built there. `reads` names files whose content decides what the step
    does; their digests join the shard's key.
    """

    open: Callable[[], SampleFunction]
    input_files: Sequence[str] = ()


@dataclass(frozen=True)
class Decision:
    """What a table step decided, by row of the signature table: drops, and keys added to
    `meta.extra` of rows that stay.
    """

    drops: Mapping[int, Drop]
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    # counts for the dataset card
    stats: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableStep:
    """A step that decides over all samples at once, from a small signature of each.

    `sign` runs in the workers, shard by shard; `decide` runs once, on one table with the columns
    `id`, `source` (the name in the configuration), `rank` (of that source, 0 first) and the
    signatures' columns, rows in the order of the samples whatever the sharding. It must not depend
    on anything else. Without any sample, `decide` is not asked. `halves` tells that what it keeps
    is to be used beside what another run keeps: both must know a patient by one id.
    """

    compute_signature: Callable[[Sample, Pixels], Signature]
    decide: Callable[[pa.Table], Decision]
    input_files: Sequence[str] = ()
    split_sides: bool = False


# What a teacher is asked about one sample, round by round: it yields the requests of a round, is
# sent their values in the same order, and returns what a map step returns. Where a request comes to
# nothing the sample is dropped for that reason instead.
TeacherDialogue = Generator[
    Sequence[Request[Any]], Sequence[Any], "Sample | Sequence[Sample] | Drop"
]


@dataclass(frozen=True)
class TeacherStep:
    """A step that makes samples of a `kind` with the help of a teacher, which it is given
    (curate/synthesize.py).

    `talk` must do the same whenever it is sent the same: an interrupted run replays it from
    remembered calls. `prompts` names what it asks with and its digest; a sample carries both.
    """

    kind: str
    dialogue: Callable[[Sample, Pixels], TeacherDialogue]
    prompts: str
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024))


Step = MapStep | TableStep
