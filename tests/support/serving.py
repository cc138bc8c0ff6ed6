"""A server in this process for the tests of serving: a tiny model, a real socket, and a client that
speaks plain HTTP.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.types import AsyncEngine
from lingshu.serve.app import ServeConfig, create_server
from lingshu.serve.http import open_listener

WAIT_S = 20.0


class Answer(NamedTuple):
    """A status, its headers in small letters, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a stream; the last line must be [DONE]."""
        *lines, last_line = [
            line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line
        ]
        assert last_line == "[DONE]"
        return [json.loads(line) for line in lines]


class Client(NamedTuple):
    """Asks one server."""

    port: int
    name: str

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request(
                method,
                path,
                body,
                {name.replace("_", "-"): value for name, value in headers.items()},
            )
            response = connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )

    def chat(self, content: object = "Is there a lesion?", **fields: object) -> Answer:
        """One completion; `content` is that of a user turn."""
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 4,
            **fields,
        }
        return self.send(
            "POST",
            "/v1/chat/completions",
            json.dumps(body).encode(),
            Content_Type="application/json",
        )

    def wait_until_metric(self, text: str) -> None:
        """Wait until a line of /metrics says so, a bounded while."""
        end = time.monotonic() + WAIT_S
        while text not in self.send("GET", "/metrics").body.decode():
            assert time.monotonic() < end, f"{text!r} did not come true"


def write_engine(folder: Path, code: str) -> str:
    """A file with an engine; its path can be given as a model."""
    file = folder / "engine.py"
    file.write_text(code, encoding="utf-8")
    return str(file)


@contextlib.contextmanager
def serving(engine: AsyncEngine, **options: Any) -> Iterator[Client]:
    """A server on a free port of 127.0.0.1, for the length of a `with`."""
    with contextlib.closing(open_listener("127.0.0.1", 0)) as listener:
        http_server = create_server(ServeConfig(engine, "tiny", **options))
        thread = threading.Thread(
            target=http_server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        thread.start()
        try:
            yield Client(listener.getsockname()[1], "tiny")
        finally:
            http_server.should_exit = True
            thread.join(WAIT_S)
