"""The server's connections: each must say what it wants in time, read what it gets, and there is a
most of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from lingshu.apps._serve_guard import App, Limits


def server_of(
    app: App, limits: Limits, *, lifespan: Literal["on", "off"], grace_s: int
) -> uvicorn.Server:
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
    """The protocol of connections under these limits."""

    class Limited(Patient):
        pass

    Limited.limits = limits
    return Limited


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1 with a time to the end of a request's head, and for a client to read on:
    uvicorn gives neither a bound.

    A connection that is merely closed stays open until all that was written to it has been read.
    """

    limits: Limits
    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._late = self.loop.call_later(self.limits.header_s, self._too_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._in_time()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self.limits.header_s, self._too_late)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._read_on()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._read_on()
        super().connection_lost(exc)

    def _watch(self, size: int) -> None:
        self._unread = self.loop.call_later(self.limits.send_s, self._look, size)

    def _look(self, before: int) -> None:
        """End a connection of which nothing was read since the last look."""
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self._unread = None
            self.transport.abort()
        else:
            self._watch(left)

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
