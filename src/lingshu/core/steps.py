"""What a curation step is: a function of one sample, or a decision over signatures of all of them.

A module of the `ops` shelf defines `step(**parameters)`, which returns one of the two. Parameters are plain values with
defaults: they stand in recipes and YAML files, and are part of the digest that a finished shard is known by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lingshu.core.nouns import Drop, Image, Sample

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Signature = Mapping[str, "str | int | float | bytes | None"]


class Header(Protocol):
    """What the first bytes of an image file say."""

    @property
    def format(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


class Pixels(Protocol):
    """The images of the sample at hand, read and decoded once however many steps ask.

    Every method raises BadImage for an image that cannot be used; the runner turns that into a counted drop.
    """

    def header(self, image: Image) -> Header: ...
    def bytes(self, image: Image) -> bytes:
        """The encoded file."""
        ...

    def gray(self, image: Image) -> NDArray[np.uint8]:
        """Height x width."""
        ...

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        """Height x width x 3."""
        ...


# One sample in; itself or its changed form, several (the first ones keep the order), or a drop with its reason out.
SampleFunction = Callable[[Sample, Pixels], "Sample | Sequence[Sample] | Drop"]


@dataclass(frozen=True)
class MapStep:
    """A step on one sample at a time, pure and without memory of other samples.

    `open` is called once in each worker process and returns the function; what is costly to build (an index, a model)
    is built there. `reads` names files whose content decides what the step does; their digests join the shard's key.
    """

    open: Callable[[], SampleFunction]
    reads: Sequence[str] = ()


@dataclass(frozen=True)
class Decision:
    """What a table step decided, by row of the signature table: drops, and keys added to `meta.extra` of rows that stay."""

    drops: Mapping[int, Drop]
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    told: Mapping[str, int | float | str] = field(default_factory=dict)  # counts for the dataset card


@dataclass(frozen=True)
class TableStep:
    """A step that decides over all samples at once, from a small signature of each.

    `sign` runs in the workers, shard by shard; `decide` runs once, on one table with the column `id` and the signatures'
    columns, rows in the order of the samples whatever the sharding. It must not depend on anything else.
    """

    sign: Callable[[Sample, Pixels], Signature]
    decide: Callable[[pa.Table], Decision]
    reads: Sequence[str] = ()


Step = MapStep | TableStep
