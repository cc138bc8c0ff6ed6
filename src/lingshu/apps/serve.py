"""`lingshu serve`: one model for many at once, behind the interface that OpenAI's clients speak."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.apps._answering import NOTICE
from lingshu.apps.models import live_for
from lingshu.core.errors import ConfigError, InputError
from lingshu.core.fetch import Fetching
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release, is_local
from lingshu.core.rooted import Rooted

if TYPE_CHECKING:
    import uvicorn

    from lingshu.apps._serve_app import Serving

KEY = re.compile(r"[!-~]{16,}")


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
    no_page: bool = False,
    allow_urls: str | None = None,
    batch: int = 16,
    queue: int = 64,
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
    from lingshu.apps._page_app import Folders, Page
    from lingshu.apps._serve_app import Serving
    from lingshu.apps._serve_guard import Limits, is_loopback
    from lingshu.apps._serve_media import Sources

    for option, value, least in (
        ("batch", batch, 1),
        ("queue", queue, 0),
        ("max-tokens", max_tokens, 1),
        ("max-body-mb", max_body_mb, 1),
        ("port", port, 0),
    ):
        if value < least:
            raise ConfigError(f"--{option} is {value}; it must be at least {least}.")
    keys = keys_in(key_file) if key_file else ()
    loopback = is_loopback(host)
    if not (loopback or keys):
        raise ConfigError(
            f"--host {host} lets other machines in; give --key-file FILE with a key that clients"
            " must send, or leave --host out."
        )
    hosts = (
        frozenset(one.strip().lower() for one in allow_urls.split(","))
        if allow_urls is not None
        else None
    )
    sources = Sources(Rooted(root) if root else None, Fetching(hosts) if hosts else None)
    page = (
        None
        if no_page
        else Page(Folders(sources.root, _rooted(runs, "runs"), _rooted(review, "review")))
    )
    options = EngineOptions(
        batch_size=batch, concurrency=batch, threads=threads, release=Release(private=allow_remote)
    )
    with (
        contextlib.closing(listening(host, port)) as listener,
        contextlib.closing(live_for(model, options)) as live,
    ):
        if not is_local(live.endpoint) and not allow_remote:
            raise ConfigError(
                f"{live.endpoint} is on another machine; pass --allow-remote if what clients send"
                " may go there."
            )
        limits = Limits(body_bytes=max_body_mb << 20, held_bytes=4 * max_body_mb << 20)
        serving = Serving(
            live,
            name or live.model,
            batch + queue,
            max_tokens,
            keys,
            loopback,
            sources,
            limits,
            page,
        )
        shown = f" Page: {address(listener).removesuffix('v1')}" if page else ""
        print(
            f"{serving.name} [{live.digest[:12]}] at {address(listener)}. {NOTICE}{shown}",
            file=sys.stderr,
        )
        run(serving, listener)
    return 0


def _rooted(folder: Path | None, option: str) -> Rooted | None:
    """The folder of an option, which must be there."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--{option} {folder} is no folder; give the folder that holds them.")
    return Rooted(folder) if folder is not None else None


def keys_in(file: Path) -> tuple[str, ...]:
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
    for number, key in enumerate(keys, 1):
        if not KEY.fullmatch(key):
            raise ConfigError(
                f"--key-file {file}: key {number} is shorter than 16 characters or holds a blank;"
                " draw a longer one."
            )
    return keys


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections, so that a port in use is told before a model is loaded.

    Raises:
        InputError: no such address here, or the port is taken.
    """
    try:
        if port > 65535:
            raise OverflowError  # the system would take the rest of a division
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"--host {host} --port {port} is no address of this machine; give another."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(1024)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise InputError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror}); choose another"
            " --port."
        ) from error
    return listener


def address(listener: socket.socket) -> str:
    """The base URL that clients are given."""
    place, port = listener.getsockname()[:2]
    return f"http://[{place}]:{port}/v1" if ":" in place else f"http://{place}:{port}/v1"


def server(serving: Serving) -> uvicorn.Server:
    """The HTTP server, not started: `run(sockets=[...])` serves until `should_exit` is set."""
    from lingshu.apps._serve_app import application
    from lingshu.apps._serve_http import server_of

    return server_of(application(serving), serving.limits, lifespan="off", grace_s=5)


def run(serving: Serving, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    # The loop lets go of Python's lock at every socket; with the default of 5 ms it would wait that
    # long for the model each time.
    sys.setswitchinterval(0.0005)
    made = server(serving)
    # A model and its libraries are 400,000 objects: looking through them all for garbage stops
    # everything for a quarter of a second.
    gc.collect()
    gc.freeze()
    made.run(sockets=[listener])
