"""Trackio, which keeps runs on this machine; configured by its own environment variables."""

from collections.abc import Iterator
from contextlib import contextmanager

from lingshu.core.files import sha256_bytes
from lingshu.train.log import PROJECT, OpenTracker, TrackedRun

LIBRARY = "trackio"


@contextmanager
def open_run(run: TrackedRun) -> Iterator[OpenTracker]:
    import trackio  # pyright: ignore[reportMissingImports] - optional

    # A run is known by its name alone, so the name tells folders apart.
    name = run.run_id or f"{run.name} {sha256_bytes(str(run.out.resolve()).encode())[:8]}"
    trackio.init(project=PROJECT, name=name, resume="allow", config=dict(run.settings))
    try:
        yield OpenTracker(lambda scalars, step: trackio.log(dict(scalars), step=step), name)
    finally:
        trackio.finish()
