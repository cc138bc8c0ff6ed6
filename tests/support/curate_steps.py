"""Steps that fail, kill, split and cut, for the tests of the runner; `kind` says which."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Image, Sample
from lingshu.imaging.read import encode_png


def step(*, kind: str = "keep", at: str = "", once: str = "", seed: int = -1) -> MapStep:
    """`at` ends the ids that it happens to; a step with a file `once` kills its process only while
    that file is not there.
    """

    def apply(sample: Sample, pixels: Pixels) -> Sample | Drop | list[Sample]:
        if not sample.id.endswith(at):
            return sample
        if kind == "raise":
            raise ValueError(f"no such thing in {sample.question}")
        if kind == "nothing":
            return []
        if kind == "kill":
            if once and Path(once).exists():
                return sample
            if once:
                Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "kill_driver" and not Path(once).exists():
            Path(once).touch()
            os.kill(os.getppid(), signal.SIGKILL)
        if kind == "split":
            return [replace(sample, id=f"{sample.id}-{n}") for n in range(3)]
        if kind == "same_id":
            return [sample, sample]
        if kind == "crop":
            return replace(
                sample,
                images=tuple(
                    Image(data=encode_png(pixels.rgb(image)[:8, :8].copy()))
                    for image in sample.images
                ),
            )
        if kind == "note":
            return replace(
                sample, meta=replace(sample.meta, extra={**sample.meta.extra, "seed": str(seed)})
            )
        return sample

    return MapStep(lambda: apply)
