"""The one client of OpenAI-compatible endpoints: bounded in requests, retries and waits, and as
quick as the server lets it be.

It is used by engines, judges and teachers from synchronous code: `ask_all` runs its own event loop
in a thread, so that a caller inside a notebook or a server needs no care.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from lingshu.core.pace import Pace
from lingshu.core.wire import Answer, Body, Endpoint, Failure, Wire

__all__ = ["Answer", "Body", "Endpoint", "Failure", "ask_all"]

K = TypeVar("K")

# Outcomes are handed over, and stored, together: a write of its own for each would cost more than
# the request.
GATHER_S = 0.05
LONGEST_WAIT_S = 60.0
RETRIED_STATUS = {408, 429}
PUSHED_STATUS = {429, 503}
# An address nobody ever answered at is more likely misspelt than busy.
FIRST_CONTACT_RETRIES = 2


def ask_all(
    endpoint: Endpoint,
    keys: Iterable[K],
    body: Callable[[K], Body | Failure],
    *,
    slow: Callable[[K], bool] | None = None,
) -> Generator[list[tuple[K, Answer | Failure]], None, None]:
    """Post `body(key)` to /chat/completions for every key and yield outcomes in lists, `GATHER_S`
    after the first of each list.

    At most `concurrency` requests are under way, fewer while the endpoint pushes back
    (core/pace.py). `keys` is drawn from and bodies are made when they are sent; those that `slow`
    tells of in another thread. Closing the iterator cancels what is under way.
    """
    arrived: queue.SimpleQueue[list[tuple[K, Answer | Failure]] | BaseException | None] = (
        queue.SimpleQueue()
    )
    run_: _Run[K] = _Run(endpoint, keys, body, slow or (lambda _: False), arrived.put)
    loop = asyncio.new_event_loop()
    work = loop.create_task(run_.run())

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(work)
            arrived.put(None)
        except asyncio.CancelledError:
            arrived.put(None)
        except BaseExceptionGroup as several:  # the first that failed cancelled the rest
            arrived.put(several.exceptions[0])
        except BaseException as error:
            arrived.put(error)
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=run, name="lingshu-http", daemon=True)
    thread.start()
    try:
        while (item := arrived.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        if thread.is_alive():
            _call(loop, work.cancel)
            thread.join()


def _call(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(what)
    except RuntimeError:  # it closed between the look and the call: there is nothing left to cancel
        return


class _Job(NamedTuple, Generic[K]):
    item: K
    number: int
    attempt: int
    # tries that were cut or not answered in time: the endpoint may have done their work
    lost: int = 0


class _Run(Generic[K]):
    """One run of requests.

    A request that waits for its next try holds no place: others are asked meanwhile.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        keys: Iterable[K],
        body: Callable[[K], Body | Failure],
        slow: Callable[[K], bool],
        put: Callable[[list[tuple[K, Answer | Failure]]], None],
    ) -> None:
        self.body, self.slow, self.put = body, slow, put
        self.wire = Wire(endpoint)
        self.endpoint, self.pace = endpoint, Pace(endpoint.concurrency)
        self.fresh: Iterator[tuple[int, K]] = enumerate(keys)
        self.exhausted = self.over = False
        self.active = self.asleep = 0
        self.ripe: deque[_Job[K]] = deque()
        self.gathered: list[tuple[K, Answer | Failure]] = []

    async def run(self) -> None:
        import aiohttp

        limits = aiohttp.ClientTimeout(
            total=self.endpoint.timeout_s, sock_connect=min(30.0, self.endpoint.timeout_s)
        )
        key = self.endpoint.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.loop, self.done = asyncio.get_running_loop(), asyncio.Event()
        connector = aiohttp.TCPConnector(limit=self.endpoint.concurrency)
        try:
            # The environment's proxies are not used: where requests go is what the user wrote,
            # nothing else.
            session = aiohttp.ClientSession(
                connector=connector, timeout=limits, headers=headers, trust_env=False
            )
            async with session as self.client, asyncio.TaskGroup() as self.group:
                self.fill()
                await self.done.wait()
        finally:
            self.over = True
            self.flush()

    def fill(self) -> None:
        """Start workers for what can be sent now; the end is where nothing is under way, waiting or
        left.
        """
        if self.over:
            return
        for _ in range(min(self.pace.limit - self.active, self.ready())):
            self.active += 1
            self.group.create_task(self.work())
        if self.exhausted and not (self.active or self.asleep or self.ripe):
            self.done.set()

    def ready(self) -> int:
        if self.loop.time() < self.pace.paused_until:
            return 0
        # Only so many wait for another try: a server that is down is not sent everything once.
        return (
            len(self.ripe) if self.exhausted or self.asleep > self.pace.limit else self.pace.limit
        )

    def take(self) -> _Job[K] | None:
        if not self.ready():
            return None
        if self.ripe:
            return self.ripe.popleft()
        number, item = next(self.fresh, (-1, None))
        self.exhausted = number < 0
        return None if item is None else _Job(item, number, 0)

    async def work(self) -> None:
        while self.active <= self.pace.limit and (job := self.take()) is not None:
            await self.once(job)
        self.active -= 1
        self.fill()

    async def once(self, job: _Job[K]) -> None:
        made = (
            await asyncio.to_thread(self.body, job.item)
            if self.slow(job.item)
            else self.body(job.item)
        )
        if isinstance(made, Failure):
            self.deliver(job.item, made)
            return
        epoch, began = self.pace.epoch, self.loop.time()
        outcome, wait = await self.wire.once(self.client, made)
        now = self.loop.time()
        if isinstance(outcome, Failure) and outcome.kind in ("timeout", "broken"):
            job = job._replace(lost=job.lost + 1)
        pushed = isinstance(outcome, Failure) and (
            outcome.kind == "timeout" or outcome.status in PUSHED_STATUS
        )
        self.pace.note(
            epoch,
            now - began,
            pushed=pushed,
            wait=None if wait is None else min(LONGEST_WAIT_S, wait),
            now=now,
        )
        tries = (
            self.endpoint.retries
            if self.wire.met
            else min(self.endpoint.retries, FIRST_CONTACT_RETRIES)
        )
        if isinstance(outcome, Failure) and _retried(outcome) and job.attempt < tries:
            # One stream of jitter per request, so that waits do not depend on the order of arrival.
            jitter = random.Random(f"{self.endpoint.seed}:{job.number}:{job.attempt}").uniform(
                0.5, 1.5
            )
            backoff = self.endpoint.backoff_s * 2**job.attempt * jitter
            self.asleep += 1
            self.loop.call_later(
                min(LONGEST_WAIT_S, backoff if wait is None else wait),
                self.wake,
                job._replace(attempt=job.attempt + 1),
            )
        else:
            self.deliver(job.item, replace(outcome, lost=job.lost) if job.lost else outcome)
        if epoch != self.pace.epoch:
            if now < self.pace.paused_until:
                self.loop.call_at(self.pace.paused_until + 0.001, self.fill)
            self.fill()

    def wake(self, job: _Job[K]) -> None:
        self.asleep -= 1
        self.ripe.append(job)
        self.fill()

    def deliver(self, item: K, outcome: Answer | Failure) -> None:
        if not self.gathered:
            self.loop.call_later(GATHER_S, self.flush)
        self.gathered.append((item, outcome))

    def flush(self) -> None:
        if self.gathered:
            self.put(self.gathered)
            self.gathered = []


def _retried(failure: Failure) -> bool:
    if failure.kind == "status":
        return failure.status in RETRIED_STATUS or (failure.status or 0) >= 500
    return failure.kind in ("unreachable", "timeout", "broken")
