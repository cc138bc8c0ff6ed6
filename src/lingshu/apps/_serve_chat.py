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

from lingshu.apps._answering import NOTICE
from lingshu.apps._serve_guard import Body
from lingshu.apps._serve_media import Sources, sample_of, texts
from lingshu.apps._serve_metrics import Metrics
from lingshu.apps._serve_post import Box, Post, Told
from lingshu.apps._serve_wire import ChatRequest, Refused, event, read_request
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.nouns import Asked, Live, Reply, Sampling
from lingshu.imaging.seen import Seen, seen_to_json

RETRY_S = 1
GONE = 499  # the status that servers log for a client that left


class Desk:
    """The questions that are open, at most `seats`, and what was counted."""

    def __init__(self, live: Live, seats: int) -> None:
        self.live, self.seats, self.taken, self.metrics = live, seats, 0, Metrics()

    def check(self) -> None:
        """Refuse while every seat is taken.

        Raises:
            Refused: 429.
        """
        if self.taken >= self.seats:
            message = f"{self.seats} questions are open, as many as this server takes; try again."
            raise Refused(429, message, code="overloaded", retry_after=RETRY_S)


@dataclass
class Talk:
    """A question at the desk: who asked, what is heard of it, and when it began."""

    asked: ChatRequest
    desk: Desk
    body: Body
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    began: float = field(default_factory=time.perf_counter)
    seen: tuple[Seen, ...] = ()
    handle: Asked | None = None
    box: Box | None = None
    status: int = 500
    _gone: asyncio.Future[Any] | None = None

    def sit(self) -> None:
        self.desk.check()
        self.desk.taken += 1

    def rise(self) -> None:
        """Give the seat back; whatever is still being said is given up."""
        self.desk.taken -= 1
        self.desk.metrics.statuses[self.status] += 1
        self.desk.metrics.took("request", time.perf_counter() - self.began)
        if self.handle is not None:
            self.handle.cancel()
        if self._gone is not None:
            self._gone.cancel()

    async def unless_gone(self, work: Awaitable[Any]) -> Any:
        """What `work` gives.

        Raises:
            Refused: the client went away meanwhile; the work is given up.
        """
        gone = self._gone = self._gone or asyncio.ensure_future(self._leaving())
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Refused(GONE, "the client went away.")
            return task.result()
        finally:
            task.cancel()

    async def _leaving(self) -> None:
        while (await self.body.receive())["type"] != "http.disconnect":
            pass
        if self.box is not None:
            self.box.arrived(Refused(GONE, "the client went away."))

    async def hear(self) -> list[Told]:
        """What was said since the last call; Refused where the client went away."""
        assert self.box is not None
        return await self.box.next()

    def count(self, reply: Reply) -> None:
        self.desk.metrics.prompt_tokens += reply.prompt_tokens or 0
        self.desk.metrics.reply_tokens += reply.reply_tokens or 0
        self.status = 200


