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

from lingshu.apps._serve_wire import Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Answered without a key: a load balancer has none.
OPEN_PATHS = ("/health",)
DRAIN_BYTES = 256 << 20


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Times in seconds; `held_bytes` bounds the bodies of all requests together.
    """

    body_bytes: int = 32 << 20
    held_bytes: int = 128 << 20
    header_s: float = 10.0
    idle_s: float = 10.0
    body_s: float = 60.0
    send_s: float = 30.0
    drain_s: float = 5.0
    connections: int = 1024


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


class Guard:
    """An application behind its door. It remembers how many bytes of bodies are held at once."""

    def __init__(
        self,
        app: App,
        *,
        keys: tuple[str, ...],
        loopback: bool,
        limits: Limits,
        open_too: Container[str] = (),
    ) -> None:
        self._app, self._loopback, self.limits, self._open_too = app, loopback, limits, open_too
        self._keys = tuple(hashlib.sha256(key.encode()).digest() for key in keys)
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets are spoken here
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        body = Body(self, headers, receive)
        scope.setdefault("state", {})["body"] = body
        begun = False

        async def say(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                await body.drain()
                message["headers"] = [
                    *message.get("headers", []),
                    *_SAFE,
                    *([] if body.ended else [(b"connection", b"close")]),
                ]
            async with asyncio.timeout(self.limits.send_s):
                await send(message)

        try:
            self._check(scope, headers)
            await self._app(scope, body.receive, say)
        except Refused as refused:
            if not begun:
                await refuse(refused, say)
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
            if begun:
                raise Broken from None
            await refuse(Refused(500, "the server failed; what happened is in its log."), say)
        finally:
            body.release()

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._loopback and not is_loopback(_name_of(host)):
            raise Refused(
                421,
                "this server answers to localhost and 127.0.0.1 alone; use one of them as host.",
                code="host",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in (
            f"http://{host.lower()}",
            f"https://{host.lower()}",
        ):
            raise Refused(403, "requests of other web pages are refused.", code="origin")
        is_open = scope["path"] in OPEN_PATHS or scope["path"] in self._open_too
        if self._keys and not is_open and not self._known(headers.get(b"authorization", b"")):
            raise Refused(
                401,
                "a valid key is needed: send the header Authorization: Bearer KEY.",
                code="invalid_api_key",
            )

    def _known(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        # Digests are of one length, and all are compared: the time says nothing of how much of a
        # key was right.
        given = hashlib.sha256(key.strip()).digest()
        right = [hmac.compare_digest(given, known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(right)


class Broken(Exception):
    """A reply that cannot be finished; the server closes the connection."""


class Body:
    """A request's body on its way in, counted and timed."""

    def __init__(self, guard: Guard, headers: dict[bytes, bytes], receive: Receive) -> None:
        self._guard, self._receive, self._limits = guard, receive, guard.limits
        self._reserved = 0
        self.stated = _length(headers.get(b"content-length"))
        self.ended = self.stated == 0 or (
            self.stated is None and b"transfer-encoding" not in headers
        )
        self._asks_first = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> MutableMapping[str, Any]:
        """The next event; after the body it is the client's leaving."""
        event = await self._receive()
        if event["type"] == "http.disconnect" or not event.get("more_body"):
            self.ended = True
        return event

    async def read(self) -> bytes:
        """All of it.

        Raises:
            Refused: too large (413), too slow (408), or more than can be held beside what others
                sent (429).
        """
        limit = self._limits.body_bytes
        too_large = Refused(
            413,
            f"the body is larger than {limit / (1 << 20):g} MB; send fewer or smaller images.",
            code="too_large",
        )
        if (self.stated or 0) > limit:
            raise too_large
        data = bytearray()
        self._asks_first = False
        try:
            async with asyncio.timeout(self._limits.body_s):
                while True:
                    async with asyncio.timeout(self._limits.idle_s):
                        event = await self.receive()
                    if event["type"] == "http.disconnect":
                        raise Refused(400, "the client went away.")
                    data += event.get("body", b"")
                    self._reserve(len(event.get("body", b"")))
                    if len(data) > limit:
                        raise too_large
                    if self.ended:
                        return bytes(data)
        except TimeoutError:
            raise Refused(
                408, "the body did not arrive in time; send it again.", code="timeout"
            ) from None

    def _reserve(self, size: int) -> None:
        self._reserved += size
        self._guard.held += size
        if self._guard.held > self._limits.held_bytes:
            raise Refused(
                429,
                "the server holds as many images as it can; try again.",
                code="overloaded",
                retry_after=2,
            )

    def release(self) -> None:
        self._guard.held -= self._reserved
        self._reserved = 0

    async def drain(self) -> None:
        """Throw away what still comes, for a bounded while; a client that asked first whether to
        send hears no.
        """
        if self.ended:
            return
        self.release()
        if self._asks_first:
            return
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(self._limits.drain_s):
                while not self.ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


_SAFE = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


async def refuse(refused: Refused, send: Send) -> None:
    """Answer with an error in OpenAI's form."""
    data = json.dumps(refused.body, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _length(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
