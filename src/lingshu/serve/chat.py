"""One chat completion: a slot, the request to the engine, the reply as JSON or events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.types import AsyncEngine, Reply, Sample, Sampling, engine_notes
from lingshu.imaging.provenance import ImageProvenance, provenance_to_json
from lingshu.inference.answer import NOTICE
from lingshu.serve.media import ImageSources, build_sample
from lingshu.serve.schema import (
    CLIENT_CLOSED_REQUEST,
    ChatRequest,
    HTTPError,
    format_sse,
    read_request,
    require_json,
)
from lingshu.serve.security import Body

logger = logging.getLogger(__name__)
ReplyEvent = str | Reply | LingshuError
# Minimum time between two pieces of a streamed reply: a fast small model would otherwise spend its
# time on sending tokens one by one.
MIN_INTERVAL_S = 0.02
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class ServerMetrics:
    """Prometheus metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=BUCKETS_S)
        self.requests = counter(
            "lingshu_requests",
            "Chat completions by the HTTP status they ended with; 499: the client disconnected.",
            ["status"],
        )
        self.prompt_tokens = counter(
            "lingshu_prompt_tokens", "Prompt tokens of completed requests, images included."
        )
        self.reply_tokens = counter("lingshu_reply_tokens", "Tokens of replies.")
        self.first_token_seconds = histogram(
            "lingshu_first_token_seconds",
            "From a request's last byte to its first text (the full text if the engine does not"
            " stream).",
        )
        self.request_seconds = histogram(
            "lingshu_request_seconds", "From a request's last byte to the end of its reply."
        )


class RequestLimiter:
    """Limits the requests that are open at the same time, and counts their outcomes."""

    def __init__(self, slots: int) -> None:
        self.slots, self.metrics = slots, ServerMetrics()
        self._semaphore = asyncio.Semaphore(slots)

    def check_capacity(self) -> None:
        """
        Raises:
            HTTPError: 429, every slot is taken.
        """
        if self._semaphore.locked():
            message = f"{self.slots} requests are open, the maximum of this server; try again."
            raise HTTPError(429, message, code="overloaded", retry_after=1)

    @contextlib.asynccontextmanager
    async def slot(self, body: Body) -> AsyncIterator[None]:
        """Hold a slot for one request; a client that disconnects cancels what is inside.

        Raises:
            HTTPError: no slot is free (429), or the client disconnected (499).
        """
        started_at, status = time.perf_counter(), 500
        try:
            self.check_capacity()
            async with self._semaphore, _cancel_on_disconnect(body):
                yield
            status = 200
        except HTTPError as http_error:
            status = http_error.status
            raise
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.request_seconds.observe(time.perf_counter() - started_at)


