"""Jobs on a Ray cluster: the same function on the same shards, as tasks.

Without an address, Ray is started on this machine. The output folder and the sources must be on a
disk that every node sees under the same path.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

from lingshu.core.errors import ConfigError, MissingExtraError, one_line
from lingshu.curate.executors import PREFETCH, JobResult, NextJob
from lingshu.curate.worker import Job, SerializedError, Worker


@functools.cache
def _worker() -> Worker:
    """One for each Ray process, which Ray keeps between tasks."""
    return Worker()


def run_job(job: Job) -> SerializedError | None:
    """Run a job in a Ray process."""
    try:
        _worker().run_job(job)
    except Exception as error:
        return SerializedError.from_exception(error)
    return None


class RayBackend:
    """Jobs as Ray tasks, without its retries: the runner must know at which row a process died.

    Raises:
        MissingExtraError: ray is not installed.
        ConfigError: no cluster answers at the address.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise MissingExtraError.of("ray", "ray") from error
        self._ray: Any = ray
        try:
            self._owns_cluster = not ray.is_initialized()
            if self._owns_cluster:
                cpus = None if address else workers or len(os.sched_getaffinity(0))
                ray.init(
                    address=address or "local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            problem = f"no Ray cluster answers at {address} ({one_line(error)[:200]})"
            raise ConfigError(f"{problem}; check --ray-address.") from error
        self._task = ray.remote(num_cpus=1, max_retries=0)(run_job)
        self._n_workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(self, next_job: NextJob) -> Iterator[JobResult]:
        running: dict[Any, Job] = {}
        while True:
            while len(running) < PREFETCH * self._n_workers and (job := next_job()) is not None:
                running[self._task.remote(job)] = job
            if not running:
                return
            finished, _ = self._ray.wait(list(running), num_returns=1)
            job = running.pop(finished[0])
            try:
                yield JobResult(job, error=self._ray.get(finished[0]))
            except self._ray.exceptions.RayTaskError:
                raise
            except self._ray.exceptions.RayError as error:
                yield JobResult(job, crash_reason=type(error).__name__)

    def close(self) -> None:
        if self._owns_cluster:
            self._ray.shutdown()
