"""The server as clients see it: complete and streamed replies, images, limits, keys, and errors with
their remedy.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from lingshu.cli.main import main
from lingshu.core.safe_folder import SafeFolder
from lingshu.engines.hf import ContinuousBatchingEngine
from lingshu.imaging.read import png_bytes
from lingshu.models.load import LoadedModel
from lingshu.serve.app import ServeConfig, create_app
from lingshu.serve.media import ImageSources
from lingshu.serve.security import Limits
from tests.support.serving import Answer, Client, serving, write_engine
from tests.support.tiny import make_image, tiny

PNG = png_bytes(make_image(0))
URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
KEY = "a-key-of-sixteen-characters"
FAILING_ENGINE = """
from lingshu.core.errors import EngineError

class FailingEngine:
    model, digest, endpoint = "failing", "d" * 12, None

    def generate(self, samples, sampling, *, skip=()):
        raise EngineError("the cable is out.")

def load(model, options):
    return FailingEngine()
"""
ENDLESS: dict[str, Any] = {"max_tokens": 900, "temperature": 2.0, "seed": 3, "stream": True}


@pytest.fixture(scope="module")
def engine() -> Iterator[ContinuousBatchingEngine]:
    model = ContinuousBatchingEngine(
        LoadedModel(*tiny("qwen2_5_vl"), "tiny", "0123456789abcdef"), batch_size=4
    )
    yield model
    model.close()


@pytest.fixture(scope="module")
def client(engine: ContinuousBatchingEngine) -> Iterator[Client]:
    with serving(engine, max_tokens=900) as server_client:
        yield server_client


def image_content(*uris: str, text: str = "Is there a lesion?") -> list[dict[str, Any]]:
    return [
        *({"type": "image_url", "image_url": {"url": uri}} for uri in uris),
        {"type": "text", "text": text},
    ]


def test_a_reply_names_its_model_and_the_provenance_of_its_images(client: Client) -> None:
    response = client.chat(image_content(URI, URI)).json
    assert response["object"] == "chat.completion" and response["model"] == "tiny"
    assert response["choices"][0]["finish_reason"] in ("stop", "length")
    assert (
        response["usage"]["total_tokens"]
        == response["usage"]["prompt_tokens"] + response["usage"]["completion_tokens"]
    )
    provenance = response["lingshu"]
    assert (
        provenance["digest"] == "0123456789abcdef"
        and provenance["notice"] == "Research only; not for clinical use."
    )
    assert [
        (entry["item"], entry["rows"], entry["columns"]) for entry in provenance["image_provenance"]
    ] == [
        (1, 60, 90),
        (2, 60, 90),
    ]


def test_a_streamed_reply_is_the_full_one_in_pieces(client: Client) -> None:
    fields: dict[str, Any] = {"max_tokens": 30, "temperature": 1.0, "seed": 5}
    full_response = client.chat(image_content(URI), **fields).json
    events = client.chat(
        image_content(URI), stream=True, stream_options={"include_usage": True}, **fields
    ).events
    assert (
        "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
        == full_response["choices"][0]["message"]["content"]
    )
    assert events[-2]["choices"][0]["finish_reason"] == full_response["choices"][0]["finish_reason"]
    assert events[-2]["lingshu"] == full_response["lingshu"]
    assert events[-1]["choices"] == [] and events[-1]["usage"] == full_response["usage"]
    assert (
        events[0]["choices"][0]["delta"]["role"] == "assistant"
        and len({e["id"] for e in events}) == 1
    )


def test_dialogues_of_several_turns_and_system_prompts_are_accepted(client: Client) -> None:
    turns = [
        {"role": "developer", "content": "Answer in one word."},
        {"role": "user", "content": image_content(URI)},
        {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "left"},
                {"type": "image_url", "image_url": {"url": URI}},
            ],
        },
    ]
    assert client.chat(messages=turns).status == 200
    assert client.chat(messages=turns[:3]).status == 200


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"n": 2}, "n", "another seed"),
        ({"logprobs": True}, "logprobs", "leave the field out"),
        ({"tools": [{}]}, "tools", "calls no tools"),
        ({"response_format": {"type": "json_object"}}, "response_format", "plain text"),
        ({"max_tokens": 10**9}, "max_tokens", "above 900"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"temperature": -1}, "temperature", ""),
        ({"nonsense": 1}, "nonsense", "unrecognized request argument"),
        ({"messages": []}, "messages", ""),
        (
            {"messages": [{"role": "ZZQUX", "content": "x"}]},
            "messages.0",
            "'role' is none of 'system', 'developer', 'user', 'assistant'",
        ),
    ],
)
def test_unsupported_fields_are_refused_by_name(
    client: Client, fields: dict[str, Any], param: str, message: str
) -> None:
    response = client.chat(**fields)
    assert response.status == 400
    assert (
        response.error["param"].startswith(param)
        and message in response.error["message"]
        and "ZZQUX" not in response.error["message"]
    )


def test_other_models_paths_methods_and_bodies_are_refused(client: Client) -> None:
    assert client.chat(model="gpt").status == 404
    assert client.send("GET", "/v2").error["type"] == "not_found_error"
    assert client.send("GET", "/v1/chat/completions").status == 405
    chat = "/v1/chat/completions"
    assert client.send("POST", chat, b"{}", Content_Type="text/plain").status == 415
    assert (
        client.send(
            "POST", chat, b"x", Content_Type="application/json", Content_Encoding="gzip"
        ).status
        == 415
    )
    assert (
        client.send("POST", chat, b"{", Content_Type="application/json").error["code"]
        == "invalid_json"
    )
    assert client.send("POST", chat, b"[" * 100_000, Content_Type="application/json").status == 400
    assert (
        client.send("POST", chat, b'{"model": "\xff"}', Content_Type="application/json").status
        == 400
    )


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,AAAA",
        "data:image/png;base64," + base64.b64encode(PNG[:100]).decode(),
        "data:image/png;base64,%%%",
        "data:image/png;base64," + "AAA=" * (1 << 18) + base64.b64encode(PNG).decode(),
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(),
        "data:image/eps;base64," + base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0").decode(),
        "data:text/plain,hello",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://127.0.0.1:1/a.png",
        "ftp://host/a.png",
        "",
    ],
)
def test_what_is_not_an_image_is_refused_and_never_repeated(client: Client, uri: str) -> None:
    response = client.chat(image_content(uri))
    assert (
        response.status == 400 and response.error["param"] == "messages.0.content.0.image_url.url"
    )
    assert "passwd" not in response.body.decode() and "127.0.0.1" not in response.body.decode()


def test_ten_thousand_images_are_refused_before_one_is_opened(client: Client) -> None:
    turns = [{"role": "user", "content": image_content(*["data:,"] * 200)} for _ in range(50)]
    assert "10000 images, more than 64" in client.chat(messages=turns).error["message"]


def test_files_are_read_only_below_the_root(
    engine: ContinuousBatchingEngine, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "scan.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "secret.png")
    with serving(engine, sources=ImageSources(SafeFolder(tmp_path / "root"))) as client:
        for name in ("scan.png", f"file://{tmp_path}/root/scan.png"):
            assert client.chat(image_content(name)).status == 200
        refusals = {
            client.chat(image_content(name)).body
            for name in (
                "../secret.png",
                "link.png",
                "nothing.png",
                f"file://{tmp_path}/secret.png",
            )
        }
        assert len(refusals) == 1 and str(tmp_path) not in refusals.pop().decode()


def test_keys_are_required_everywhere_except_for_health(engine: ContinuousBatchingEngine) -> None:
    with serving(engine, keys=("another-key-of-this-server", KEY)) as client:
        assert client.send("GET", "/health").status == 200
        for header in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": KEY},
            {"Authorization": "Bearer "},
        ):
            response = client.send("GET", "/v1/models", None, **header)
            assert response.status == 401 and response.headers["www-authenticate"] == "Bearer"
        assert (
            client.send("GET", "/v1/models", Authorization=f"Bearer {KEY}").json["data"][0]["id"]
            == "tiny"
        )
        assert client.chat().status == 401


def test_foreign_hosts_and_origins_do_not_reach_a_server_on_this_machine(client: Client) -> None:
    for host, status in (
        ("evil.test", 421),
        ("127.0.0.1.evil.test", 421),
        ("localhost:1", 200),
        ("[::1]:8", 200),
        ("127.0.0.1", 200),
    ):
        assert client.send("GET", "/health", Host=host).status == status
    own_host = f"127.0.0.1:{client.port}"
    for origin, status in (
        ("http://evil.test", 403),
        ("null", 403),
        (f"http://{own_host}", 200),
        ("http://127.0.0.1:1", 403),
    ):
        assert client.send("GET", "/health", Host=own_host, Origin=origin).status == status


def test_bodies_are_bounded(engine: ContinuousBatchingEngine) -> None:
    with serving(engine, limits=Limits(max_body_bytes=10_000, max_held_bytes=1 << 20)) as client:
        chat = "/v1/chat/completions"
        assert (
            client.send("POST", chat, b"x" * 1_000_000, Content_Type="application/json").status
            == 413
        )
        pieces = iter([b"x" * 6000, b"x" * 6000])
        assert client.send("POST", chat, pieces, Content_Type="application/json").status == 413  # type: ignore[arg-type]
        assert "lingshu_body_bytes 0" in client.send("GET", "/metrics").body.decode()


def send_raw(client: Client, data: bytes) -> bytes:
    """What arrives over one connection until it is closed."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as wire:
        wire.sendall(data)
        return b"".join(iter(lambda: wire.recv(65536), b""))


