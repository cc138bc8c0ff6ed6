"""The server's connections: each must say what it wants in time, read what it gets, and there is a
most of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from lingshu.serve.security import App, Limits


def create_uvicorn_server(
    app: App, limits: Limits, *, lifespan: Literal["on", "off"], shutdown_timeout_s: int
) -> uvicorn.Server:
    """An application's server, not started; told to stop, it gives open requests `grace_s` seconds."""
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        ws="none",
        lifespan=lifespan,
        log_config=None,
        # Its lines may repeat what a client sent; the door tells the log what is worth telling.
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=shutdown_timeout_s,
    )
    return uvicorn.Server(config)


def limited_protocol(limits: Limits) -> type[H11Protocol]:
    """The protocol of connections under these limits."""

    class LimitedProtocol(TimedHttpProtocol):
        pass

    LimitedProtocol.limits = limits
    return LimitedProtocol


class TimedHttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a time to the end of a request's head, and for a client to read on:
    uvicorn gives neither a bound.

    A connection that is merely closed stays open until all that was written to it has been read.
    """

    limits: Limits
    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._header_timer = self.loop.call_later(
            self.limits.header_timeout_s, self._header_timed_out
        )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_header_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(
                self.limits.header_timeout_s, self._header_timed_out
            )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_header_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    def _start_write_timer(self, size: int) -> None:
        self._write_timer = self.loop.call_later(
            self.limits.send_timeout_s, self._check_write_progress, size
        )

    def _check_write_progress(self, previous: int) -> None:
        """End a connection of which nothing was read since the last look."""
        remaining = self.transport.get_write_buffer_size()
        if remaining >= previous:
            self._write_timer = None
            self.transport.abort()
        else:
            self._start_write_timer(remaining)

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_timed_out(self) -> None:
        self._header_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
