"""The client of OpenAI-compatible endpoints: bounded in requests, retries, waits and sizes.

Outcomes are values: a bad answer of an endpoint is never an exception, and no message repeats the
key or what was sent. `send_all` runs its own event loop in a thread, so engines, judges, teachers
call it from synchronous code, notebooks and servers alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import queue
import random
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from lingshu.core.confidence import TokenLogProbs
from lingshu.core.errors import InputError
from lingshu.core.fetch import read_bounded

if TYPE_CHECKING:
    import aiohttp

K = TypeVar("K")
Body = Mapping[str, Any]
# unreachable: no connection; denied: 401, 403; missing: 404; status: another refusal; broken: cut
# or no valid answer; skipped: never sent
FailureKind = Literal[
    "unreachable", "denied", "missing", "status", "timeout", "broken", "oversize", "skipped"
]

MAX_REPLY_BYTES = 8 << 20
ERROR_NAME = re.compile(r"[a-z][a-z0-9_]{2,40}", re.I)
# Outcomes are delivered and stored in batches: a write for each would cost more than the request.
FLUSH_DELAY_S = 0.05
MAX_WAIT_S = 60.0
RETRY_STATUSES = {408, 429}
PUSHBACK_STATUSES = {429, 503}
# An address that never answered is more likely misspelled than busy.
FIRST_CONTACT_RETRIES = 2
INITIAL_LIMIT = 32
# A rare refusal is chance and only repeated; a larger fraction means an overloaded server.
PUSHBACK_FRACTION = 0.05
INCREASE_FRACTION = 0.1


@dataclass(frozen=True)
class Endpoint:
    """A base URL, without `/chat/completions`, and the limits of requests to it.

    `retries` come on top of the first attempt; the wait before them doubles from `backoff_s` with a
    seeded jitter, unless the endpoint says how long to wait.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    timeout_s: float = 120.0
    retries: int = 5
    backoff_s: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        # No message repeats the value: it may be the secret itself.
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("an endpoint is written http(s)://host[:port]/v1.")
        try:
            parts.port  # noqa: B018 - reading it checks it
        except ValueError as error:
            problem = f"the port of {parts.hostname} is not a number up to 65535"
            raise InputError(f"{problem}; write http(s)://host[:port]/v1.") from error
        if parts.username or parts.password or parts.query:
            problem = f"the address of {parts.hostname} has a password or a query"
            raise InputError(f"{problem}; give keys in OPENAI_API_KEY instead.")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError("the API key is empty or has invalid characters; copy it again.")


