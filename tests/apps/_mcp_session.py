"""What the tests of `lingshu mcp` share: servers and sessions with the official client, engines
that are elsewhere or never answer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mcp.client.client import Client
from mcp_types import CallToolResult, ElicitResult

from lingshu.apps._mcp_http import Door, server
from lingshu.apps._mcp_server import McpConfig, Serving, build, serving
from lingshu.apps._serve_guard import Limits
from lingshu.apps.serve import listening
from lingshu.imaging.read import png_bytes
from tests.tiny import picture

PNG = png_bytes(picture(0))
URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
MODES = ("auto", "legacy")
TOKEN = "a-token-of-some-length"
REPORT = "echo:Findings: a nodule. Impression: benign."
T = TypeVar("T")

# An engine at an address that is on no machine: it writes down what it is asked.
ELSEWHERE = """
from dataclasses import dataclass, field
from lingshu.core.nouns import Reply

@dataclass
class Elsewhere:
    model: str = "elsewhere"
    digest: str = "d"
    endpoint: str = "http://hospital.example/v1"
    asked: list = field(default_factory=list)

    def generate(self, samples, sampling, *, skip=()):
        self.asked += samples
        yield [Reply(sample.id, "sent", finish="stop") for sample in samples]

ENGINE = Elsewhere()

def load(model, options):
    return ENGINE
"""
# One that says a word and then nothing, until it is told that nobody waits.
ENDLESS = """
from dataclasses import dataclass, field

@dataclass
class Asked:
    live: object

    def cancel(self):
        self.live.running = 0

@dataclass
class Endless:
    model: str = "endless"
    digest: str = "d"
    endpoint: str | None = None
    streams: bool = True
    running: int = 0
    waiting: int = 0

    def submit(self, sample, sampling, heard, *, stop=()):
        self.running = 1
        heard("word")
        return Asked(self)

    def close(self):
        pass

def live(model, options):
    return Endless()
"""


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(bounded())


def engine(folder: Path, code: str) -> str:
    """A file with an engine; its name is a model's."""
    file = folder / "engine.py"
    file.write_text(code, encoding="utf-8")
    return str(file)


@contextlib.asynccontextmanager
async def session(
    config: McpConfig,
    mode: str = "auto",
    *,
    answer: str | None = None,
    using: Serving | None = None,
) -> AsyncIterator[Client]:
    """A session in memory; `answer` is what its user says when asked (accept, decline), None for a
    client that cannot ask.
    """
    given = using or serving(config)
    asks: dict[str, Any] = {}
    if answer is not None:

        async def user(context: object, params: Any) -> ElicitResult:
            given.shown.asked = params.message  # type: ignore[attr-defined]
            return ElicitResult(
                action=answer,  # pyright: ignore[reportArgumentType]
                content={"send": True} if answer == "accept" else None,
            )

        asks = {"elicitation_callback": user}
    try:
        async with Client(build(given), mode=mode, **asks) as client:
            yield client
    finally:
        if using is None:
            given.close()


def text(result: CallToolResult) -> str:
    return "".join(getattr(part, "text", "") for part in result.content)


def refused(result: CallToolResult) -> str:
    """The text of a result that must be an error."""
    assert result.is_error, text(result)
    return text(result)


def good(result: CallToolResult) -> dict[str, Any]:
    """The structured content of a result that must be none."""
    assert not result.is_error and result.structured_content is not None, text(result)
    return result.structured_content


@contextlib.contextmanager
def http_server(
    config: McpConfig,
    *,
    tokens: tuple[str, ...] = (),
    body_mb: int = 32,
    hosts: tuple[str, ...] = (),
) -> Iterator[int]:
    """A server on a free port of 127.0.0.1, for the length of a `with`; with `hosts` it is as one
    beyond this machine.
    """
    limits = Limits(
        body_bytes=body_mb << 20,
        held_bytes=4 * body_mb << 20,
        idle_s=0.5,
        header_s=2.0,
        drain_s=0.3,
    )
    with (
        contextlib.closing(listening("127.0.0.1", 0)) as listener,
        contextlib.closing(serving(config)) as using,
    ):
        running = server(build(using), Door(tokens, not hosts, hosts), limits)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join(20)
