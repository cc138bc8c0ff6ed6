"""Connections of the server: limits on their number, on the time of a head, on slow readers."""

from __future__ import annotations

import asyncio
import socket
from typing import Literal

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lingshu.core.errors import InputError
from lingshu.serve.security import App, Limits


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is reported before a model is loaded.

    Raises:
        InputError: not an address of this machine, or the port is in use.
    """
    try:
        if port > 65535:
            raise OverflowError  # the system would use the remainder
        family, _, _, _, socket_address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"--host {host} --port {port} is not an address of this machine; give another."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(socket_address)
        listener.listen(1024)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise InputError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror}); choose another"
            " --port."
        ) from error
    return listener


def create_uvicorn_server(
    app: App, limits: Limits, *, lifespan: Literal["on", "off"], shutdown_timeout_s: int
) -> uvicorn.Server:
    """The server of an application, not started; at shutdown open requests get the timeout."""
    config = uvicorn.Config(
        app,
        http=type("LimitedHttpProtocol", (TimedHttpProtocol,), {"limits": limits}),
        ws="none",
        lifespan=lifespan,
        log_config=None,
        # uvicorn's lines may repeat what a client sent; security.py logs what matters.
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=shutdown_timeout_s,
    )
    return uvicorn.Server(config)


class TimedHttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with timeouts for the head of a request and for a client that does not read.

    A connection that is merely closed stays open until everything written to it has been read.
    """

    limits: Limits
    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_header_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._start_header_timer()

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

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(
            self.limits.header_timeout_s, self._header_timed_out
        )

    def _header_timed_out(self) -> None:
        self._header_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _start_write_timer(self, size: int) -> None:
        self._write_timer = self.loop.call_later(
            self.limits.send_timeout_s, self._check_write_progress, size
        )

    def _check_write_progress(self, previous: int) -> None:
        """End a connection if nothing was read since the last check."""
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
