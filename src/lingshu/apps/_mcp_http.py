"""`lingshu mcp` over HTTP: the SDK's application behind the door of `lingshu serve`, with bounds on
what it holds.

The door (apps/_serve_guard.py) checks Host and Origin on a loopback address and tokens everywhere;
beyond this machine the SDK checks Host and Origin against the names that the operator gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lingshu.apps._serve_guard import App, Guard, Limits, Receive, Scope, Send, refuse
from lingshu.apps._serve_wire import Refused

if TYPE_CHECKING:
    import uvicorn
    from mcp.server.mcpserver import MCPServer

PATH = "/mcp"
# Where the published server answers.
ALIASES = ("/lingshu", "/lingshu/", "/mcp/")
MAX_SESSIONS = 256


@dataclass(frozen=True)
class Door:
    """Who may come in: the tokens, whether the address is this machine's own, and the names that
    others reach it by.
    """

    tokens: tuple[str, ...]
    loopback: bool
    hosts: tuple[str, ...] = ()


class Bounded:
    """An application whose requests' bodies come in time and are held within a bound.

    It remembers how much is held.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits, self.held = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in ALIASES:
            scope = {**scope, "path": PATH, "raw_path": PATH.encode()}
        taken, ended, over = 0, False, False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal taken, ended, over
            if ended:
                # the next is the client's leaving, which may be long in coming
                return await receive()
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    event = await receive()
                ended = event["type"] != "http.request" or not event.get("more_body")
                taken += len(event.get("body", b""))
                self.held += len(event.get("body", b""))
                if self.held <= self._limits.held_bytes:
                    return event
                refused = Refused(
                    429,
                    "the server holds as many images as it can; try again.",
                    code="overloaded",
                    retry_after=2,
                )
            except TimeoutError:
                refused = Refused(
                    408, "the body did not arrive in time; send it again.", code="timeout"
                )
            # The application hears that the client has gone, and what it says to that goes nowhere.
            over = ended = True
            await refuse(refused, send)
            return {"type": "http.disconnect"}

        async def say(message: MutableMapping[str, Any]) -> None:
            if not over:
                await send(message)

        try:
            await self._app(scope, bounded, say)
        finally:
            self.held -= taken


def application(mcp: MCPServer, door: Door, limits: Limits) -> App:
    """The server as an application, door and all."""
    from mcp.server.transport_security import TransportSecuritySettings

    names = ("127.0.0.1", "localhost", "[::1]") if door.loopback else door.hosts
    security = TransportSecuritySettings(
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[
            f"{scheme}://{form}"
            for name in names
            for scheme in ("http", "https")
            for form in (name, f"{name}:*")
        ],
    )
    inner = mcp.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=limits.body_bytes,
        max_sessions=MAX_SESSIONS,
        transport_security=security,
    )
    return Guard(Bounded(inner, limits), keys=door.tokens, loopback=door.loopback, limits=limits)


def server(mcp: MCPServer, door: Door, limits: Limits) -> uvicorn.Server:
    """The HTTP server, not started: `run(sockets=[...])` serves until `should_exit` is set."""
    from lingshu.apps._serve_http import server_of

    return server_of(application(mcp, door, limits), limits, lifespan="on", grace_s=3)
