"""One chat completion from its request to its last byte: a seat at the desk, the question, and the
reply, whole or as events.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.types import AsyncEngine, Reply, RequestHandle, Sampling
from lingshu.imaging.provenance import ImageProvenance, provenance_to_json
from lingshu.inference.answer import NOTICE
from lingshu.serve.events import EventDispatcher, EventQueue, ReplyEvent
from lingshu.serve.media import ImageSources, build_sample, stop_texts
from lingshu.serve.metrics import ServerMetrics
from lingshu.serve.schema import ChatRequest, HTTPError, format_sse, read_request
from lingshu.serve.security import Body

RETRY_AFTER_S = 1
CLIENT_CLOSED_REQUEST = 499  # the status that servers log for a client that left


class RequestLimiter:
    """The questions that are open, at most `seats`, and what was counted."""

    def __init__(self, engine: AsyncEngine, slots: int) -> None:
        self.engine, self.slots, self.n_active, self.metrics = engine, slots, 0, ServerMetrics()

    def check_capacity(self) -> None:
        """Refuse while every seat is taken.

        Raises:
            Refused: 429.
        """
        if self.n_active >= self.slots:
            message = f"{self.slots} questions are open, as many as this server takes; try again."
            raise HTTPError(429, message, code="overloaded", retry_after=RETRY_AFTER_S)


@dataclass
class ChatSession:
    """A question at the desk: who asked, what is heard of it, and when it began."""

    chat_request: ChatRequest
    limiter: RequestLimiter
    body: Body
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    started_at: float = field(default_factory=time.perf_counter)
    image_provenance: tuple[ImageProvenance, ...] = ()
    handle: RequestHandle | None = None
    events: EventQueue | None = None
    status: int = 500
    _disconnected: asyncio.Future[Any] | None = None

    def acquire(self) -> None:
        self.limiter.check_capacity()
        self.limiter.n_active += 1

    def release(self) -> None:
        """Give the seat back; whatever is still being said is given up."""
        self.limiter.n_active -= 1
        self.limiter.metrics.statuses[self.status] += 1
        self.limiter.metrics.observe("request", time.perf_counter() - self.started_at)
        if self.handle is not None:
            self.handle.cancel()
        if self._disconnected is not None:
            self._disconnected.cancel()

    async def until_disconnect(self, work: Awaitable[Any]) -> Any:
        """What `work` gives.

        Raises:
            Refused: the client went away meanwhile; the work is given up.
        """
        disconnected = self._disconnected = self._disconnected or asyncio.ensure_future(
            self._wait_for_disconnect()
        )
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise HTTPError(CLIENT_CLOSED_REQUEST, "the client went away.")
            return task.result()
        finally:
            task.cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self.body.receive())["type"] != "http.disconnect":
            pass
        if self.events is not None:
            self.events.put(HTTPError(CLIENT_CLOSED_REQUEST, "the client went away."))

    async def next_events(self) -> list[ReplyEvent]:
        """What was said since the last call; Refused where the client went away."""
        assert self.events is not None
        return await self.events.next_events()

    def record_usage(self, reply: Reply) -> None:
        self.limiter.metrics.prompt_tokens += reply.prompt_tokens or 0
        self.limiter.metrics.reply_tokens += reply.reply_tokens or 0
        self.status = 200


@dataclass
class ChatEndpoint:
    """What answers POST /v1/chat/completions."""

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
            session = ChatSession(chat_request, self.limiter, body)
            session.acquire()
        except HTTPError as http_error:
            self.limiter.metrics.statuses[http_error.status] += 1
            raise
        is_streaming = False
        try:
            first_events = await self._submit(session)
            if chat_request.stream:
                is_streaming = True
                return EventStreamResponse(self, session, first_events)
            return JSONResponse(await self._full_response(session, first_events))
        except HTTPError as http_error:
            session.status = http_error.status
            raise
        finally:
            if not is_streaming:
                session.release()

    async def _read(self, request: Request, body: Body) -> ChatRequest:
        if (
            request.headers.get("content-type", "").partition(";")[0].strip().lower()
            != "application/json"
        ):
            raise HTTPError(
                415,
                "send JSON, with the header Content-Type: application/json.",
                code="content_type",
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPError(
                415, "compressed bodies are not read; send it as it is.", code="content_encoding"
            )
        self.limiter.check_capacity()
        data = await body.read()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self.workers, lambda: read_request(data, model=self.name, max_tokens=self.max_tokens)
        )

    async def _submit(self, session: ChatSession) -> list[ReplyEvent]:
        """Hand the question in and wait for the first thing said, so that what is wrong with it
        still gets its status.
        """
        sample, session.image_provenance = await session.until_disconnect(
            build_sample(session.chat_request, self.sources, self.workers)
        )
        if self._dispatcher is None:
            self._dispatcher = EventDispatcher(asyncio.get_running_loop())
        session.events = EventQueue(self._dispatcher, final_only=not session.chat_request.stream)
        try:
            session.handle = self.engine.submit(
                sample,
                self._sampling(session.chat_request),
                session.events.on_event,
                stop=stop_texts(session.chat_request.stop),
            )
        except LingshuError as error:
            raise _to_http_error(error) from None
        first_events = await session.until_disconnect(session.next_events())
        self.limiter.metrics.observe("first_token", time.perf_counter() - session.started_at)
        failure = next((item for item in first_events if isinstance(item, LingshuError)), None)
        if failure is not None:
            raise _to_http_error(failure)
        return first_events

    def _sampling(self, chat_request: ChatRequest) -> Sampling:
        return Sampling(
            max_tokens=chat_request.max_completion_tokens
            or chat_request.max_tokens
            or self.max_tokens,
            temperature=chat_request.temperature or 0.0,
            top_p=1.0 if chat_request.top_p is None else chat_request.top_p,
            seed=secrets.randbits(31) if chat_request.seed is None else chat_request.seed,
        )

    async def _full_response(
        self, session: ChatSession, events: Sequence[ReplyEvent]
    ) -> dict[str, Any]:
        reply = next((item for item in events if isinstance(item, Reply)), None)
        assert reply is not None, "a box for a whole reply holds its end alone"
        session.record_usage(reply)
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        return {
            **self._common_fields(session, "chat.completion"),
            "choices": [choice],
            "usage": _usage(reply),
            "lingshu": self._provenance(session),
        }

    def _common_fields(self, session: ChatSession, kind: str) -> dict[str, Any]:
        fingerprint = f"fp_{self.engine.digest[:12]}"
        return {
            "id": session.id,
            "object": kind,
            "created": session.created,
            "model": self.name,
            "system_fingerprint": fingerprint,
        }

    def _provenance(self, session: ChatSession) -> dict[str, Any]:
        info = {"model": self.engine.model, "digest": self.engine.digest, "notice": NOTICE}
        return {
            **info,
            "image_provenance": [provenance_to_json(item) for item in session.image_provenance],
        }


class EventStreamResponse(Response):
    """A reply as server-sent events; it ends with the model's end, or with the client."""

    def __init__(
        self, chat: ChatEndpoint, session: ChatSession, first_events: Sequence[ReplyEvent]
    ) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._endpoint, self._session, self._first_events = chat, session, first_events
        self._chunk_frame: tuple[bytes, bytes] | None = None
        options = session.chat_request.stream_options
        self._include_usage = bool(options and options.include_usage)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - the talk listens for the client
        session = self._session

        async def write(data: bytes, *, more: bool) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            events, opening = (
                list(self._first_events),
                self._chunk({"role": "assistant", "content": ""}),
            )
            while True:
                text = "".join(item for item in events if isinstance(item, str))
                payload = opening + (self._text_chunk(text) if text else b"")
                last_event = events[-1] if not isinstance(events[-1], str) else None
                if last_event is not None:
                    await write(payload + self._final_chunk(last_event), more=False)
                    return
                if payload:
                    await write(payload, more=True)
                events, opening = await session.next_events(), b""
        except HTTPError as http_error:
            session.status = http_error.status
        finally:
            session.release()

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return format_sse(
            {
                **self._endpoint._common_fields(self._session, "chat.completion.chunk"),
                "choices": [choice],
                **usage,
                **more,
            }
        )

    def _text_chunk(self, text: str) -> bytes:
        """A chunk of words; all but the words is the same each time."""
        if self._chunk_frame is None:
            prefix, _, suffix = self._chunk({"content": ""}).partition(b'"content":""')
            self._chunk_frame = prefix + b'"content":', suffix
        return (
            self._chunk_frame[0]
            + json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")
            + self._chunk_frame[1]
        )

    def _final_chunk(self, last_event: ReplyEvent) -> bytes:
        if not isinstance(last_event, Reply):
            assert isinstance(last_event, LingshuError)
            http_error = _to_http_error(last_event)
            self._session.status = http_error.status
            return format_sse(http_error.body)
        self._session.record_usage(last_event)
        provenance = self._endpoint._provenance(self._session)
        chunk = self._chunk({}, last_event.finish, lingshu=provenance)
        if self._include_usage:
            common_fields = self._endpoint._common_fields(self._session, "chat.completion.chunk")
            chunk += format_sse(
                {**common_fields, "choices": [], "usage": _usage(last_event), "lingshu": provenance}
            )
        return chunk + b"data: [DONE]\n\n"


def _usage(reply: Reply) -> dict[str, int]:
    prompt_tokens, reply_tokens = reply.prompt_tokens or 0, reply.reply_tokens or 0
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": reply_tokens,
        "total_tokens": prompt_tokens + reply_tokens,
    }


def _to_http_error(error: LingshuError) -> HTTPError:
    """The question's own fault, told; or the engine's, which the log tells."""
    if isinstance(error, InputError):
        return HTTPError(400, one_line(error)[:300], param="messages", code="invalid_question")
    print(f"lingshu serve: {one_line(error)[:300]}", file=sys.stderr)
    return HTTPError(
        500,
        "the model could not answer; what happened is in the server's log.",
        code="engine_failed",
    )