@dataclass(frozen=True)
class ChatResponse:
    """An endpoint's answer; `finish` is its finish reason ("stop", "length", ...).

    `token_ids` are the tokens of the text, and `log_probs` their log-probabilities, if they were
    requested and the endpoint knows them.
    `failed_attempts` counts earlier attempts whose answer was lost, though it may be charged for.
    """

    text: str
    finish: str | None
    prompt_tokens: int | None
    reply_tokens: int | None
    token_ids: tuple[int, ...] | None = None
    failed_attempts: int = 0
    log_probs: tuple[TokenLogProbs, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why there is no answer after the last attempt; `message` is one line without secrets.

    `failed_attempts` counts the attempts whose answer may have been lost, the last one included.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    failed_attempts: int = 0


Outcome = ChatResponse | Failure


class AdaptiveLimiter:
    """The limit of concurrent requests, between 1 and `max_limit`.

    A round is as many outcomes as the limit allows at once. By Little's law the throughput of a
    round is limit / mean latency. While it does not fall, the limit doubles, until the first
    pushback; from then on it grows by a tenth a round, and each pushback halves it. Outcomes of
    requests that were sent under another limit say nothing about this one and are ignored.
    """

    def __init__(self, max_limit: int) -> None:
        self.max_limit = max(1, max_limit)
        self.limit = min(INITIAL_LIMIT, self.max_limit)
        self.epoch = 0
        self.paused_until = 0.0
        self._doubling = True
        self._throughput = 0.0
        self._start_round()

    def _start_round(self) -> None:
        self._n_answered = self._n_pushback = 0
        self._total_seconds = self._max_wait_s = 0.0

    def record(
        self, epoch: int, seconds: float, *, pushback: bool, wait: float = 0.0, now: float = 0.0
    ) -> None:
        """Record the outcome of a request that was sent under `epoch` and took `seconds`.

        `pushback`: the server is overloaded or timed out; it asks to `wait` so many seconds.
        """
        if epoch != self.epoch:
            return
        if pushback:
            self._n_pushback += 1
            self._max_wait_s = max(self._max_wait_s, wait)
            if self._n_pushback > max(1.0, PUSHBACK_FRACTION * self.limit):
                self._doubling = False
                self.paused_until = now + self._max_wait_s
                self._set_limit(max(1, self.limit // 2), 0.0)
                return
        else:
            self._n_answered += 1
            self._total_seconds += seconds
        if self._n_answered + self._n_pushback >= self.limit:
            self._end_round()

    def _end_round(self) -> None:
        throughput = self.limit * self._n_answered / (self._total_seconds or math.inf)
        if self.limit == self.max_limit or not self._n_answered or throughput < self._throughput:
            self._throughput = throughput
            self._start_round()
            return
        step = self.limit if self._doubling else max(1, int(self.limit * INCREASE_FRACTION))
        self._set_limit(min(self.max_limit, self.limit + step), throughput)

    def _set_limit(self, limit: int, throughput: float) -> None:
        self.limit, self._throughput = limit, throughput
        self.epoch += 1
        self._start_round()


class OpenAIClient:
    """Single requests; `has_responded` says whether the endpoint ever answered."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.url = f"{endpoint.url.rstrip('/')}/chat/completions"
        self.has_responded = False

    async def send(
        self, session: aiohttp.ClientSession, body: Body
    ) -> tuple[Outcome, float | None]:
        """One request: its outcome, and the seconds the endpoint asks to wait before another."""
        import aiohttp

        try:
            async with session.post(self.url, json=body, allow_redirects=False) as response:
                self.has_responded = True
                data = await read_bounded(response, MAX_REPLY_BYTES)
                wait = parse_retry_after(response.headers.get("Retry-After"))
                return self._parse_response(response.status, data), wait
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failure("unreachable", f"no connection ({type(error).__name__})"), None
        except TimeoutError:
            return Failure("timeout", f"no answer within {self.endpoint.timeout_s:g} s"), None
        except (aiohttp.ClientError, OSError) as error:
            return Failure("broken", f"the connection broke ({type(error).__name__})"), None

    def _parse_response(self, status: int, data: bytes | None) -> Outcome:
        if data is None:
            message = f"the answer is longer than {MAX_REPLY_BYTES >> 20} MB"
            return Failure("oversize", message, status)
        if status in (401, 403):
            # Without the server's name for the error, which may repeat parts of the key.
            return Failure("denied", f"HTTP status {status}", status)
        if status != 200:
            kind = "missing" if status == 404 else "status"
            return Failure(kind, f"HTTP status {status}{error_name(data)}", status)
        message = f"the answer is not a chat completion{error_name(data)}"
        return parse_chat_response(data) or Failure("broken", message, status)


def error_name(data: bytes) -> str:
    """The endpoint's own name for the error; its message may repeat what it was sent."""
    try:
        value = json.loads(data)
        error = value.get("error", value) if isinstance(value, dict) else value
        names = [error.get(key) for key in ("code", "type")] if isinstance(error, dict) else []
    except (ValueError, RecursionError):
        return ""
    valid = [name for name in names if isinstance(name, str) and ERROR_NAME.fullmatch(name)]
    return f": {valid[0]}" if valid else ""


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def parse_chat_response(data: bytes) -> ChatResponse | None:
    """A chat completion; None for anything else."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        content = choice["message"].get("content")
        if isinstance(content, list):
            content = "".join(part["text"] for part in content)
        # A server that reasons or refuses may send null: the reply is then empty, or the refusal.
        text = content if content is not None else choice["message"].get("refusal") or ""
        usage = value.get("usage") or {}
        if not isinstance(text, str):
            return None
        text.encode()  # refuse lone surrogates
        finish = choice.get("finish_reason")
        return ChatResponse(
            text,
            finish[:40] if isinstance(finish, str) else None,
            _parse_count(usage.get("prompt_tokens")),
            _parse_count(usage.get("completion_tokens")),
            _parse_token_ids(choice.get("token_ids")),
            log_probs=_parse_log_probs(choice.get("logprobs")),
        )
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _parse_token_ids(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(i) is int and i >= 0 for i in value):
        return None
    return tuple(value) or None


def _parse_log_probs(value: object) -> tuple[TokenLogProbs, ...]:
    """The log-probabilities of a choice; empty where there are none, or any of them is malformed."""
    content = value.get("content") if isinstance(value, Mapping) else None
    try:
        return tuple(
            TokenLogProbs(
                str(token["token"]),
                float(token["logprob"]),
                {str(t["token"]): float(t["logprob"]) for t in token.get("top_logprobs") or ()},
            )
            for token in content or ()
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def _parse_count(value: object) -> int | None:
    return value if type(value) is int else None


def send_all(
    endpoint: Endpoint,
    keys: Iterable[K],
    body: Callable[[K], Body | Failure],
    *,
    is_slow: Callable[[K], bool] | None = None,
) -> Generator[list[tuple[K, Outcome]], None, None]:
    """Post `body(key)` for every key; yields outcomes in lists, `FLUSH_DELAY_S` after their first.

    At most `concurrency` requests are active, fewer while the endpoint pushes back. Keys are taken
    and bodies are built when they are sent; those that `is_slow` in another thread. Closing the
    iterator cancels active requests.
    """
    results: queue.SimpleQueue[list[tuple[K, Outcome]] | BaseException | None] = queue.SimpleQueue()
    runner = _RequestRunner(endpoint, keys, body, is_slow or (lambda _: False), results.put)
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
            with contextlib.suppress(RuntimeError):  # the loop closed in the meantime
                loop.call_soon_threadsafe(task.cancel)
            thread.join()


class _Job(NamedTuple, Generic[K]):
    item: K
    number: int
    attempt: int
    # attempts that broke or timed out: the endpoint may have done their work
    failed_attempts: int = 0


class _RequestRunner(Generic[K]):
    """One run of requests; one that waits for its next attempt does not count as active."""

    def __init__(
        self,
        endpoint: Endpoint,
        keys: Iterable[K],
        body: Callable[[K], Body | Failure],
        is_slow: Callable[[K], bool],
        put: Callable[[list[tuple[K, Outcome]]], None],
    ) -> None:
        self.body, self.is_slow, self.put = body, is_slow, put
        self.openai_client = OpenAIClient(endpoint)
        self.endpoint, self.limiter = endpoint, AdaptiveLimiter(endpoint.concurrency)
        self.unsent: Iterator[tuple[int, K]] = enumerate(keys)
        self.exhausted = self.closed = False
        self.n_active = self.n_backing_off = 0
        self.retry_queue: deque[_Job[K]] = deque()
        self.buffer: list[tuple[K, Outcome]] = []

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
            # Without the environment's proxies: requests go where the user said, nowhere else.
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
        """Start workers for what can be sent now; done when nothing is active, waiting or left."""
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
        # The number of waiting jobs is bounded: a server that is down is not sent everything once.
        if self.exhausted or self.n_backing_off > self.limiter.limit:
            return len(self.retry_queue)
        return self.limiter.limit

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
        if self.is_slow(job.item):
            request_body = await asyncio.to_thread(self.body, job.item)
        else:
            request_body = self.body(job.item)
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
            epoch, now - started, pushback=pushback, wait=min(MAX_WAIT_S, wait or 0.0), now=now
        )
        max_retries = self.endpoint.retries
        if not self.openai_client.has_responded:
            max_retries = min(max_retries, FIRST_CONTACT_RETRIES)
        if isinstance(outcome, Failure) and _is_retryable(outcome) and job.attempt < max_retries:
            # Seeded per attempt, so that waits do not depend on the order of arrival.
            rng = random.Random(f"{self.endpoint.seed}:{job.number}:{job.attempt}")
            backoff = self.endpoint.backoff_s * 2**job.attempt * rng.uniform(0.5, 1.5)
            self.n_backing_off += 1
            self.loop.call_later(
                min(MAX_WAIT_S, backoff if wait is None else wait),
                self.requeue,
                job._replace(attempt=job.attempt + 1),
            )
        elif job.failed_attempts:
            self.deliver(job.item, replace(outcome, failed_attempts=job.failed_attempts))
        else:
            self.deliver(job.item, outcome)
        if epoch != self.limiter.epoch:
            if now < self.limiter.paused_until:
                self.loop.call_at(self.limiter.paused_until + 0.001, self.start_workers)
            self.start_workers()

    def requeue(self, job: _Job[K]) -> None:
        self.n_backing_off -= 1
        self.retry_queue.append(job)
        self.start_workers()

    def deliver(self, item: K, outcome: Outcome) -> None:
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
