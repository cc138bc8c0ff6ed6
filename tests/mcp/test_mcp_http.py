"""`lingshu mcp` over HTTP and over standard input and output, with checks that the published server
lacks: Host, Origin, tokens, sizes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

from lingshu.mcp.legacy_env import read_legacy_environment
from tests.support.mcp_session import (
    MODES,
    REMOTE_ENGINE,
    REPORT,
    TOKEN,
    URI,
    error_text,
    http_server,
    run,
    session,
    setup,
    structured_content,
)
from tests.support.serving import write_engine

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "x", "version": "1"},
}
INITIALIZE_BODY = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
).encode()
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
BEARER: dict[str, Any] = {"Authorization": f"Bearer {TOKEN}"}


def post(port: int, path: str = "/mcp", body: bytes = INITIALIZE_BODY, **headers: str) -> int:
    """The status of one request."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    ) as connection:
        connection.request("POST", path, body, {**HEADERS, **headers})
        return connection.getresponse().status


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with http_server(setup(REPORT), max_body_mb=8) as port:
        yield port


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["/mcp", "/lingshu"])
def test_a_session_over_http(mode: str, path: str, port: int) -> None:
    async def work() -> dict[str, Any]:
        async with Client(f"http://127.0.0.1:{port}{path}", mode=mode) as client:
            assert len((await client.list_tools()).tools) == 11
            error_text(await client.call_tool("medical_qa", {"question": "?", "language": "fr"}))
            return structured_content(
                await client.call_tool("answer_question", {"question": "?", "images": [URI]})
            )

    assert run(work)["answer"].startswith("Findings")


@pytest.mark.parametrize("mode", MODES)
def test_a_person_is_prompted_over_http_too(mode: str, tmp_path: Path) -> None:
    messages: list[str] = []

    async def answer_elicitation(context: object, params: Any) -> ElicitResult:
        messages.append(params.message)
        return ElicitResult(action="accept", content={"send": len(messages) > 1})

    async def work(port: int) -> None:
        async with Client(
            f"http://127.0.0.1:{port}/lingshu", mode=mode, elicitation_callback=answer_elicitation
        ) as client:
            arguments = {"image_path": URI}
            assert "you did not agree" in error_text(
                await client.call_tool("analyze_medical_image", arguments)
            )
            assert (
                structured_content(await client.call_tool("analyze_medical_image", arguments))[
                    "report"
                ]
                == "sent"
            )

    with http_server(setup(write_engine(tmp_path, REMOTE_ENGINE))) as port:
        run(lambda: work(port))
    assert (
        messages
        == [
            "1 image and what you wrote would leave this machine and go to"
            " http://hospital.example/v1. Send?"
        ]
        * 2
    )


def test_an_image_larger_than_the_sdks_own_limit_gets_through(port: int) -> None:
    # PNG takes what follows its end; 4.5 MB in base64 are more than the 4 MiB of the SDK.
    image = base64.b64encode(base64.b64decode(URI.partition(",")[2]) + bytes(4_500_000)).decode()

    async def work() -> dict[str, Any]:
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            return structured_content(
                await client.call_tool("answer_question", {"question": "?", "images": [image]})
            )

    assert run(work)["image_provenance"][0]["columns"] == 90


def test_d5_forged_hosts_and_origins_are_refused(port: int) -> None:
    for path in ("/mcp", "/lingshu"):
        assert post(port, path) == 200
        assert post(port, path, Host="evil.example") == 421
        assert post(port, path, Host=f"127.0.0.1.evil.example:{port}") == 421
        assert post(port, path, Origin="http://evil.example") == 403
        assert post(port, path, Origin="null") == 403
        assert post(port, path, Origin=f"http://127.0.0.1:{port}") == 200


def test_bodies_are_bounded_in_size_and_time(port: int) -> None:
    assert post(port, body=bytes(9 << 20)) == 413
    assert post(port, body=b"{") == 400
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(
            "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length:"
            f" 100\r\n{_lines(HEADERS)}\r\n{{".encode()
        )
        assert slow.recv(64).startswith(b"HTTP/1.1 408")


