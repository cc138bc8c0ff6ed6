"""MLflow, configured by its own environment variables, such as MLFLOW_TRACKING_URI."""

from collections.abc import Iterator
from contextlib import contextmanager

from lingshu.core.errors import ConfigError, one_line
from lingshu.train.log import PROJECT, OpenTracker, TrackedRun

LIBRARY = "mlflow"


@contextmanager
def open_run(run: TrackedRun) -> Iterator[OpenTracker]:
    import mlflow  # pyright: ignore[reportMissingImports] - optional
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports] - optional

    try:
        if not run.run_id:
            mlflow.set_experiment(PROJECT)
        opened = mlflow.start_run(run_id=run.run_id, run_name=run.name)
        if not run.run_id:
            mlflow.log_params(dict(run.settings))
    except MlflowException as error:
        raise ConfigError(
            f"mlflow did not start ({one_line(error)}); check MLFLOW_TRACKING_URI, or leave it out"
            " of report_to."
        ) from error
    with opened:
        yield OpenTracker(
            lambda scalars, step: mlflow.log_metrics(dict(scalars), step=step), opened.info.run_id
        )
