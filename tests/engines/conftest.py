"""A chat-completions server whose answers a test scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.llm_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    started_server = Server()
    yield started_server
    started_server.close()
