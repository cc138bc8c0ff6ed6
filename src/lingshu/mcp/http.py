"""`lingshu mcp` over HTTP: the SDK's application behind the door of `lingshu serve`, with bounds on
what it holds.

The door (serve/security.py) checks Host and Origin on a loopback address and tokens everywhere;
beyond this machine the SDK checks Host and Origin against the names that the operator gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lingshu.serve.schema import HTTPError
from lingshu.serve.security import (
    App,
    Limits,
    Receive,
    Scope,
    SecurityMiddleware,
    Send,
    send_error,
)

if TYPE_CHECKING:
    import uvicorn
    from mcp.server.mcpserver import MCPServer

MCP_PATH = "/mcp"
# Where the published server answers.
PATH_ALIASES = ("/lingshu", "/lingshu/", "/mcp/")
MAX_SESSIONS = 256


@dataclass(frozen=True)
class AuthConfig:
    """Who may come in: the tokens, whether the address is this machine's own, and the names that
    others reach it by.
    """

    tokens: tuple[str, ...]
    loopback: bool
    hosts: tuple[str, ...] = ()


class BodyLimitMiddleware:
    """An application whose requests' bodies come in time and are held within a bound.

    It remembers how much is held.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits, self.held_bytes = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in PATH_ALIASES:
            scope = {**scope, "path": MCP_PATH, "raw_path": MCP_PATH.encode()}
        n_received_bytes, body_ended, aborted = 0, False, False

        async def limited_receive() -> MutableMapping[str, Any]:
            nonlocal n_received_bytes, body_ended, aborted
            if body_ended:
                # the next is the client's leaving, which may be long in coming
                return await receive()
            try:
                async with asyncio.timeout(self._limits.idle_timeout_s):
                    event = await receive()
                body_ended = event["type"] != "http.request" or not event.get("more_body")
                n_received_bytes += len(event.get("body", b""))
                self.held_bytes += len(event.get("body", b""))
                if self.held_bytes <= self._limits.max_held_bytes:
                    return event
                error = HTTPError(
                    429,
                    "the server holds as many images as it can; try again.",
                    code="overloaded",
                    retry_after=2,
                )
            except TimeoutError:
                error = HTTPError(
                    408, "the body did not arrive in time; send it again.", code="timeout"
                )
            # The application hears that the client has gone, and what it says to that goes nowhere.
            aborted = body_ended = True
            await send_error(error, send)
            return {"type": "http.disconnect"}

        async def limited_send(message: MutableMapping[str, Any]) -> None:
            if not aborted:
                await send(message)

        try:
            await self._app(scope, limited_receive, limited_send)
        finally:
            self.held_bytes -= n_received_bytes


def create_app(mcp: MCPServer, auth: AuthConfig, limits: Limits) -> App:
    """The server as an application, door and all."""
    from mcp.server.transport_security import TransportSecuritySettings

    names = ("127.0.0.1", "localhost", "[::1]") if auth.loopback else auth.hosts
    security = TransportSecuritySettings(
        allowed_hosts=[allowed_host for name in names for allowed_host in (name, f"{name}:*")],
        allowed_origins=[
            f"{scheme}://{allowed_host}"
            for name in names
            for scheme in ("http", "https")
            for allowed_host in (name, f"{name}:*")
        ],
    )
    app = mcp.streamable_http_app(
        streamable_http_path=MCP_PATH,
        max_request_body_size=limits.max_body_bytes,
        max_sessions=MAX_SESSIONS,
        transport_security=security,
    )
    return SecurityMiddleware(
        BodyLimitMiddleware(app, limits), keys=auth.tokens, loopback=auth.loopback, limits=limits
    )


def create_server(mcp: MCPServer, auth: AuthConfig, limits: Limits) -> uvicorn.Server:
    """The HTTP server, not started: `run(sockets=[...])` serves until `should_exit` is set."""
    from lingshu.serve.http import create_uvicorn_server

    return create_uvicorn_server(
        create_app(mcp, auth, limits), limits, lifespan="on", shutdown_timeout_s=3
    )
