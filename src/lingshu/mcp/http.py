"""`lingshu mcp` over HTTP: the SDK's application behind the security of `lingshu serve`.

serve/security.py checks Host and Origin on a loopback address, tokens everywhere, and bounds bodies;
a session belongs to the key that opened it. Beyond this machine the SDK checks Host and Origin
against the names that the operator gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from lingshu.core.files import sha256_bytes
from lingshu.serve.http import create_uvicorn_server
from lingshu.serve.security import App, Body, Limits, Receive, Scope, SecurityMiddleware, Send

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
        with_complete_body(app), keys=auth.tokens, loopback=auth.loopback, limits=limits
    )
    return create_uvicorn_server(secured, limits, lifespan="on", shutdown_timeout_s=3)


def with_complete_body(app: App) -> App:
    """The application, called once the body of a request has arrived within the limits."""

    async def complete(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if scope["path"] in PATH_ALIASES:
            scope = {**scope, "path": MCP_PATH, "raw_path": MCP_PATH.encode()}
        # The SDK refuses a session to anyone but the user who opened it: here the holder of a key.
        key = dict(scope["headers"]).get(b"authorization", b"")
        owner = AccessToken(
            token="", client_id=sha256_bytes(key.partition(b" ")[2].strip()), scopes=[]
        )
        scope = {**scope, "user": AuthenticatedUser(owner)}
        body: Body = scope["state"]["body"]
        # Only in the list: a reply may be streamed long after its request has been read.
        pending = [{"type": "http.request", "body": await body.read(), "more_body": False}]

        async def receive_body() -> Any:
            return pending.pop() if pending else await receive()

        await app(scope, receive_body, send)

    return complete