@contextlib.asynccontextmanager
async def _cancel_on_disconnect(body: Body) -> AsyncIterator[None]:
    task, disconnected = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal disconnected
        while (await body.receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not disconnected:
            raise
        task.uncancel()
        raise HTTPError(CLIENT_CLOSED_REQUEST, "the client disconnected.") from None
    finally:
        watcher.cancel()


class EventQueue:
    """The events of one request in the event loop; with `final_only` only its last one."""

    def __init__(self, dispatcher: EventDispatcher, *, final_only: bool) -> None:
        self._dispatcher, self._final_only = dispatcher, final_only
        self._events: list[ReplyEvent] = []
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0

    def on_event(self, event: ReplyEvent) -> None:
        """Called by an engine, from any thread."""
        if not (self._final_only and isinstance(event, str)):
            self._dispatcher.publish(self, event)

    def put(self, event: ReplyEvent) -> None:
        """Called in the event loop. The first text and the end are delivered at once."""
        self._events.append(event)
        delay = self._next_at - self._dispatcher.loop.time()
        if not isinstance(event, str) or delay <= 0:
            self._ready.set()
        elif self._timer is None:
            self._timer = self._dispatcher.loop.call_later(delay, self._ready.set)

    async def next_events(self) -> list[ReplyEvent]:
        """All events since the last call, at least one; text at most every `MIN_INTERVAL_S`."""
        await self._ready.wait()
        self._ready.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next_at = self._dispatcher.loop.time() + MIN_INTERVAL_S
        events, self._events = self._events, []
        return events


class EventDispatcher:
    """Carries events from the threads of an engine into one event loop.

    A batch emits a token for each of its requests: one wake-up delivers them all.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._pending: list[tuple[EventQueue, ReplyEvent]] = []

    def publish(self, queue: EventQueue, event: ReplyEvent) -> None:
        with self._lock:
            self._pending.append((queue, event))
            is_first = len(self._pending) == 1
        if is_first and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
        for queue, event in pending:
            queue.put(event)


@dataclass
class ChatEndpoint:
    """Handles POST /v1/chat/completions."""

    engine: AsyncEngine
    name: str
    max_tokens: int
    sources: ImageSources
    limiter: RequestLimiter
    workers: Executor
    _dispatcher: EventDispatcher | None = None

    async def completion(self, request: Request) -> Response:
        """One reply."""
        body: Body = request.scope["state"]["body"]
        try:
            chat_request = await self._read(request, body)
        except HTTPError as http_error:
            self.limiter.metrics.requests.labels(str(http_error.status)).inc()
            raise
        return CompletionResponse(self, chat_request, body)

    async def _read(self, request: Request, body: Body) -> ChatRequest:
        require_json(request.headers.get("content-type"))
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            message = "compressed bodies are not supported; send it uncompressed."
            raise HTTPError(415, message, code="content_encoding")
        self.limiter.check_capacity()
        data = await body.read()
        return await asyncio.get_running_loop().run_in_executor(
            self.workers, lambda: read_request(data, model=self.name, max_tokens=self.max_tokens)
        )

    @contextlib.contextmanager
    def submit(
        self, sample: Sample, sampling: Sampling, *, stop: Sequence[str] = (), final_only: bool
    ) -> Iterator[EventQueue]:
        """The events of a request to the engine, which is cancelled at the end of the `with`.

        Raises:
            LingshuError: the engine refuses the request.
        """
        if self._dispatcher is None:
            self._dispatcher = EventDispatcher(asyncio.get_running_loop())
        queue = EventQueue(self._dispatcher, final_only=final_only)
        handle = self.engine.submit(sample, sampling, queue.on_event, stop=stop)
        try:
            yield queue
        finally:
            handle.cancel()

    async def generate(self, sample: Sample, sampling: Sampling) -> Reply:
        """The complete reply to a request that holds a slot.

        Raises:
            LingshuError: the engine cannot answer.
        """
        with self.submit(sample, sampling, final_only=True) as queue:
            [reply] = await queue.next_events()
        if isinstance(reply, LingshuError):
            raise reply
        assert isinstance(reply, Reply)
        self.record_usage(reply)
        return reply

    def record_usage(self, reply: Reply) -> None:
        self.limiter.metrics.prompt_tokens.inc(reply.prompt_tokens or 0)
        self.limiter.metrics.reply_tokens.inc(reply.reply_tokens or 0)


class CompletionResponse(Response):
    """Generates and sends one reply; it ends with the model's end, or when the client disconnects."""

    def __init__(self, endpoint: ChatEndpoint, chat_request: ChatRequest, body: Body) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._endpoint, self._request, self._body = endpoint, chat_request, body
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self._image_provenance: tuple[ImageProvenance, ...] = ()
        self._chunk_frame: tuple[bytes, bytes] | None = None
        options = chat_request.stream_options
        self._include_usage = bool(options and options.include_usage)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        endpoint, request = self._endpoint, self._request
        is_streaming, response = False, None
        try:
            async with endpoint.limiter.slot(self._body):
                started_at = time.perf_counter()
                sample, self._image_provenance = await build_sample(
                    request, endpoint.sources, endpoint.workers
                )
                with _http_errors(), self._submit(sample) as queue:
                    # The status of the response depends on the first event.
                    events = await queue.next_events()
                    endpoint.limiter.metrics.first_token_seconds.observe(
                        time.perf_counter() - started_at
                    )
                    for event in events:
                        if isinstance(event, LingshuError):
                            raise event
                    if request.stream:
                        is_streaming = True
                        await self._stream(events, queue, send)
                    else:
                        response = JSONResponse(self._completion(events[-1]))
        except HTTPError:
            if not is_streaming:
                raise
        if response is not None:
            # Its slot is free again: a client that reads slowly must not hold it.
            await response(scope, receive, send)

    def _submit(self, sample: Sample) -> contextlib.AbstractContextManager[EventQueue]:
        request = self._request
        sampling = Sampling(
            max_tokens=request.max_completion_tokens
            or request.max_tokens
            or self._endpoint.max_tokens,
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=secrets.randbits(31) if request.seed is None else request.seed,
        )
        stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        return self._endpoint.submit(sample, sampling, stop=stop, final_only=not request.stream)

    async def _stream(self, events: list[ReplyEvent], queue: EventQueue, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        payload = self._chunk({"role": "assistant", "content": ""})
        while True:
            if text := "".join(event for event in events if isinstance(event, str)):
                payload += self._text_chunk(text)
            last_event = events[-1]
            if not isinstance(last_event, str):
                break
            if payload:
                await send({"type": "http.response.body", "body": payload, "more_body": True})
            events, payload = await queue.next_events(), b""
        error = _to_http_error(last_event) if isinstance(last_event, LingshuError) else None
        if isinstance(last_event, Reply):
            payload += self._final_chunks(last_event)
        elif error is not None:
            payload += format_sse(error.body)
        await send({"type": "http.response.body", "body": payload, "more_body": False})
        if error is not None:
            raise error

    def _completion(self, reply: ReplyEvent) -> dict[str, Any]:
        assert isinstance(reply, Reply), "only the end of a reply is delivered"
        self._endpoint.record_usage(reply)
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        return {
            **self._common_fields("chat.completion"),
            "choices": [choice],
            "usage": _usage(reply),
            "lingshu": self._provenance(reply),
        }

    def _common_fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._endpoint.name,
            "system_fingerprint": f"fp_{self._endpoint.engine.digest[:12]}",
        }

    def _provenance(self, reply: Reply) -> dict[str, Any]:
        engine = self._endpoint.engine
        return {
            "model": engine.model,
            "digest": engine.digest,
            "notice": NOTICE,
            "notes": [*reply.scaled_images, *engine_notes(engine)],
            "image_provenance": [provenance_to_json(image) for image in self._image_provenance],
        }

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        common = self._common_fields("chat.completion.chunk")
        return format_sse({**common, "choices": [choice], **usage, **more})

    def _text_chunk(self, text: str) -> bytes:
        """A chunk of text; everything but the text is the same each time."""
        if self._chunk_frame is None:
            prefix, _, suffix = self._chunk({"content": ""}).partition(b'"content":""')
            self._chunk_frame = prefix + b'"content":', suffix
        prefix, suffix = self._chunk_frame
        return prefix + json.dumps(text, ensure_ascii=False).encode("utf-8", "replace") + suffix

    def _final_chunks(self, reply: Reply) -> bytes:
        self._endpoint.record_usage(reply)
        provenance = self._provenance(reply)
        chunks = self._chunk({}, reply.finish, lingshu=provenance)
        if self._include_usage:
            common = self._common_fields("chat.completion.chunk")
            usage = {"choices": [], "usage": _usage(reply), "lingshu": provenance}
            chunks += format_sse({**common, **usage})
        return chunks + b"data: [DONE]\n\n"


def _usage(reply: Reply) -> dict[str, int]:
    prompt_tokens, reply_tokens = reply.prompt_tokens or 0, reply.reply_tokens or 0
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": reply_tokens,
        "total_tokens": prompt_tokens + reply_tokens,
    }


@contextlib.contextmanager
def _http_errors() -> Iterator[None]:
    try:
        yield
    except LingshuError as error:
        raise _to_http_error(error) from None


def _to_http_error(error: LingshuError) -> HTTPError:
    """A client's error with its message; an engine's error goes to the log."""
    if isinstance(error, InputError):
        return HTTPError.invalid(one_line(error)[:300], "invalid_question", "messages")
    logger.error("%s", one_line(error)[:300])
    message = "the model could not answer; what happened is in the server's log."
    return HTTPError(500, message, code="engine_failed")
