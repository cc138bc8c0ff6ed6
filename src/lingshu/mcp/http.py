"""`lingshu mcp` over HTTP: the SDK's application behind the security of `lingshu serve`, with bounds on
what it holds.

serve/security.py checks Host and Origin on a loopback address, and tokens everywhere; beyond this
machine the SDK checks Host and Origin against the names that the operator gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from lingshu.serve.http import create_uvicorn_server
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

MCP_PATH = "/mcp"
PATH_ALIASES = ("/lingshu", "/lingshu/", "/mcp/")  # /lingshu is the published server's path
MAX_SESSIONS = 256
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class AuthConfig:
    """The accepted tokens, whether the address is loopback, and the names that others reach it by."""

    tokens: tuple[str, ...]
    loopback: bool
    hosts: tuple[str, ...] = ()


class BodyLimitMiddleware:
    """An application whose request bodies arrive in time, and are held up to a bound in total."""

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
                return await receive()  # the disconnect, which may be long in coming
            try:
                async with asyncio.timeout(self._limits.idle_timeout_s):
                    event = await receive()
                body_ended = event["type"] != "http.request" or not event.get("more_body")
                n_received_bytes += len(event.get("body", b""))
                self.held_bytes += len(event.get("body", b""))
                if self.held_bytes <= self._limits.max_held_bytes:
                    return event
                error = HTTPError.overloaded()
            except TimeoutError:
                error = HTTPError.body_timeout()
            # To the application the client is gone; what it sends from here on is dropped.
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


def create_server(mcp: MCPServer, auth: AuthConfig, limits: Limits) -> uvicorn.Server:
    """The HTTP server, not started: `run(sockets=[...])` serves until `should_exit` is set."""
    names = LOOPBACK_NAMES if auth.loopback else auth.hosts
    hosts = [host for name in names for host in (name, f"{name}:*")]
    app = mcp.streamable_http_app(
        streamable_http_path=MCP_PATH,
        max_request_body_size=limits.max_body_bytes,
        max_sessions=MAX_SESSIONS,
        transport_security=TransportSecuritySettings(
            allowed_hosts=hosts,
            allowed_origins=[
                f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")
            ],
        ),
    )
    secured = SecurityMiddleware(
        BodyLimitMiddleware(app, limits), keys=auth.tokens, loopback=auth.loopback, limits=limits
    )
    return create_uvicorn_server(secured, limits, lifespan="on", shutdown_timeout_s=3)
