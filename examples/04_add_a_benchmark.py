"""Bright spots: a benchmark in one file, tried with a model that returns the gold answer: python
04_add_a_benchmark.py OUT

License, revision and link: synthetic data; Apache-2.0.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lingshu.core.messages import user_turn
from lingshu.core.types import Image, Meta, Provenance, Sample, Task
from lingshu.imaging.read import encode_png
from lingshu.scoring import yes_no


def render_sample(seed: int, number: int) -> Sample:
    pixels = np.random.default_rng([seed, number]).integers(0, 40, (56, 56), dtype=np.uint8)
    if number % 2:
        pixels[20:32, 20:32] = 230
    image = Image(data=encode_png(pixels))
    meta = Meta(
        source="synthetic",
        license="Apache-2.0",
        access="open",
        kind="spot",
        group=f"picture-{number}",
    )
    return Sample(
        f"spot-{number}",
        (user_turn("Is there a bright spot?", 1),),
        (image,),
        ("yes" if number % 2 else "no",),
        meta=meta,
    )


def samples(data: Path | None) -> Iterator[Sample]:  # noqa: ARG001 - it makes its own data
    return (render_sample(0, number) for number in range(20))


def synthetic(seed: int) -> list[Sample]:
    return [render_sample(seed + 1, number) for number in range(2)]


TASK = Task(
    name="bright_spots",
    title="Bright spots",
    provenance=Provenance("synthetic", "Apache-2.0", access="open", expected_n=20),
    samples=samples,
    score=yes_no.score,
    synthetic=synthetic,
    facets=("kind",),
)

if __name__ == "__main__":
    from lingshu.cli.main import main

    sys.exit(main(["eval", "echo", __file__, "--out", sys.argv[1]]))
