"""Weights & Biases, configured by its own environment variables, such as WANDB_MODE=offline."""

from collections.abc import Iterator
from contextlib import contextmanager

from lingshu.core.errors import ConfigError, one_line
from lingshu.train.log import PROJECT, OpenTracker, TrackedRun

LIBRARY = "wandb"


@contextmanager
def open_run(run: TrackedRun) -> Iterator[OpenTracker]:
    import wandb  # pyright: ignore[reportMissingImports] - optional

    # Only numbers leave the machine: no captured output, code, command line or host description.
    settings = wandb.Settings(
        console="off", silent=True, save_code=False, disable_git=True, x_disable_meta=True
    )
    try:
        opened = wandb.init(
            project=PROJECT,
            name=run.name,
            id=run.run_id,
            resume="allow",
            config=dict(run.settings),
            dir=str(run.out),
            settings=settings,
        )
    except wandb.Error as error:
        raise ConfigError(
            f"wandb did not start ({one_line(error)}); log in, set WANDB_MODE=offline, or leave it"
            " out of report_to."
        ) from error
    exit_code = 1
    try:
        yield OpenTracker(lambda scalars, step: opened.log(dict(scalars), step=step), opened.id)
        exit_code = 0
    finally:
        opened.finish(exit_code=exit_code)