def test_a_body_of_unknown_size_is_bounded_too(port: int) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (bytes(1 << 20) for _ in range(9))

    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    ) as connection:
        connection.request("POST", "/mcp", chunks(), HEADERS, encode_chunked=True)
        assert connection.getresponse().status == 413


def test_the_bodies_of_all_requests_together_are_bounded() -> None:
    size = 1 << 20
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n"
    with http_server(setup(REPORT), max_body_mb=1) as port, contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            for _ in range(5)
        ]
        for connection in connections:
            connection.sendall(f"{head}{_lines(HEADERS)}\r\n".encode() + bytes(size - 1))
        statuses = {connection.recv(64)[:12] for connection in connections}
        # Four fit, and the last byte of none arrives.
        assert statuses == {b"HTTP/1.1 408", b"HTTP/1.1 429"}
        assert post(port) == 200


def _lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def test_every_request_needs_a_token() -> None:
    with http_server(setup(REPORT), tokens=("another-token-of-a-length", TOKEN)) as port:
        for path in ("/mcp", "/lingshu"):
            assert post(port, path) == 401
            assert post(port, path, Authorization="Bearer bad") == 401
            assert post(port, path, Authorization=f"Basic {TOKEN}") == 401
            assert post(port, path, **BEARER) == 200
            assert post(port, path, Host="evil.example", **BEARER) == 421
            assert post(port, path, Origin="http://evil.example", **BEARER) == 403

        async def work() -> None:
            async with (
                httpx2.AsyncClient(headers=BEARER) as http_client,
                Client(
                    streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http_client)
                ) as client,
            ):
                structured_content(await client.call_tool("medical_qa", {"question": "?"}))

        run(work)


def test_a_session_belongs_to_the_key_that_opened_it() -> None:
    other = {"Authorization": "Bearer another-token-of-a-length"}
    with (
        http_server(setup(REPORT), tokens=("another-token-of-a-length", TOKEN)) as port,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection,
    ):

        def status(method: str, headers: dict[str, str]) -> tuple[int, str | None]:
            body = INITIALIZE_BODY if method == "POST" else None
            connection.request(method, "/mcp", body, {**HEADERS, **headers})
            response = connection.getresponse()
            response.read()
            return response.status, response.headers.get("mcp-session-id")

        opened, name = status("POST", BEARER)
        assert (opened, name is not None) == (200, True)
        named = {"Mcp-Session-Id": str(name)}
        assert status("DELETE", {**named, **other})[0] == 404
        assert status("DELETE", {**named, "Authorization": f"bearer  {TOKEN} "})[0] == 200


def test_beyond_this_machine_only_the_given_host_names_are_answered() -> None:
    with http_server(setup(REPORT), tokens=(TOKEN,), hosts=("pacs.hospital.example",)) as port:
        assert post(port, Host="pacs.hospital.example", **BEARER) == 200
        assert post(port, Host="pacs.hospital.example:4200", **BEARER) == 200
        assert post(port, Host="evil.example", **BEARER) == 421
        assert (
            post(port, Host="pacs.hospital.example", Origin="http://evil.example", **BEARER) == 403
        )
        assert post(port, Host="pacs.hospital.example") == 401


@pytest.mark.parametrize("mode", MODES)
def test_a_session_over_standard_input_and_output(mode: str) -> None:
    async def work() -> None:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "lingshu", "mcp", REPORT]
        )
        async with Client(server, mode=mode) as client:
            assert len((await client.list_tools()).tools) == 11
            assert (
                structured_content(await client.call_tool("draft_report", {"images": [URI]}))[
                    "findings"
                ]
                == "a nodule."
            )
            error_text(
                await client.call_tool(
                    "answer_question", {"question": "?", "images": ["/etc/passwd"]}
                )
            )

    run(work)


