"""Security of the server: who may connect, how much a request may send, and how long it may take.

On a loopback address the Host and Origin headers are checked, so that a web page cannot reach the
server through a name of its own (DNS rebinding). What a request sends beyond the limits is read and
discarded for a while, so that the client learns why it was refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Container, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.core.errors import ConfigError
from lingshu.serve.schema import HTTPError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)
PUBLIC_PATHS = ("/health",)  # a load balancer has no key
MAX_DRAIN_BYTES = 256 << 20
KEY_PATTERN = re.compile(r"[!-~]{16,}")


@dataclass(frozen=True)
class Limits:
    """What one client may take; `max_held_bytes` bounds the bodies of all requests together."""

    max_body_bytes: int = 32 << 20
    max_held_bytes: int = 128 << 20
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 10.0
    body_timeout_s: float | None = 60.0
    send_timeout_s: float = 30.0
    drain_timeout_s: float = 5.0
    max_connections: int = 1024

    @classmethod
    def of_body_mb(cls, max_body_mb: int, **limits: Any) -> Limits:
        """Bodies of at most so many MB, and four times that together."""
        return cls(max_body_mb << 20, 4 * max_body_mb << 20, **limits)


def read_keys(file: Path) -> tuple[str, ...]:
    """The keys of a file, one per line, without empty lines and lines that start with #.

    Raises:
        ConfigError: it cannot be read, holds no key, or one that is too short. No key is repeated.
    """
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--key-file {file} cannot be read ({type(error).__name__}); give a text file with a"
            " key on each line."
        ) from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        remedy = "write one of at least 16 characters into it"
        raise ConfigError(f"--key-file {file} holds no key; {remedy}.")
    for index, key in enumerate(keys, 1):
        if not KEY_PATTERN.fullmatch(key):
            raise ConfigError(
                f"--key-file {file}: key {index} is shorter than 16 characters or contains a space;"
                " generate a longer one."
            )
    return keys


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses; other names are not resolved."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class SecurityMiddleware:
    """Checks each request and bounds it; it counts the bytes of bodies that are held at once."""

    def __init__(
        self,
        app: App,
        *,
        keys: tuple[str, ...],
        loopback: bool,
        limits: Limits,
        extra_public_paths: Container[str] = (),
    ) -> None:
        self._app, self._loopback, self.limits = app, loopback, limits
        self._extra_public_paths = extra_public_paths
        self._keys = tuple(hashlib.sha256(key.encode()).digest() for key in keys)
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # web sockets are not supported
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
            # Neither the message nor the values: they may be a patient's. The position is enough.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("bug: %s in %s, line %s", type(error).__name__, frame.name, frame.lineno)
            if started:
                raise StreamError from None
            await send_error(HTTPError.server_failed(), limited_send)
        finally:
            body.release()

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._loopback and not is_loopback(_host_name(host)):
            message = (
                "this server answers only to localhost and 127.0.0.1; use one of them as host."
            )
            raise HTTPError(421, message, code="host")
        origin = headers.get(b"origin")
        own_origins = (f"http://{host.lower()}", f"https://{host.lower()}")
        if origin is not None and origin.decode("latin-1").lower() not in own_origins:
            raise HTTPError.foreign_origin()
        is_public = scope["path"] in PUBLIC_PATHS or scope["path"] in self._extra_public_paths
        if self._keys and not is_public and not self._is_authorized(headers):
            message = "a valid key is needed: send the header Authorization: Bearer KEY."
            raise HTTPError(401, message, code="invalid_api_key")

    def _is_authorized(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        # Digests have one length, and all are compared: the time reveals nothing of a key.
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, expected) for expected in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


class StreamError(Exception):
    """A reply that cannot be finished; the server closes the connection."""


class Body:
    """The body of a request while it arrives, counted and timed."""

    def __init__(
        self, middleware: SecurityMiddleware, headers: dict[bytes, bytes], receive: Receive
    ) -> None:
        self._middleware, self._receive, self._limits = middleware, receive, middleware.limits
        self._reserved_bytes = 0
        length = headers.get(b"content-length", b"")
        self.content_length = int(length) if length.isdigit() else None
        self.is_complete = self.content_length == 0 or (
            self.content_length is None and b"transfer-encoding" not in headers
        )
        self._expects_continue = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> MutableMapping[str, Any]:
        """The next event; after the body it is the disconnect."""
        event = await self._receive()
        if event["type"] == "http.disconnect" or not event.get("more_body"):
            self.is_complete = True
        return event

    async def read(self) -> bytes:
        """The complete body.

        Raises:
            HTTPError: too large (413), too slow (408), or more than the server can hold together
                with the bodies of others (429).
        """
        limit = self._limits.max_body_bytes
        message = f"the body is larger than {limit / (1 << 20):g} MB; send fewer or smaller images."
        too_large = HTTPError(413, message, code="too_large")
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
                        raise HTTPError(400, "the client disconnected.")
                    data += event.get("body", b"")
                    self._reserve(len(event.get("body", b"")))
                    if len(data) > limit:
                        raise too_large
                    if self.is_complete:
                        return bytes(data)
        except TimeoutError:
            message = "the body did not arrive in time; send it again."
            raise HTTPError(408, message, code="timeout") from None

    def _reserve(self, size: int) -> None:
        self._reserved_bytes += size
        self._middleware.held_bytes += size
        if self._middleware.held_bytes > self._limits.max_held_bytes:
            message = "the server holds as many images as it can; try again."
            raise HTTPError(429, message, code="overloaded", retry_after=2)

    def release(self) -> None:
        self._middleware.held_bytes -= self._reserved_bytes
        self._reserved_bytes = 0

    async def drain(self) -> None:
        """Discard what still arrives, for a limited time; no waiting client gets permission."""
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
    """Reply with an error in OpenAI's form."""
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