def test_slow_heads_and_bodies_are_cut_off(engine: ContinuousBatchingEngine) -> None:
    with serving(
        engine, limits=Limits(header_timeout_s=0.2, idle_timeout_s=0.2, drain_timeout_s=0.1)
    ) as client:
        assert send_raw(client, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") == b""
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type:"
            b" application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert send_raw(client, head).startswith(b"HTTP/1.1 408")
        # A second request that stays unfinished, on a connection that was answered.
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        connection.sock.sendall(b"GET /hea")
        assert connection.sock.recv(65536) == b""


def posted(**fields: object) -> bytes:
    """A request for one completion, as bytes."""
    body = json.dumps(
        {"model": "tiny", "messages": [{"role": "user", "content": "?"}], **fields}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def test_beyond_the_slots_clients_get_429_and_a_slot_is_free_when_its_client_disconnects(
    engine: ContinuousBatchingEngine,
) -> None:
    with serving(engine, slots=2, max_tokens=900) as client:
        wires = [socket.create_connection(("127.0.0.1", client.port), timeout=20) for _ in range(2)]
        for wire in wires:
            wire.sendall(posted(**ENDLESS))
            assert wire.recv(65536).startswith(b"HTTP/1.1 200")
        response = client.chat()
        if response.status != 200:  # both may have ended already on a fast machine
            assert response.status == 429 and int(response.headers["retry-after"]) >= 1
        for wire in wires:
            wire.close()
        client.wait_until_metric("lingshu_running 0")
        assert client.chat().status == 200


def test_a_client_of_a_full_reply_that_disconnects_frees_its_slot(
    engine: ContinuousBatchingEngine,
) -> None:
    with serving(engine, slots=1, max_tokens=900) as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as wire:
            wire.sendall(posted(**{**ENDLESS, "stream": False}))
            client.wait_until_metric("lingshu_running 1")
        client.wait_until_metric("lingshu_running 0")
        client.wait_until_metric('lingshu_requests_total{status="499"} 1')
        assert client.chat().status == 200


def test_a_client_that_reads_its_full_reply_slowly_holds_no_slot(
    engine: ContinuousBatchingEngine,
) -> None:
    """The application without a socket: the send of one client waits, another client gets a reply."""
    head, _, data = posted().partition(b"\r\n\r\n")
    headers = [tuple(line.split(b": ")) for line in head.lower().split(b"\r\n")[1:]]
    path = "/v1/chat/completions"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }

    async def ask(app: Any, send: Any) -> None:
        events = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return events.pop() if events else await asyncio.Event().wait()  # type: ignore[return-value]

        await app(dict(scope), receive, send)

    async def work() -> list[int]:
        app = create_app(ServeConfig(engine, "tiny", slots=1, max_tokens=4))
        statuses: list[int] = []
        sending, may_send = asyncio.Event(), asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def slow_send(message: Any) -> None:
            sending.set()
            await may_send.wait()
            await send(message)

        async with asyncio.timeout(20), asyncio.TaskGroup() as clients:
            clients.create_task(ask(app, slow_send))
            await sending.wait()
            await ask(app, send)
            may_send.set()
        return statuses

    assert asyncio.run(work()) == [200, 200]


def test_many_clients_get_what_each_would_get_alone(client: Client) -> None:
    texts = [f"Is there a lesion? {'left ' * index}" for index in range(6)]
    expected = [client.chat(text, max_tokens=12).json["choices"] for text in texts]
    responses: list[Answer | None] = [None] * len(texts)

    def ask(index: int) -> None:
        responses[index] = client.chat(texts[index], max_tokens=12)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [response.json["choices"] for response in responses if response] == expected


def test_the_openapi_schema_names_this_servers_model_and_limits(client: Client) -> None:
    schema = client.send("GET", "/openapi.json").json["components"]["schemas"]["ChatRequest"][
        "properties"
    ]
    assert schema["model"]["const"] == "tiny"
    assert {"maximum": 900, "minimum": 1, "type": "integer"} in schema["max_tokens"]["anyOf"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "give --key-file"),
        (["--host", "::"], "give --key-file"),
        (["--host", "0.0.0.0", "--key-file", "short"], "shorter than 16"),
        (["--host", "0.0.0.0", "--key-file", "none"], "cannot be read"),
        (["--root", "none"], "give a folder that exists"),
        (["--max-batch-size", "0"], "at least 1"),
        (["--allow-urls", "http://x/"], "is not a host"),
        (["--port", "99999"], "is not an address"),
    ],
)
def test_options_are_checked_before_a_model_is_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("secret\n")
    assert main(["serve", "no-such-model", *arguments]) == 2
    stderr = capsys.readouterr().err
    assert message in stderr and "secret" not in stderr


