"""TensorBoard: event files under OUT/tensorboard."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lingshu.train.log import OpenTracker, TrackedRun

LIBRARY, EXTRA = "tensorboard", "torch"


@contextmanager
def open_run(run: TrackedRun) -> Iterator[OpenTracker]:
    from torch.utils.tensorboard.writer import SummaryWriter

    # A resumed run takes its later steps again; TensorBoard then hides those written before.
    writer = SummaryWriter(str(run.out / "tensorboard"), purge_step=run.steps_done + 1)

    def track(scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    try:
        yield OpenTracker(track)
    finally:
        writer.close()
