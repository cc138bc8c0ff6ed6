"""A real chat-completions server on 127.0.0.1 whose answers a test scripts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request, dict], Awaitable[web.StreamResponse]]


def completion(text: str | None, finish: str = "stop", status: int = 200) -> web.Response:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return web.json_response({"choices": [choice], "usage": usage}, status=status)


async def reply_ok(request: web.Request, body: dict) -> web.StreamResponse:
    return completion("ok")


class Server:
    """Calls `handler` for each request and keeps what it was sent."""

    def __init__(self) -> None:
        self.handler: Handler = reply_ok
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.active = self.max_active = 0
        self.url = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        # cancels at the end what a test left waiting
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    def call(self, callback: Callable[[], object]) -> None:
        """Run `callback` in the server's event loop."""
        self._loop.call_soon_threadsafe(callback)

    async def _serve(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.active += 1
        self.max_active = max(self.max_active, self.active)
        try:
            body = json.loads(await request.read())
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            return await self.handler(request, body)
        finally:
            self.active -= 1

    def close(self) -> None:
        self.call(self._stop.set)
        self._thread.join(10)
