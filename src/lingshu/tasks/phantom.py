"""Held-out phantoms: drawn images with checkable answers, needing no download and no patient."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lingshu.core.types import Drop, Provenance, Sample, Task
from lingshu.scoring import auto
from lingshu.sources import phantom

IMAGES = 480  # 40 of each modality
SEED = 0


def samples(data: Path | None) -> Iterator[Sample | Drop]:  # noqa: ARG001 - drawn, not read
    return phantom.question_samples(SEED, "test", IMAGES)


def synthetic(seed: int) -> Sequence[Sample]:
    return list(phantom.question_samples(seed, "validation", 4))


TASK = Task(
    name="phantom",
    title="Held-out phantoms",
    provenance=Provenance("drawn by lingshu.sources.phantom, seed 0, test split", "Apache-2.0"),
    samples=samples,
    score=auto.score,
    synthetic=synthetic,
    facets=("kind", "modality"),
    max_tokens=32,
)