def test_a_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        assert main(["serve", "echo:yes", "--port", str(occupied.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_the_command_serves_until_it_is_stopped() -> None:
    command = [
        sys.executable,
        "-m",
        "lingshu",
        "serve",
        "echo:yes, there is",
        "--port",
        "0",
        "--name",
        "tiny",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("tiny [") and "not for clinical use" in line
        client = Client(int(line.split("127.0.0.1:")[1].split("/")[0]), "tiny")
        assert (
            client.chat(image_content(URI), stop=", ").json["choices"][0]["message"]["content"]
            == "yes"
        )
        assert not client.send("GET", "/v1/models").json["data"][0]["lingshu"]["streams"]
        process.terminate()
        assert process.wait(20) != 70
        assert process.stderr.read() == "lingshu: stopped\n"


def test_what_failed_is_in_the_log_of_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lingshu", "serve", write_engine(tmp_path, FAILING_ENGINE)]
    with subprocess.Popen(
        [*command, "--port", "0", "--name", "tiny"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        client = Client(int(line.split("127.0.0.1:")[1].split("/")[0]), "tiny")
        response = client.chat()
        assert response.status == 500 and "in the server's log" in response.error["message"]
        process.terminate()
        process.wait(20)
        assert "ERROR lingshu.serve.chat: the cable is out." in process.stderr.read()


def test_a_client_that_reads_nothing_is_cut_off(engine: ContinuousBatchingEngine) -> None:
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        serving(engine, limits=Limits(send_timeout_s=0.5)) as client,
        socket.create_connection(("127.0.0.1", client.port)) as wire,
    ):
        wire.settimeout(15)
        # It sends requests and never reads: in the end nothing more can be written to it.
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                wire.sendall(ask * 100)
        assert client.chat().status == 200


def test_objects_from_before_serving_are_never_garbage_collected() -> None:
    """A collection over a model and its libraries would stop every reply for a quarter of a second."""
    code = """
import gc, os, signal, threading
from lingshu.cli.main import main
def stop():
    turn = threading.Event()
    for _ in range(400):
        if gc.get_freeze_count() or turn.wait(0.05):
            break
    print(gc.get_freeze_count(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop, daemon=True).start()
raise SystemExit(main(["serve", "echo:yes", "--port", "0"]))
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert int(process.stdout) > 10_000, process.stderr


@pytest.mark.peers
def test_the_openapi_schema_holds_for_a_thousand_cases(
    engine: ContinuousBatchingEngine, tmp_path: Path
) -> None:
    """schemathesis, every check on; its command is looked for on the path."""
    command = shutil.which("schemathesis")
    if command is None:
        pytest.skip("schemathesis is not installed")
    hooks = {
        "SCHEMATHESIS_HOOKS": "serve_contract_hooks",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
    }
    with serving(engine, max_tokens=8) as client:
        url = f"http://127.0.0.1:{client.port}/openapi.json"
        run = [
            command,
            "run",
            url,
            "--checks",
            "all",
            "-n",
            "1000",
            "--seed",
            "1",
            "--request-timeout",
            "60",
        ]
        process = subprocess.run(
            run,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **hooks},
            timeout=1500,
        )
    assert process.returncode == 0, process.stdout[-4000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", process.stdout)
    assert cases and int(cases[1]) >= 1000, process.stdout[-2000:]


@pytest.mark.peers
def test_the_official_client_and_curl_are_understood(engine: ContinuousBatchingEngine) -> None:
    """The openai package in an environment of its own: its interpreter is looked for as
    `python-openai` on the path.
    """
    python, curl = shutil.which("python-openai"), shutil.which("curl")
    with serving(engine, keys=(KEY,)) as client:
        url = f"http://127.0.0.1:{client.port}/v1"
        if curl:
            script = (
                '{"model": "tiny", "stream": true, "max_tokens": 4, "messages": [{"role": "user",'
                ' "content": "?"}]}'
            )
            headers = ["-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json"]
            process = subprocess.run(
                [curl, "-sN", f"{url}/chat/completions", *headers, "-d", script],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert process.stdout.endswith("data: [DONE]\n\n")
        if python:
            code = (
                "import sys, openai\nclient = openai.OpenAI(base_url=sys.argv[1],"
                " api_key=sys.argv[2])\ncontent = [{'type': 'image_url', 'image_url': {'url':"
                " sys.argv[3]}}, {'type': 'text', 'text': 'Is there a lesion?'}]\nasked = {'model':"
                " client.models.list().data[0].id, 'messages': [{'role': 'user', 'content':"
                " content}], 'max_tokens': 9}\nwhole ="
                " client.chat.completions.create(**asked)\nparts ="
                " list(client.chat.completions.create(stream=True, stream_options={'include_usage':"
                " True}, **asked))\nassert ''.join(p.choices[0].delta.content or '' for p in parts"
                " if p.choices) == whole.choices[0].message.content\nassert parts[-1].usage =="
                " whole.usage and whole.lingshu['notice'] == parts[-1].lingshu['notice']\nturns ="
                " [*asked['messages'], whole.choices[0].message, {'role': 'user', 'content':"
                " 'Where?'}]\nclient.chat.completions.create(**{**asked, 'messages': turns})\ntry:"
                " client.with_options(api_key='wrong-key-of-someone').models.list()\nexcept"
                " openai.AuthenticationError: print('understood')\n"
            )
            process = subprocess.run(
                [python, "-c", code, url, KEY, URI], capture_output=True, text=True, timeout=120
            )
            assert process.stdout == "understood\n", process.stderr
    if not (python or curl):
        pytest.skip("neither curl nor python-openai is on the path")
