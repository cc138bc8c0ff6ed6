"""`lingshu serve`: one model for many at once, behind the interface that OpenAI's clients speak."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.data_policy import DataPolicy, is_local
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ConfigError, InputError
from lingshu.core.fetch import FetchPolicy
from lingshu.core.safe_folder import SafeFolder
from lingshu.inference.answer import NOTICE
from lingshu.inference.engines import open_async_engine

if TYPE_CHECKING:
    import uvicorn

    from lingshu.serve.app import ServeConfig

KEY_PATTERN = re.compile(r"[!-~]{16,}")


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    key_file: Path | None = None,
    root: Path | None = None,
    runs: Path | None = None,
    review: Path | None = None,
    no_ui: bool = False,
    allow_urls: str | None = None,
    max_batch_size: int = 16,
    max_queue_size: int = 64,
    max_tokens: int = 1024,
    max_body_mb: int = 32,
    threads: int | None = None,
    allow_remote: bool = False,
) -> int:
    """Serve a model to clients of the chat completions interface, until it is stopped.

    Parameters
    ----------
    model
        A checkpoint folder, a hub id, or http(s)://host/v1#name.
    host
        The address to listen on. Beyond this machine (0.0.0.0, say) only with --key-file.
    port
        The port to listen on; 0 takes a free one and tells which.
    name
        The name that clients give as model; the model's own without it.
    key_file
        A file of keys, one a line, at least 16 characters each; every request then needs one.
    root
        A folder below which clients may name files, and whose studies the page shows; else images
        come inside the request alone.
    runs
        A folder with evaluations, whose reports the page shows.
    review
        A folder with review queues of lingshu synthesise; verdicts are written beside them.
    no_page
        Serve no web page, the interface alone.
    allow_urls
        Hosts that images may be fetched from, with commas between; without it nothing is fetched.
    batch
        How many replies are written at the same time.
    queue
        How many more questions may wait; beyond them clients are told to try again.
    max_tokens
        The longest reply, in tokens; also where a request names no length.
    max_body_mb
        The largest request, in MB.
    threads
        CPU threads for a model in this process.
    allow_remote
        Let the images go on to an endpoint on another machine.
    """
    from lingshu.serve.app import ServeConfig
    from lingshu.serve.media import ImageSources
    from lingshu.serve.security import Limits, is_loopback
    from lingshu.ui.app import UiFolders, WebUI

    for option, value, min_value in (
        ("max-batch-size", max_batch_size, 1),
        ("max-queue-size", max_queue_size, 0),
        ("max-tokens", max_tokens, 1),
        ("max-body-mb", max_body_mb, 1),
        ("port", port, 0),
    ):
        if value < min_value:
            raise ConfigError(f"--{option} is {value}; it must be at least {min_value}.")
    keys = read_keys(key_file) if key_file else ()
    loopback = is_loopback(host)
    if not (loopback or keys):
        raise ConfigError(
            f"--host {host} lets other machines in; give --key-file FILE with a key that clients"
            " must send, or leave --host out."
        )
    hosts = (
        frozenset(entry.strip().lower() for entry in allow_urls.split(","))
        if allow_urls is not None
        else None
    )
    sources = ImageSources(
        SafeFolder(root) if root else None, FetchPolicy(hosts) if hosts else None
    )
    ui = (
        None
        if no_ui
        else WebUI(
            UiFolders(
                sources.root, _open_safe_folder(runs, "runs"), _open_safe_folder(review, "review")
            )
        )
    )
    options = EngineOptions(
        batch_size=max_batch_size,
        concurrency=max_batch_size,
        threads=threads,
        data_policy=DataPolicy(allow_private=allow_remote),
    )
    with (
        contextlib.closing(open_listener(host, port)) as listener,
        contextlib.closing(open_async_engine(model, options)) as engine,
    ):
        if not is_local(engine.endpoint) and not allow_remote:
            raise ConfigError(
                f"{engine.endpoint} is on another machine; pass --allow-remote if what clients send"
                " may go there."
            )
        limits = Limits(max_body_bytes=max_body_mb << 20, max_held_bytes=4 * max_body_mb << 20)
        config = ServeConfig(
            engine,
            name or engine.model,
            max_batch_size + max_queue_size,
            max_tokens,
            keys,
            loopback,
            sources,
            limits,
            ui,
        )
        ui_note = f" Page: {base_url(listener).removesuffix('v1')}" if ui else ""
        print(
            f"{config.name} [{engine.digest[:12]}] at {base_url(listener)}. {NOTICE}{ui_note}",
            file=sys.stderr,
        )
        run(config, listener)
    return 0


def _open_safe_folder(folder: Path | None, option: str) -> SafeFolder | None:
    """The folder of an option, which must be there."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--{option} {folder} is no folder; give the folder that holds them.")
    return SafeFolder(folder) if folder is not None else None


def read_keys(file: Path) -> tuple[str, ...]:
    """The keys of a file, one a line; empty lines and lines that start with # are passed over.

    Raises:
        ConfigError: it cannot be read, holds none, or one that is too short. The message repeats no
            key.
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
        raise ConfigError(
            f"--key-file {file} holds no key; write one of at least 16 characters into it."
        )
    for index, key in enumerate(keys, 1):
        if not KEY_PATTERN.fullmatch(key):
            raise ConfigError(
                f"--key-file {file}: key {index} is shorter than 16 characters or holds a blank;"
                " draw a longer one."
            )
    return keys


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that takes connections, so that a port in use is told before a model is loaded.

    Raises:
        InputError: no such address here, or the port is taken.
    """
    try:
        if port > 65535:
            raise OverflowError  # the system would take the rest of a division
        family, _, _, _, socket_address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"--host {host} --port {port} is no address of this machine; give another."
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


def base_url(listener: socket.socket) -> str:
    """The base URL that clients are given."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def create_server(config: ServeConfig) -> uvicorn.Server:
    """The HTTP server, not started: `run(sockets=[...])` serves until `should_exit` is set."""
    from lingshu.serve.app import create_app
    from lingshu.serve.http import create_uvicorn_server

    return create_uvicorn_server(
        create_app(config), config.limits, lifespan="off", shutdown_timeout_s=5
    )


def run(config: ServeConfig, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    # The loop lets go of Python's lock at every socket; with the default of 5 ms it would wait that
    # long for the model each time.
    sys.setswitchinterval(0.0005)
    uvicorn_server = create_server(config)
    # A model and its libraries are 400,000 objects: looking through them all for garbage stops
    # everything for a quarter of a second.
    gc.collect()
    gc.freeze()
    uvicorn_server.run(sockets=[listener])
