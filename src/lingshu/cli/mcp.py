"""`lingshu mcp`: a model, and the studies of a folder, as tools for programs that speak the Model
Context Protocol.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.llm_client import Endpoint
from lingshu.inference.answer import NOTICE
from lingshu.mcp.legacy_env import read_legacy_environment

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer


def mcp(
    model: str | None = None,
    *,
    http: str | None = None,
    root: Path | None = None,
    key_file: Path | None = None,
    allow_host: tuple[str, ...] = (),
    runs: Path | None = None,
    data: Path | None = None,
    max_body_mb: int = 32,
    max_batch_size: int = 8,
    threads: int | None = None,
    allow_remote: bool = False,
) -> int:
    """Serve tools, resources and prompts over the Model Context Protocol, on standard input and
    output or over HTTP.

    Parameters
    ----------
    model
        A checkpoint folder, a hub id, or http(s)://host/v1#name; loaded when it is first asked.
        Without one, tools that need it say so.
    http
        HOST:PORT to listen on, in place of standard input and output. Beyond this machine only with
        --key-file; port 0 takes a free one.
    root
        A folder below which clients may name files, and whose studies are listed; without it images
        come inside the call alone.
    key_file
        A file of tokens, one a line, at least 16 characters each; every HTTP request then needs
        one.
    allow_host
        A name that clients reach the server by, as in their Host header; needed for 0.0.0.0. May be
        given several times.
    runs
        The folder for evaluations that clients start, and whose reports they may read.
    data
        A folder with offline data of benchmarks.
    max_body_mb
        The largest HTTP request, in MB; images in it are a third larger than their files.
    batch
        How many replies are written at the same time.
    threads
        CPU threads for a model in this process.
    allow_remote
        Let images and questions go to a model on another machine without asking anybody.
    """
    from lingshu.mcp.server import McpConfig, build_server, open_services

    for option, value in (("max-body-mb", max_body_mb), ("max-batch-size", max_batch_size)):
        if value < 1:
            raise ConfigError(f"--{option} is {value}; it must be at least 1.")
    if http is None and (key_file or allow_host):
        raise ConfigError(
            "--key-file and --allow-host are for --http HOST:PORT; leave them out, or give it."
        )
    legacy_environment = read_legacy_environment() if model is None else None
    if legacy_environment is not None:
        print(f"lingshu mcp: {legacy_environment}", file=sys.stderr)
        model = legacy_environment.model
    if model is not None and model.startswith(("http://", "https://")):
        # checked before it is opened: clients and the log are told the model's name
        Endpoint(model.partition("#")[0])
    config = McpConfig(
        model,
        root,
        runs,
        data,
        allow_remote,
        threads,
        max_batch_size,
        legacy_environment.api_key if legacy_environment else None,
    )
    with contextlib.closing(open_services(config)) as services:
        server = build_server(services)
        if http is None:
            _stdio(server, services.close)
        else:
            _http(server, http, key_file, allow_host, max_body_mb, services.model.name)
    return 0


def _stdio(server: MCPServer, close: Callable[[], None]) -> None:
    import anyio

    async def serve() -> None:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(_until_stopped, close)
            await server.run_stdio_async()
            task_group.cancel_scope.cancel()

    anyio.run(serve)


async def _until_stopped(close: Callable[[], None]) -> None:
    """End the program at SIGINT or SIGTERM, and an evaluation that it started with it.

    At once: a thread waits for a line of standard input, and nothing but a line ends that.
    """
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for signum in signals:
            close()
            os._exit(130 if signum == signal.SIGINT else 0)


def _http(
    server: MCPServer,
    address: str,
    key_file: Path | None,
    allow_host: tuple[str, ...],
    max_body_mb: int,
    model: str | None,
) -> None:
    from lingshu.cli.serve import open_listener, read_keys
    from lingshu.mcp import http as http_module
    from lingshu.serve.security import Limits, is_loopback

    host, port = _host_and_port(address)
    tokens = read_keys(key_file) if key_file else ()
    loopback = is_loopback(host)
    if not (loopback or tokens):
        raise ConfigError(
            f"--http {address} lets other machines in; give --key-file FILE with a token that clients"
            " must send, or listen on 127.0.0.1."
        )
    if not loopback and not allow_host and host in ("0.0.0.0", "::"):
        raise ConfigError(
            f"--http {address} takes requests for any name; say with --allow-host NAME which name"
            " clients reach it by."
        )
    display_host = f"[{host}]" if ":" in host else host
    auth = http_module.AuthConfig(tokens, loopback, allow_host or (display_host,))
    limits = Limits(
        max_body_bytes=max_body_mb << 20, max_held_bytes=4 * max_body_mb << 20, max_connections=256
    )
    try:
        listener = open_listener(host, port)
    except InputError:
        raise InputError(
            f"--http {address} cannot be listened on: it is taken, or no address of this machine;"
            " choose another port or host."
        ) from None
    with contextlib.closing(listener):
        bound_port = listener.getsockname()[1]
        print(
            f"{model or 'no model'} at http://{display_host}:{bound_port}{http_module.MCP_PATH} and /lingshu."
            f" {NOTICE}",
            file=sys.stderr,
            flush=True,
        )
        # uvicorn raises the signal that stopped it anew: as an exception it lets an evaluation be
        # ended too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        http_module.create_server(server, auth, limits).run(sockets=[listener])


def _host_and_port(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--http {address} is no HOST:PORT; write 127.0.0.1:4200, say.")
    return host.strip("[]"), int(port)
