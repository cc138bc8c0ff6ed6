"""`lingshu serve`: an OpenAI-compatible server with continuous batching, and its web page."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.cli import log
from lingshu.cli.options import Flat, ModelOptions, print_warnings
from lingshu.core.data_policy import is_local
from lingshu.core.errors import ConfigError
from lingshu.core.fetch import FetchPolicy
from lingshu.core.safe_folder import SafeFolder
from lingshu.core.types import engine_notes
from lingshu.inference.answer import NOTICE
from lingshu.inference.engines import open_async_engine

if TYPE_CHECKING:
    from lingshu.serve.app import ServeConfig
    from lingshu.ui.app import WebUI


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    host: str = "127.0.0.1"
    "Address to listen on. Beyond this machine (such as 0.0.0.0) only with --key-file."
    port: int = 8000
    "Port to listen on; 0 takes a free one and prints it."
    name: str | None = None
    "Name that clients give as model; the model's own by default."
    key_file: Path | None = None
    "File of keys, one per line, at least 16 characters each; every request then needs one."
    root: Path | None = None
    """Folder below which clients may name files, and whose studies the page shows; by default
    images come only inside the request."""
    runs: Path | None = None
    "Folder with evaluations, whose reports the page shows."
    review: Path | None = None
    "Folder with review queues of lingshu synthesize; verdicts are written next to them."
    no_ui: bool = False
    "Serve only the API, no web page."
    allow_urls: str | None = None
    "Comma-separated hosts that images may be fetched from; by default none is."
    max_batch_size: int = 16
    "Replies generated at the same time."
    max_queue_size: int = 64
    "Requests that may wait; clients beyond them get a 429."
    max_tokens: int = 1024
    "Maximum length of a reply, in tokens, and the default of requests."
    max_body_mb: int = 32
    "Maximum size of a request, in MB."

    def __post_init__(self) -> None:
        for option in ("max_batch_size", "max_queue_size", "max_tokens", "max_body_mb", "port"):
            value, min_value = getattr(self, option), int(option not in ("max_queue_size", "port"))
            if value < min_value:
                flag = option.replace("_", "-")
                raise ConfigError(f"--{flag} is {value}; it must be at least {min_value}.")


def serve(
    model: str,
    *,
    config: Flat[ServeOptions] = ServeOptions(),
    model_options: Flat[ModelOptions] = ModelOptions(),
) -> int:
    """Serve a model over the chat completions API until it is stopped.

    Args:
        model: Checkpoint folder, hub id, or http(s)://host/v1#name.
    """
    from lingshu.serve.app import ServeConfig
    from lingshu.serve.http import open_listener
    from lingshu.serve.media import ImageSources
    from lingshu.serve.security import Limits, is_loopback, read_keys

    keys = read_keys(config.key_file) if config.key_file else ()
    loopback = is_loopback(config.host)
    if not (loopback or keys):
        raise ConfigError(
            f"--host {config.host} is open to other machines; give --key-file FILE with a key that"
            " clients must send, or leave --host out."
        )
    root = SafeFolder(config.root) if config.root else None
    hosts = [host.strip().lower() for host in (config.allow_urls or "").split(",")]
    fetch_policy = FetchPolicy(frozenset(hosts)) if config.allow_urls is not None else None
    ui = None if config.no_ui else _web_ui(config, root)
    options = model_options.engine_options(
        batch_size=config.max_batch_size, concurrency=config.max_batch_size
    )
    with (
        contextlib.closing(open_listener(config.host, config.port)) as listener,
        contextlib.closing(open_async_engine(model, options)) as engine,
    ):
        if not is_local(engine.endpoint) and not model_options.allow_remote:
            raise ConfigError(
                f"{engine.endpoint} is on another machine; pass --allow-remote if requests may be"
                " sent there."
            )
        serve_config = ServeConfig(
            engine,
            name=config.name or engine.model,
            slots=config.max_batch_size + config.max_queue_size,
            max_tokens=config.max_tokens,
            keys=keys,
            loopback=loopback,
            sources=ImageSources(root, fetch_policy),
            limits=Limits.of_body_mb(config.max_body_mb),
            ui=ui,
        )
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        served = f"{serve_config.name} [{engine.digest[:12]}] at {url}v1"
        print(f"{served}. {NOTICE}{f' Page: {url}' if ui else ''}", file=sys.stderr)
        print_warnings(engine_notes(engine))
        _run(serve_config, listener)
    return 0


def _web_ui(config: ServeOptions, root: SafeFolder | None) -> WebUI:
    from lingshu.ui.app import UiFolders, WebUI

    folders: dict[str, SafeFolder | None] = {"root": root}
    for option in ("runs", "review"):
        folder: Path | None = getattr(config, option)
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"--{option} {folder} is not a folder; give the one that holds them.")
        folders[option] = SafeFolder(folder) if folder else None
    return WebUI(UiFolders(**folders))


def _run(config: ServeConfig, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    from lingshu.serve.app import create_server

    log.configure_default("warning")
    # The event loop releases the GIL at every socket call; with the default switch interval it would
    # wait 5 ms for the model each time.
    sys.setswitchinterval(0.0005)
    server = create_server(config)
    # A model and its libraries are 400,000 objects: a full garbage collection would stop everything
    # for a quarter of a second.
    gc.collect()
    gc.freeze()
    server.run(sockets=[listener])
