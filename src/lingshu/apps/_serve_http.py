"""The server's connections: each must say what it wants in time, and there is a most of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from lingshu.apps._serve_guard import App, Limits


def server_of(app: App, limits: Limits, *, lifespan: Literal["on", "off"], grace_s: int) -> uvicorn.Server:
    """An application's server, not started; told to stop, it gives open requests `grace_s` seconds."""
    config = uvicorn.Config(
        app,
        http=protocol(limits),
        ws="none",
        lifespan=lifespan,
        log_config=None,
        # Its lines may repeat what a client sent; the door tells the log what is worth telling.
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=grace_s,
    )
    return uvicorn.Server(config)


def protocol(limits: Limits) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 with a time to the end of a request's head, which uvicorn itself gives no bound (slow-loris)."""

    class Patient(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._late = self.loop.call_later(limits.header_s, self._too_late)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._in_time()
            elif self._late is None and not self.transport.is_closing():
                self._late = self.loop.call_later(limits.header_s, self._too_late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._in_time()
            super().connection_lost(exc)

        def _in_time(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _too_late(self) -> None:
            self._late = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Patient
