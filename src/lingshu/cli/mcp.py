"""`lingshu mcp`: a model and the studies of a folder as tools of the Model Context Protocol."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lingshu.cli import log
from lingshu.cli.options import AbstainOptions, Flat, ModelOptions
from lingshu.core.errors import ConfigError, InputError
from lingshu.core.llm_client import Endpoint
from lingshu.inference.answer import NOTICE
from lingshu.inference.engines import check_options
from lingshu.mcp.legacy_env import read_legacy_environment
from lingshu.mcp.services import McpConfig, open_services

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer


@dataclass(frozen=True, kw_only=True)
class McpModelOptions(ModelOptions):
    allow_remote: bool = False
    "Allow images and questions to be sent to a model on another machine without asking anybody."


def mcp(
    model: str | None = None,
    *,
    config: Flat[McpConfig] = McpConfig(),
    abstain: Flat[AbstainOptions] = AbstainOptions(),
    model_options: Flat[McpModelOptions] = McpModelOptions(),
) -> int:
    """Serve tools, resources and prompts over the Model Context Protocol, on standard input and
    output or over HTTP.

    Args:
        model: Checkpoint folder, hub id, or http(s)://host/v1#name; loaded on first use. Without
            one, tools that need it say so.
    """
    from lingshu.mcp.server import build_server

    legacy_environment = read_legacy_environment() if model is None else None
    if legacy_environment is not None:
        print(f"lingshu mcp: {legacy_environment}", file=sys.stderr)
        model = legacy_environment.model
    if model is not None and model.startswith(("http://", "https://")):
        # Checked before it is opened: clients and the log get the model's name.
        Endpoint(model.partition("#")[0])
    options = model_options.engine_options(
        batch_size=config.max_batch_size,
        concurrency=config.max_batch_size,
        retries=2,
        api_key=legacy_environment.api_key if legacy_environment else None,
        top_log_probs=abstain.top_log_probs,
    )
    if model is not None:
        check_options(model, options)
    with contextlib.closing(
        open_services(
            model,
            config,
            options,
            allow_remote=model_options.allow_remote,
            threshold=abstain.read(),
        )
    ) as services:
        server = build_server(services)
        log.configure_default("warning")
        if config.http is None:
            _run_stdio(server, services.close)
        else:
            _run_http(server, config.http, config, model)
    return 0


def _run_stdio(server: MCPServer, close: Callable[[], None]) -> None:
    import anyio

    async def serve() -> None:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(_exit_on_signal, close)
            await server.run_stdio_async()
            task_group.cancel_scope.cancel()

    anyio.run(serve)


async def _exit_on_signal(close: Callable[[], None]) -> None:
    """End the program at SIGINT or SIGTERM, and with it an evaluation that it started.

    At once: a thread is blocked in reading standard input, and only a line ends that.
    """
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for signum in signals:
            close()
            os._exit(130 if signum == signal.SIGINT else 0)


def _run_http(server: MCPServer, address: str, config: McpConfig, model: str | None) -> None:
    from lingshu.mcp.http import MCP_PATH, AuthConfig, create_server
    from lingshu.serve.http import open_listener
    from lingshu.serve.security import Limits, is_loopback, read_keys

    host, port = _host_and_port(address)
    tokens = read_keys(config.key_file) if config.key_file else ()
    loopback = is_loopback(host)
    if not (loopback or tokens):
        raise ConfigError(
            f"--http {address} is open to other machines; give --key-file FILE with a token that"
            " clients must send, or listen on 127.0.0.1."
        )
    if not loopback and not config.allow_host and host in ("0.0.0.0", "::"):
        raise ConfigError(
            f"--http {address} takes requests for any name; give --allow-host NAME, the name that"
            " clients reach it by."
        )
    display_host = f"[{host}]" if ":" in host else host
    auth = AuthConfig(tokens, loopback, config.allow_host or (display_host,))
    limits = Limits.of_body_mb(config.max_body_mb, max_connections=256, body_timeout_s=None)
    try:
        listener = open_listener(host, port)
    except InputError:
        raise InputError(
            f"--http {address} cannot be listened on: it is in use, or not an address of this"
            " machine; choose another port or host."
        ) from None
    with contextlib.closing(listener):
        url = f"http://{display_host}:{listener.getsockname()[1]}{MCP_PATH}"
        print(f"{model or 'no model'} at {url} and /lingshu. {NOTICE}", file=sys.stderr, flush=True)
        # uvicorn raises the signal that stopped it again: as an exception it lets an evaluation be
        # ended too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        create_server(server, auth, limits).run(sockets=[listener])


def _host_and_port(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--http {address} is not HOST:PORT; write 127.0.0.1:4200, say.")
    return host.strip("[]"), int(port)
