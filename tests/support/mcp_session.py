"""What the tests of `lingshu mcp` share: servers and sessions with the official client, engines
that are remote or never answer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from mcp.client.client import Client
from mcp_types import CallToolResult, ElicitResult

from lingshu.core.types import EngineOptions
from lingshu.imaging.read import png_bytes
from lingshu.mcp import services as mcp_services
from lingshu.mcp.http import AuthConfig, create_server
from lingshu.mcp.server import build_server
from lingshu.mcp.services import McpConfig, McpServices
from lingshu.serve.http import open_listener
from lingshu.serve.security import Limits
from tests.support.tiny import make_image

PNG = png_bytes(make_image(0))
URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
MODES = ("auto", "legacy")
TOKEN = "a-token-of-some-length"
REPORT = "echo:Findings: a nodule. Impression: benign."
T = TypeVar("T")

# An engine at a remote address that records its requests.
REMOTE_ENGINE = """
from dataclasses import dataclass, field
from lingshu.core.types import Reply

@dataclass
class RemoteEngine:
    model: str = "remote"
    digest: str = "d"
    endpoint: str = "http://hospital.example/v1"
    requests: list = field(default_factory=list)

    def generate(self, samples, sampling, *, skip=()):
        self.requests += samples
        yield [Reply(sample.id, "sent", finish="stop") for sample in samples]

ENGINE = RemoteEngine()

def load(model, options):
    return ENGINE
"""
# One that emits a token and then nothing until it is cancelled.
ENDLESS_ENGINE = """
from dataclasses import dataclass, field

@dataclass
class Handle:
    engine: object

    def cancel(self):
        self.engine.running = 0

@dataclass
class Endless:
    model: str = "endless"
    digest: str = "d"
    endpoint: str | None = None
    streams: bool = True
    running: int = 0
    waiting: int = 0

    def submit(self, sample, sampling, on_event, *, stop=()):
        self.running = 1
        on_event("word")
        return Handle(self)

    def close(self):
        pass

def live(model, options):
    return Endless()
"""


class Setup(NamedTuple):
    model: str | None
    config: McpConfig
    allow_remote: bool


def setup(model: str | None = None, *, allow_remote: bool = False, **options: Any) -> Setup:
    """A server's model and options."""
    return Setup(model, McpConfig(**options), allow_remote)


def open_services(given: Setup) -> McpServices:
    options = EngineOptions(batch_size=8, concurrency=8, retries=2)
    return mcp_services.open_services(
        given.model, given.config, options, allow_remote=given.allow_remote
    )


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def with_timeout() -> T:
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(with_timeout())


@contextlib.asynccontextmanager
async def session(
    given: Setup,
    mode: str = "auto",
    *,
    answer: str | None = None,
    services: McpServices | None = None,
) -> AsyncIterator[Client]:
    """A session in memory; `answer` is its user's response (accept, decline), None for a client that
    cannot ask.
    """
    active_services = services or open_services(given)
    client_options: dict[str, Any] = {}
    if answer is not None:

        async def answer_elicitation(context: object, params: Any) -> ElicitResult:
            active_services.media.last_question = params.message  # type: ignore[attr-defined]
            return ElicitResult(
                action=answer,  # pyright: ignore[reportArgumentType]
                content={"send": True} if answer == "accept" else None,
            )

        client_options = {"elicitation_callback": answer_elicitation}
    try:
        async with Client(build_server(active_services), mode=mode, **client_options) as client:
            yield client
    finally:
        if services is None:
            active_services.close()


def text(result: CallToolResult) -> str:
    return "".join(getattr(part, "text", "") for part in result.content)


def error_text(result: CallToolResult) -> str:
    """The text of a result that must be an error."""
    assert result.is_error, text(result)
    return text(result)


def structured_content(result: CallToolResult) -> dict[str, Any]:
    """The structured content of a result that must not be an error."""
    assert not result.is_error and result.structured_content is not None, text(result)
    return result.structured_content


@contextlib.contextmanager
def http_server(
    given: Setup,
    *,
    tokens: tuple[str, ...] = (),
    max_body_mb: int = 32,
    hosts: tuple[str, ...] = (),
) -> Iterator[int]:
    """A server on a free port of 127.0.0.1, for the length of a `with`; with `hosts` it acts as if
    beyond this machine.
    """
    limits = Limits.of_body_mb(
        max_body_mb,
        idle_timeout_s=0.5,
        header_timeout_s=2.0,
        drain_timeout_s=0.3,
    )
    with (
        contextlib.closing(open_listener("127.0.0.1", 0)) as listener,
        contextlib.closing(open_services(given)) as services,
    ):
        uvicorn_server = create_server(
            build_server(services), AuthConfig(tokens, not hosts, hosts), limits
        )
        thread = threading.Thread(
            target=uvicorn_server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            uvicorn_server.should_exit = True
            thread.join(20)
