"""The door of the server: who may come in, how much they may send, and how long they may take;
everything else lies behind it.

On a loopback address the Host and Origin headers are checked, so that a web page cannot reach the
server through a name of its own (DNS rebinding). What a request sends beyond the limits is read and
thrown away for a while, so that the client hears why it was refused; nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Container, MutableMapping
from dataclasses import dataclass
from typing import Any

from lingshu.serve.schema import HTTPError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Answered without a key: a load balancer has none.
PUBLIC_PATHS = ("/health",)
MAX_DRAIN_BYTES = 256 << 20


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Times in seconds; `held_bytes` bounds the bodies of all requests together.
    """

    max_body_bytes: int = 32 << 20
    max_held_bytes: int = 128 << 20
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    send_timeout_s: float = 30.0
    drain_timeout_s: float = 5.0
    max_connections: int = 1024


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses of this machine's own loop; other names are not looked
    up.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class SecurityMiddleware:
    """An application behind its door. It remembers how many bytes of bodies are held at once."""

    def __init__(
        self,
        app: App,
        *,
        keys: tuple[str, ...],
        loopback: bool,
        limits: Limits,
        extra_public_paths: Container[str] = (),
    ) -> None:
        self._app, self._loopback, self.limits, self._extra_public_paths = (
            app,
            loopback,
            limits,
            extra_public_paths,
        )
        self._keys = tuple(hashlib.sha256(key.encode()).digest() for key in keys)
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets are spoken here
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        body = Body(self, headers, receive)
        scope.setdefault("state", {})["body"] = body
        started = False

        async def limited_send(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                await body.drain()
                message["headers"] = [
                    *message.get("headers", []),
                    *_SECURITY_HEADERS,
                    *([] if body.is_complete else [(b"connection", b"close")]),
                ]
            async with asyncio.timeout(self.limits.send_timeout_s):
                await send(message)

        try:
            self._check(scope, headers)
            await self._app(scope, body.receive, limited_send)
        except HTTPError as http_error:
            if not started:
                await send_error(http_error, limited_send)
        except TimeoutError:
            return  # the client reads nothing: the connection ends here
        except Exception as error:
            # Neither the message nor the values behind it: they may be a patient's. Where it
            # happened is enough to mend it.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            print(
                f"lingshu: bug: {type(error).__name__} in {frame.name}, line {frame.lineno}",
                file=sys.stderr,
            )
            if started:
                raise StreamError from None
            await send_error(
                HTTPError(500, "the server failed; what happened is in its log."), limited_send
            )
        finally:
            body.release()

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._loopback and not is_loopback(_host_name(host)):
            raise HTTPError(
                421,
                "this server answers to localhost and 127.0.0.1 alone; use one of them as host.",
                code="host",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in (
            f"http://{host.lower()}",
            f"https://{host.lower()}",
        ):
            raise HTTPError(403, "requests of other web pages are refused.", code="origin")
        is_public = scope["path"] in PUBLIC_PATHS or scope["path"] in self._extra_public_paths
        if (
            self._keys
            and not is_public
            and not self._is_authorized(headers.get(b"authorization", b""))
        ):
            raise HTTPError(
                401,
                "a valid key is needed: send the header Authorization: Bearer KEY.",
                code="invalid_api_key",
            )

    def _is_authorized(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        # Digests are of one length, and all are compared: the time says nothing of how much of a
        # key was right.
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, expected) for expected in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


class StreamError(Exception):
    """A reply that cannot be finished; the server closes the connection."""


class Body:
    """A request's body on its way in, counted and timed."""

    def __init__(
        self, middleware: SecurityMiddleware, headers: dict[bytes, bytes], receive: Receive
    ) -> None:
        self._middleware, self._receive, self._limits = middleware, receive, middleware.limits
        self._reserved_bytes = 0
        self.content_length = _parse_content_length(headers.get(b"content-length"))
        self.is_complete = self.content_length == 0 or (
            self.content_length is None and b"transfer-encoding" not in headers
        )
        self._expects_continue = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> MutableMapping[str, Any]:
        """The next event; after the body it is the client's leaving."""
        event = await self._receive()
        if event["type"] == "http.disconnect" or not event.get("more_body"):
            self.is_complete = True
        return event

    async def read(self) -> bytes:
        """All of it.

        Raises:
            Refused: too large (413), too slow (408), or more than can be held beside what others
                sent (429).
        """
        limit = self._limits.max_body_bytes
        too_large = HTTPError(
            413,
            f"the body is larger than {limit / (1 << 20):g} MB; send fewer or smaller images.",
            code="too_large",
        )
        if (self.content_length or 0) > limit:
            raise too_large
        data = bytearray()
        self._expects_continue = False
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    async with asyncio.timeout(self._limits.idle_timeout_s):
                        event = await self.receive()
                    if event["type"] == "http.disconnect":
                        raise HTTPError(400, "the client went away.")
                    data += event.get("body", b"")
                    self._reserve(len(event.get("body", b"")))
                    if len(data) > limit:
                        raise too_large
                    if self.is_complete:
                        return bytes(data)
        except TimeoutError:
            raise HTTPError(
                408, "the body did not arrive in time; send it again.", code="timeout"
            ) from None

    def _reserve(self, size: int) -> None:
        self._reserved_bytes += size
        self._middleware.held_bytes += size
        if self._middleware.held_bytes > self._limits.max_held_bytes:
            raise HTTPError(
                429,
                "the server holds as many images as it can; try again.",
                code="overloaded",
                retry_after=2,
            )

    def release(self) -> None:
        self._middleware.held_bytes -= self._reserved_bytes
        self._reserved_bytes = 0

    async def drain(self) -> None:
        """Throw away what still comes, for a bounded while; a client that asked first whether to
        send hears no.
        """
        if self.is_complete:
            return
        self.release()
        if self._expects_continue:
            return
        remaining = MAX_DRAIN_BYTES
        try:
            async with asyncio.timeout(self._limits.drain_timeout_s):
                while not self.is_complete and remaining > 0:
                    remaining -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


_SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


async def send_error(error: HTTPError, send: Send) -> None:
    """Answer with an error in OpenAI's form."""
    data = json.dumps(error.body, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _parse_content_length(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
