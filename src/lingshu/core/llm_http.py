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

from lingshu.core.adaptive_limiter import AdaptiveLimiter
from lingshu.core.llm_client import Body, ChatResponse, Endpoint, Failure, OpenAIClient

__all__ = ["ChatResponse", "Body", "Endpoint", "Failure", "send_all"]

K = TypeVar("K")

# Outcomes are handed over, and stored, together: a write of its own for each would cost more than
# the request.
FLUSH_DELAY_S = 0.05
MAX_WAIT_S = 60.0
RETRY_STATUSES = {408, 429}
PUSHBACK_STATUSES = {429, 503}
# An address nobody ever answered at is more likely misspelt than busy.
FIRST_CONTACT_RETRIES = 2


def send_all(
    endpoint: Endpoint,
    keys: Iterable[K],
    body: Callable[[K], Body | Failure],
    *,
    is_slow: Callable[[K], bool] | None = None,
) -> Generator[list[tuple[K, ChatResponse | Failure]], None, None]:
    """Post `body(key)` to /chat/completions for every key and yield outcomes in lists, `GATHER_S`
    after the first of each list.

    At most `concurrency` requests are under way, fewer while the endpoint pushes back
    (core/adaptive_limiter.py). `keys` is drawn from and bodies are made when they are sent; those that `slow`
    tells of in another thread. Closing the iterator cancels what is under way.
    """
    results: queue.SimpleQueue[list[tuple[K, ChatResponse | Failure]] | BaseException | None] = (
        queue.SimpleQueue()
    )
    runner: _RequestRunner[K] = _RequestRunner(
        endpoint, keys, body, is_slow or (lambda _: False), results.put
    )
    loop = asyncio.new_event_loop()
    task = loop.create_task(runner.run())

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
            results.put(None)
        except asyncio.CancelledError:
            results.put(None)
        except BaseExceptionGroup as group:  # the first that failed cancelled the rest
            results.put(group.exceptions[0])
        except BaseException as error:
            results.put(error)
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=run, name="lingshu-http", daemon=True)
    thread.start()
    try:
        while (item := results.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        if thread.is_alive():
            _call_threadsafe(loop, task.cancel)
            thread.join()


def _call_threadsafe(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # it closed between the look and the call: there is nothing left to cancel
        return


class _Job(NamedTuple, Generic[K]):
    item: K
    job_index: int
    attempt: int
    # tries that were cut or not answered in time: the endpoint may have done their work
    failed_attempts: int = 0


class _RequestRunner(Generic[K]):
    """One run of requests.

    A request that waits for its next try holds no place: others are asked meanwhile.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        keys: Iterable[K],
        body: Callable[[K], Body | Failure],
        is_slow: Callable[[K], bool],
        put: Callable[[list[tuple[K, ChatResponse | Failure]]], None],
    ) -> None:
        self.body, self.is_slow, self.put = body, is_slow, put
        self.openai_client = OpenAIClient(endpoint)
        self.endpoint, self.limiter = endpoint, AdaptiveLimiter(endpoint.concurrency)
        self.unsent: Iterator[tuple[int, K]] = enumerate(keys)
        self.exhausted = self.closed = False
        self.n_active = self.n_backing_off = 0
        self.retry_queue: deque[_Job[K]] = deque()
        self.buffer: list[tuple[K, ChatResponse | Failure]] = []

    async def run(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(
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
                connector=connector, timeout=timeout, headers=headers, trust_env=False
            )
            async with session as self.http_session, asyncio.TaskGroup() as self.group:
                self.start_workers()
                await self.done.wait()
        finally:
            self.closed = True
            self.flush()

    def start_workers(self) -> None:
        """Start workers for what can be sent now; the end is where nothing is under way, waiting or
        left.
        """
        if self.closed:
            return
        for _ in range(min(self.limiter.limit - self.n_active, self.n_ready())):
            self.n_active += 1
            self.group.create_task(self.worker())
        if self.exhausted and not (self.n_active or self.n_backing_off or self.retry_queue):
            self.done.set()

    def n_ready(self) -> int:
        if self.loop.time() < self.limiter.paused_until:
            return 0
        # Only so many wait for another try: a server that is down is not sent everything once.
        return (
            len(self.retry_queue)
            if self.exhausted or self.n_backing_off > self.limiter.limit
            else self.limiter.limit
        )

    def next_job(self) -> _Job[K] | None:
        if not self.n_ready():
            return None
        if self.retry_queue:
            return self.retry_queue.popleft()
        index, item = next(self.unsent, (-1, None))
        self.exhausted = index < 0
        return None if item is None else _Job(item, index, 0)

    async def worker(self) -> None:
        while self.n_active <= self.limiter.limit and (job := self.next_job()) is not None:
            await self.process(job)
        self.n_active -= 1
        self.start_workers()

    async def process(self, job: _Job[K]) -> None:
        request_body = (
            await asyncio.to_thread(self.body, job.item)
            if self.is_slow(job.item)
            else self.body(job.item)
        )
        if isinstance(request_body, Failure):
            self.deliver(job.item, request_body)
            return
        epoch, started = self.limiter.epoch, self.loop.time()
        outcome, wait = await self.openai_client.send(self.http_session, request_body)
        now = self.loop.time()
        if isinstance(outcome, Failure) and outcome.kind in ("timeout", "broken"):
            job = job._replace(failed_attempts=job.failed_attempts + 1)
        pushback = isinstance(outcome, Failure) and (
            outcome.kind == "timeout" or outcome.status in PUSHBACK_STATUSES
        )
        self.limiter.record(
            epoch,
            now - started,
            pushback=pushback,
            wait=None if wait is None else min(MAX_WAIT_S, wait),
            now=now,
        )
        max_retries = (
            self.endpoint.retries
            if self.openai_client.has_responded
            else min(self.endpoint.retries, FIRST_CONTACT_RETRIES)
        )
        if isinstance(outcome, Failure) and _is_retryable(outcome) and job.attempt < max_retries:
            # One stream of jitter per request, so that waits do not depend on the order of arrival.
            jitter = random.Random(f"{self.endpoint.seed}:{job.index}:{job.attempt}").uniform(
                0.5, 1.5
            )
            backoff = self.endpoint.backoff_s * 2**job.attempt * jitter
            self.n_backing_off += 1
            self.loop.call_later(
                min(MAX_WAIT_S, backoff if wait is None else wait),
                self.requeue,
                job._replace(attempt=job.attempt + 1),
            )
        else:
            self.deliver(
                job.item,
                replace(outcome, failed_attempts=job.failed_attempts)
                if job.failed_attempts
                else outcome,
            )
        if epoch != self.limiter.epoch:
            if now < self.limiter.paused_until:
                self.loop.call_at(self.limiter.paused_until + 0.001, self.start_workers)
            self.start_workers()

    def requeue(self, job: _Job[K]) -> None:
        self.n_backing_off -= 1
        self.retry_queue.append(job)
        self.start_workers()

    def deliver(self, item: K, outcome: ChatResponse | Failure) -> None:
        if not self.buffer:
            self.loop.call_later(FLUSH_DELAY_S, self.flush)
        self.buffer.append((item, outcome))

    def flush(self) -> None:
        if self.buffer:
            self.put(self.buffer)
            self.buffer = []


def _is_retryable(failure: Failure) -> bool:
    if failure.kind == "status":
        return failure.status in RETRY_STATUSES or (failure.status or 0) >= 500
    return failure.kind in ("unreachable", "timeout", "broken")