@dataclass
class Chat:
    """What answers POST /v1/chat/completions."""

    live: Live
    name: str
    max_tokens: int
    sources: Sources
    desk: Desk
    workers: Executor
    _post: Post | None = None

    async def completion(self, request: Request) -> Response:
        """One reply."""
        body: Body = request.scope["state"]["body"]
        try:
            asked = await self._read(request, body)
            talk = Talk(asked, self.desk, body)
            talk.sit()
        except Refused as refused:
            self.desk.metrics.statuses[refused.status] += 1
            raise
        streaming = False
        try:
            first = await self._ask(talk)
            if asked.stream:
                streaming = True
                return Events(self, talk, first)
            return JSONResponse(await self._whole(talk, first))
        except Refused as refused:
            talk.status = refused.status
            raise
        finally:
            if not streaming:
                talk.rise()

    async def _read(self, request: Request, body: Body) -> ChatRequest:
        if (
            request.headers.get("content-type", "").partition(";")[0].strip().lower()
            != "application/json"
        ):
            raise Refused(
                415,
                "send JSON, with the header Content-Type: application/json.",
                code="content_type",
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(
                415, "compressed bodies are not read; send it as it is.", code="content_encoding"
            )
        self.desk.check()
        data = await body.read()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self.workers, lambda: read_request(data, model=self.name, max_tokens=self.max_tokens)
        )

    async def _ask(self, talk: Talk) -> list[Told]:
        """Hand the question in and wait for the first thing said, so that what is wrong with it
        still gets its status.
        """
        sample, talk.seen = await talk.unless_gone(
            sample_of(talk.asked, self.sources, self.workers)
        )
        if self._post is None:
            self._post = Post(asyncio.get_running_loop())
        talk.box = Box(self._post, whole=not talk.asked.stream)
        try:
            talk.handle = self.live.submit(
                sample, self._sampling(talk.asked), talk.box.heard, stop=texts(talk.asked.stop)
            )
        except LingshuError as error:
            raise _failed(error) from None
        first = await talk.unless_gone(talk.hear())
        self.desk.metrics.took("first_token", time.perf_counter() - talk.began)
        failure = next((one for one in first if isinstance(one, LingshuError)), None)
        if failure is not None:
            raise _failed(failure)
        return first

    def _sampling(self, asked: ChatRequest) -> Sampling:
        return Sampling(
            max_tokens=asked.max_completion_tokens or asked.max_tokens or self.max_tokens,
            temperature=asked.temperature or 0.0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=secrets.randbits(31) if asked.seed is None else asked.seed,
        )

    async def _whole(self, talk: Talk, told: Sequence[Told]) -> dict[str, Any]:
        reply = next((one for one in told if isinstance(one, Reply)), None)
        assert reply is not None, "a box for a whole reply holds its end alone"
        talk.count(reply)
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        return {
            **self._head(talk, "chat.completion"),
            "choices": [choice],
            "usage": _usage(reply),
            "lingshu": self._provenance(talk),
        }

    def _head(self, talk: Talk, kind: str) -> dict[str, Any]:
        fingerprint = f"fp_{self.live.digest[:12]}"
        return {
            "id": talk.id,
            "object": kind,
            "created": talk.created,
            "model": self.name,
            "system_fingerprint": fingerprint,
        }

    def _provenance(self, talk: Talk) -> dict[str, Any]:
        facts = {"model": self.live.model, "digest": self.live.digest, "notice": NOTICE}
        return {**facts, "seen": [seen_to_json(one) for one in talk.seen]}


class Events(Response):
    """A reply as server-sent events; it ends with the model's end, or with the client."""

    def __init__(self, chat: Chat, talk: Talk, first: Sequence[Told]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._chat, self._talk, self._first = chat, talk, first
        self._around: tuple[bytes, bytes] | None = None
        options = talk.asked.stream_options
        self._wants_usage = bool(options and options.include_usage)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - the talk listens for the client
        talk = self._talk

        async def write(data: bytes, *, more: bool) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            told, opening = list(self._first), self._chunk({"role": "assistant", "content": ""})
            while True:
                text = "".join(one for one in told if isinstance(one, str))
                said = opening + (self._piece(text) if text else b"")
                end = told[-1] if not isinstance(told[-1], str) else None
                if end is not None:
                    await write(said + self._end(end), more=False)
                    return
                if said:
                    await write(said, more=True)
                told, opening = await talk.hear(), b""
        except Refused as refused:
            talk.status = refused.status
        finally:
            talk.rise()

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._wants_usage else {}
        return event(
            {
                **self._chat._head(self._talk, "chat.completion.chunk"),
                "choices": [choice],
                **usage,
                **more,
            }
        )

    def _piece(self, text: str) -> bytes:
        """A chunk of words; all but the words is the same each time."""
        if self._around is None:
            before, _, after = self._chunk({"content": ""}).partition(b'"content":""')
            self._around = before + b'"content":', after
        return (
            self._around[0]
            + json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")
            + self._around[1]
        )

    def _end(self, end: Told) -> bytes:
        if not isinstance(end, Reply):
            assert isinstance(end, LingshuError)
            failed = _failed(end)
            self._talk.status = failed.status
            return event(failed.body)
        self._talk.count(end)
        provenance = self._chat._provenance(self._talk)
        last = self._chunk({}, end.finish, lingshu=provenance)
        if self._wants_usage:
            head = self._chat._head(self._talk, "chat.completion.chunk")
            last += event({**head, "choices": [], "usage": _usage(end), "lingshu": provenance})
        return last + b"data: [DONE]\n\n"


def _usage(reply: Reply) -> dict[str, int]:
    prompt, said = reply.prompt_tokens or 0, reply.reply_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def _failed(error: LingshuError) -> Refused:
    """The question's own fault, told; or the engine's, which the log tells."""
    if isinstance(error, InputError):
        return Refused(400, one_line(error)[:300], param="messages", code="invalid_question")
    print(f"lingshu serve: {one_line(error)[:300]}", file=sys.stderr)
    return Refused(
        500,
        "the model could not answer; what happened is in the server's log.",
        code="engine_failed",
    )