def test_d9_standard_output_carries_only_the_protocol_and_a_signal_ends_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "lingshu", "mcp", REPORT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as server:
        assert server.stdin and server.stdout and server.stderr
        server.stdin.write(INITIALIZE_BODY + b"\n")
        server.stdin.flush()
        first = json.loads(server.stdout.readline())
        assert first["id"] == 1 and first["result"]["serverInfo"]["name"] == "lingshu"
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert server.stdout.read() == b"" and server.stderr.read() == b""


def test_what_failed_is_in_the_log_of_the_command(tmp_path: Path) -> None:
    code = "def load(model, options):\n    raise KeyError('Canary')\n"
    arguments = {"name": "medical_qa", "arguments": {"question": "?"}}
    messages = [
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": arguments},
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "lingshu", "mcp", write_engine(tmp_path, code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as server:
        assert server.stdin and server.stdout and server.stderr
        for line in (INITIALIZE_BODY, *(json.dumps(message).encode() for message in messages)):
            server.stdin.write(line + b"\n")
        server.stdin.flush()
        replies = [json.loads(server.stdout.readline()) for _ in range(2)]
        assert "what happened is in its log" in str(replies[1])
        server.send_signal(signal.SIGTERM)
        server.wait(20)
        log = server.stderr.read().decode()
        assert "bug: KeyError in load, line 2" in log and "Canary" not in log


def test_the_environment_of_the_published_server_is_read_and_reported(tmp_path: Path) -> None:
    assert (
        read_legacy_environment({}) is None
        and read_legacy_environment({"LINGSHU_SERVER_API": "secret"}) is None
    )
    environment = read_legacy_environment({"LINGSHU_MODEL": "Lingshu-32B"})
    assert (
        environment is not None
        and environment.model == "http://localhost:8000/v1#Lingshu-32B"
        and environment.api_key is None
    )
    variables = {
        "LINGSHU_SERVER_URL": "http://u:hidden@127.0.0.1:9/v1/",
        "LINGSHU_SERVER_API": "secret-key",
    }
    environment = read_legacy_environment(variables)
    assert (
        environment is not None
        and environment.model == "http://u:hidden@127.0.0.1:9/v1#Lingshu-7B"
        and environment.api_key == "secret-key"
    )
    assert (
        str(environment)
        == "LINGSHU_SERVER_URL and LINGSHU_SERVER_API of the environment are used: the model is"
        " Lingshu-7B at 127.0.0.1"
    )
    assert "secret-key" not in repr(environment)
    process = subprocess.run(
        [sys.executable, "-m", "lingshu", "mcp"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables, "LINGSHU_SERVER_URL": "http://127.0.0.1:9/v1"},
    )
    assert (process.returncode, process.stdout) == (0, "")
    assert (
        process.stderr.startswith(
            "lingshu mcp: LINGSHU_SERVER_URL and LINGSHU_SERVER_API of the environment are used"
        )
        and "secret-key" not in process.stderr
    )
    # Clients and the first line of the log get the model's name: a password in its address is
    # refused, and not repeated.
    environment = subprocess.run(
        [sys.executable, "-m", "lingshu", "mcp", "--http", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )
    assert (
        environment.returncode == 2
        and "has a password" in environment.stderr
        and "hidden" not in environment.stderr
    )


@pytest.mark.slow
def test_the_protocols_inspector_drives_it() -> None:
    inspector = shutil.which("mcp-inspector")
    if inspector is None:
        pytest.skip(
            "the MCP inspector is not installed (npm install -g @modelcontextprotocol/inspector)"
        )
    base = [inspector, "--cli", sys.executable, "-m", "lingshu", "mcp", REPORT]

    def inspect(*arguments: str) -> dict[str, Any]:
        return json.loads(
            subprocess.run(
                [*base, *arguments], capture_output=True, text=True, timeout=120, check=True
            ).stdout
        )

    assert len(inspect("--method", "tools/list")["tools"]) == 11
    result = inspect(
        "--method",
        "tools/call",
        "--tool-name",
        "medical_qa",
        "--tool-arg",
        "question=What is a nodule?",
    )
    assert result["structuredContent"]["status"] == "success"
    wrong = inspect(
        "--method",
        "tools/call",
        "--tool-name",
        "medical_qa",
        "--tool-arg",
        "question=?",
        "--tool-arg",
        "language=fr",
    )
    assert wrong["isError"] is True
    assert (
        len(inspect("--method", "resources/list")["resources"]) == 4
        and len(inspect("--method", "prompts/list")["prompts"]) == 4
    )


@pytest.mark.slow
@pytest.mark.parametrize("over_http", [False, True])
def test_an_evaluation_ends_with_its_server(over_http: bool, tmp_path: Path) -> None:
    """The model of the evaluation waits, and leaves the number of its process."""
    pid_file = tmp_path / "begun"
    write_pid_code = f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))"
    engine_code = f"import os, pathlib, sys, time\nif 'eval' in sys.argv:\n    {write_pid_code}\n    time.sleep(600)\n"
    command = [
        "-m",
        "lingshu",
        "mcp",
        write_engine(tmp_path, engine_code),
        "--runs",
        str(tmp_path / "runs"),
        "--allow-remote",
    ]

    async def start(server: str | StdioServerParameters) -> None:
        async with Client(server) as client:
            structured_content(
                await client.call_tool(
                    "evaluate", {"action": "start", "task": "phantom", "limit": 1}
                )
            )
            while not pid_file.exists() or not pid_file.read_text():
                await asyncio.sleep(0.05)

    if over_http:
        with subprocess.Popen(
            [sys.executable, *command, "--http", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
        ) as server:
            assert server.stderr
            url = next(
                word for word in server.stderr.readline().split() if word.startswith("http://")
            )
            run(lambda: start(url))
            server.terminate()
            assert server.wait(20) == 0
    else:
        run(lambda: start(StdioServerParameters(command=sys.executable, args=command)))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_evaluations_are_started_followed_read_and_cancelled(mode: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with session(setup("echo:yes", runs=tmp_path / "runs"), mode) as client:
            evaluation = structured_content(
                await client.call_tool(
                    "evaluate", {"action": "start", "task": "phantom", "limit": 20}
                )
            )
            assert evaluation["state"] == "running" and evaluation["model"] == "echo:yes"
            assert "is running" in error_text(
                await client.call_tool("evaluate", {"action": "start", "task": "phantom"})
            )
            assert "there is no result" in error_text(
                await client.call_tool("evaluate", {"action": "result", "run": evaluation["run"]})
            )
            while (
                status := structured_content(
                    await client.call_tool(
                        "evaluate", {"action": "status", "run": evaluation["run"]}
                    )
                )
            )["state"] == "running":
                await asyncio.sleep(0.2)
            assert (status["state"], status["n_questions"], status["n_answered"]) == (
                "done",
                20,
                20,
            )
            result = structured_content(
                await client.call_tool("evaluate", {"action": "result", "run": evaluation["run"]})
            )
            assert (
                result["scores"][0]["task"] == "phantom"
                and result["scores"][0]["n"] == 20
                and len(result["prompt_sha256"]) == 64
            )
            assert result["report"].startswith("#") and result["model"] == "echo:yes"
            assert (
                evaluation["run"] in (await client.read_resource("lingshu://runs")).contents[0].text  # pyright: ignore[reportAttributeAccessIssue]
            )
            assert (
                "phantom"
                in (await client.read_resource(f"lingshu://run/{evaluation['run']}"))
                .contents[0]
                .text  # type: ignore[union-attr]
            )
            evaluation = structured_content(
                await client.call_tool("evaluate", {"action": "start", "task": "phantom"})
            )
            assert (
                structured_content(
                    await client.call_tool(
                        "evaluate", {"action": "cancel", "run": evaluation["run"]}
                    )
                )["state"]
                == "cancelled"
            )
            evaluation = structured_content(
                await client.call_tool("evaluate", {"action": "start", "task": "slake", "limit": 1})
            )
            while (
                status := structured_content(
                    await client.call_tool(
                        "evaluate", {"action": "status", "run": evaluation["run"]}
                    )
                )
            )["state"] == "running":
                await asyncio.sleep(0.2)
            assert status["state"] == "failed" and status["error"]  # its data are not here

    run(work)
