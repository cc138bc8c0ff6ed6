"""Where jobs run on this machine: in worker processes, or in this process.

A process that dies affects its own job only.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Pipe
from typing import NamedTuple, Protocol

from lingshu.curate.worker import DISCONNECTED, Job, SerializedError, Worker

NextJob = Callable[[], Job | None]
# Jobs that are prepared ahead for each busy worker.
PREFETCH = 2
# There is a process for every core: numpy's matrix library would start a thread for each, which
# spins for a while.
WORKER_PROGRAM = (
    "import os; os.putenv('OPENBLAS_NUM_THREADS', '1'); from lingshu.curate.worker import main;"
    " main()"
)


class JobResult(NamedTuple):
    """A finished job; `error`: it cannot be done, `crash_reason`: its process died."""

    job: Job
    error: SerializedError | None = None
    crash_reason: str | None = None


class Backend(Protocol):
    """Runs jobs in any order.

    `next_job` returns the next one, or None if there is none now; after a result there may be more.
    """

    def run(self, next_job: NextJob) -> Iterator[JobResult]: ...

    def close(self) -> None: ...


class InlineBackend:
    """Runs the jobs in this process, for small data. A step that kills its process ends the run."""

    def __init__(self) -> None:
        self._worker = Worker()

    def run(self, next_job: NextJob) -> Iterator[JobResult]:
        while (job := next_job()) is not None:
            self._worker.run_job(job)
            yield JobResult(job)

    def close(self) -> None:
        self._worker.image_cache.close()


class _WorkerProcess:
    def __init__(self) -> None:
        self.connection, other_end = Pipe()
        handle = other_end.fileno()
        # What a library prints there goes to standard error.
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER_PROGRAM, str(handle)],
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=[handle],
        )
        other_end.close()
        self.job: Job | None = None

    def submit(self, job: Job) -> None:
        self.job = job
        # If it died while idle, there is nothing to receive and the job is returned as crashed.
        with contextlib.suppress(ConnectionError):
            self.connection.send(job)

    def read_result(self) -> JobResult:
        job, self.job = self.job, None
        assert job
        try:
            return JobResult(job, error=self.connection.recv())
        except DISCONNECTED:
            code = self.process.wait()
            reason = f"signal {-code}" if code < 0 else f"exit code {code}"
            return JobResult(job, crash_reason=reason)

    def close(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        self.connection.close()
        self.process.wait()


class ProcessBackend:
    """Up to `workers` processes, started when there is a job for them; a dead one is replaced."""

    def __init__(self, workers: int | None = None) -> None:
        self._n_workers = workers or len(os.sched_getaffinity(0))
        self._idle: list[_WorkerProcess] = []
        self._busy: list[_WorkerProcess] = []

    def run(self, next_job: NextJob) -> Iterator[JobResult]:
        prefetched: deque[Job] = deque()
        with selectors.DefaultSelector() as selector:
            while True:
                while (
                    len(self._busy) < self._n_workers
                    and (job := prefetched.popleft() if prefetched else next_job()) is not None
                ):
                    self._start(job, selector)
                if not self._busy:
                    return
                # The next shards are prepared while the workers are busy.
                events = selector.select(0)
                while (
                    not events
                    and len(prefetched) < PREFETCH * self._n_workers
                    and (job := next_job()) is not None
                ):
                    prefetched.append(job)
                    events = selector.select(0)
                for key, _ in events or selector.select():
                    worker: _WorkerProcess = key.data
                    result = worker.read_result()
                    selector.unregister(key.fileobj)
                    self._busy.remove(worker)
                    if result.crash_reason:
                        worker.close(kill=True)
                    else:
                        self._idle.append(worker)
                        if prefetched:
                            self._start(prefetched.popleft(), selector)
                    yield result

    def _start(self, job: Job, selector: selectors.BaseSelector) -> None:
        worker = self._idle.pop() if self._idle else _WorkerProcess()
        self._busy.append(worker)
        selector.register(worker.connection, selectors.EVENT_READ, worker)
        worker.submit(job)

    def close(self) -> None:
        """End every process; a busy one is killed, and its output never becomes visible."""
        for worker in self._busy:
            worker.close(kill=True)
        for worker in self._idle:
            worker.close(kill=False)
        self._busy, self._idle = [], []
