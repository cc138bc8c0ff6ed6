"""Where jobs are done on this machine: in processes, or in this one.

A process that dies costs its own job only.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from lingshu.curate.worker import Job, Worker
from lingshu.curate.worker_process import SerializedError, receive, send

NextJob = Callable[[], Job | None]
# Jobs that are read ahead while the workers are busy, for each of them.
PREFETCH = 2


class JobResult(NamedTuple):
    """What became of a job: done, not to be done at all (`fault`), or its process died (`died` says
    how).
    """

    job: Job
    error: SerializedError | None = None
    crash_reason: str | None = None


class Backend(Protocol):
    """Does jobs in any order.

    `take` gives the next one, None when there is none at the moment; after an outcome there may be
    more.
    """

    def run(self, next_job: NextJob) -> Iterator[JobResult]: ...

    def close(self) -> None: ...


class InlineBackend:
    """Does the jobs in this process: for small data. A step that kills its process ends the run."""

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
        command = [sys.executable, "-c", "from lingshu.curate.worker_process import main; main()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.job: Job | None = None

    def submit(self, job: Job) -> None:
        assert self.process.stdin
        self.job = job
        # it died while idle: its output ends, and the job comes back
        with contextlib.suppress(BrokenPipeError):
            send(self.process.stdin, job)  # type: ignore[arg-type]

    def read_result(self) -> JobResult:
        job, self.job = self.job, None
        assert job and self.process.stdout
        try:
            error = receive(self.process.stdout)  # type: ignore[arg-type]
        except EOFError:
            code = self.process.wait()
            return JobResult(
                job, crash_reason=f"signal {-code}" if code < 0 else f"exit code {code}"
            )
        assert error is None or isinstance(error, SerializedError)
        return JobResult(job, error=error)

    def close(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream:
                    stream.close()
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
                # The next shards are cut while the workers are at theirs.
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
                        if job := prefetched.popleft() if prefetched else None:
                            self._start(job, selector)
                    yield result

    def _start(self, job: Job, selector: selectors.BaseSelector) -> None:
        worker = self._idle.pop() if self._idle else _WorkerProcess()
        self._busy.append(worker)
        assert worker.process.stdout
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        worker.submit(job)

    def close(self) -> None:
        """End every process; one that is at work is killed, and what it was writing is never seen."""
        for worker in self._busy:
            worker.close(kill=True)
        for worker in self._idle:
            worker.close(kill=False)
        self._busy, self._idle = [], []
