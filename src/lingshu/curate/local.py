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

from lingshu.curate.work import Job, Performer
from lingshu.curate.worker import Fault, receive, send

Take = Callable[[], Job | None]
# Jobs that are read ahead while the workers are busy, for each of them.
AHEAD = 2


class Outcome(NamedTuple):
    """What became of a job: done, not to be done at all (`fault`), or its process died (`died` says
    how).
    """

    job: Job
    fault: Fault | None = None
    died: str | None = None


class Backend(Protocol):
    """Does jobs in any order.

    `take` gives the next one, None when there is none at the moment; after an outcome there may be
    more.
    """

    def run(self, take: Take) -> Iterator[Outcome]: ...

    def close(self) -> None: ...


class Inline:
    """Does the jobs in this process: for small data. A step that kills its process ends the run."""

    def __init__(self) -> None:
        self._performer = Performer()

    def run(self, take: Take) -> Iterator[Outcome]:
        while (job := take()) is not None:
            self._performer.perform(job)
            yield Outcome(job)

    def close(self) -> None:
        self._performer.pictures.close()


class _Worker:
    def __init__(self) -> None:
        command = [sys.executable, "-c", "from lingshu.curate.worker import main; main()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        assert self.process.stdin
        self.job = job
        # it died while idle: its output ends, and the job comes back
        with contextlib.suppress(BrokenPipeError):
            send(self.process.stdin, job)  # type: ignore[arg-type]

    def answer(self) -> Outcome:
        job, self.job = self.job, None
        assert job and self.process.stdout
        try:
            fault = receive(self.process.stdout)  # type: ignore[arg-type]
        except EOFError:
            code = self.process.wait()
            return Outcome(job, died=f"signal {-code}" if code < 0 else f"exit code {code}")
        assert fault is None or isinstance(fault, Fault)
        return Outcome(job, fault=fault)

    def close(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream:
                    stream.close()
        self.process.wait()


class Processes:
    """Up to `workers` processes, started when there is a job for them; a dead one is replaced."""

    def __init__(self, workers: int | None = None) -> None:
        self._count = workers or len(os.sched_getaffinity(0))
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def run(self, take: Take) -> Iterator[Outcome]:
        ahead: deque[Job] = deque()
        with selectors.DefaultSelector() as selector:
            while True:
                while (
                    len(self._busy) < self._count
                    and (job := ahead.popleft() if ahead else take()) is not None
                ):
                    self._start(job, selector)
                if not self._busy:
                    return
                # The next shards are cut while the workers are at theirs.
                ready = selector.select(0)
                while (
                    not ready and len(ahead) < AHEAD * self._count and (job := take()) is not None
                ):
                    ahead.append(job)
                    ready = selector.select(0)
                for key, _ in ready or selector.select():
                    worker: _Worker = key.data
                    outcome = worker.answer()
                    selector.unregister(key.fileobj)
                    self._busy.remove(worker)
                    if outcome.died:
                        worker.close(kill=True)
                    else:
                        self._idle.append(worker)
                        if job := ahead.popleft() if ahead else None:
                            self._start(job, selector)
                    yield outcome

    def _start(self, job: Job, selector: selectors.BaseSelector) -> None:
        worker = self._idle.pop() if self._idle else _Worker()
        self._busy.append(worker)
        assert worker.process.stdout
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        worker.give(job)

    def close(self) -> None:
        """End every process; one that is at work is killed, and what it was writing is never seen."""
        for worker in self._busy:
            worker.close(kill=True)
        for worker in self._idle:
            worker.close(kill=False)
        self._busy, self._idle = [], []
