"""Batches: a service on 127.0.0.1 and a folder moved by hand; what was requested live is not requested
again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lingshu.core.cached_client import TEXT_FORMAT, CachedClient, Request
from lingshu.core.errors import DataPolicyError, EngineError, InputError
from lingshu.core.messages import user_turn
from lingshu.core.types import EngineOptions, Meta, Reply, Sample, Sampling
from lingshu.engines import batch, openai
from lingshu.imaging.read import image_bytes


class Service:
    """A batch service in memory: a batch is done at the second look, its output in reverse order,
    request 2 refused.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def get(self, path: str) -> bytes:
        if path.startswith("/v1/batches?"):
            return json.dumps({"data": list(self.batches.values())}).encode()
        if path.startswith("/v1/batches/"):
            batch = self.batches[path.rsplit("/", 1)[1]]
            batch.update(status="completed" if batch["status"] == "in_progress" else "in_progress")
            if batch["status"] == "completed":
                self.files["out"] = batch_output(self.files[batch["input_file_id"]])
                batch["output_file_id"] = "out"
            return json.dumps(batch).encode()
        return self.files[path.split("/")[3]]

    def post(self, path: str, data: bytes) -> bytes:
        if path == "/v1/files":
            name = f"file{len(self.files)}"
            self.files[name] = data.split(b"application/jsonl\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[
                0
            ]
            return json.dumps({"id": name}).encode()
        name = f"batch{len(self.batches)}"
        self.batches[name] = {"id": name, "status": "validating", **json.loads(data)}
        return json.dumps(self.batches[name]).encode()


def batch_output(requests: bytes) -> bytes:
    """What a service writes for a file of requests."""
    rows = []
    for line in requests.splitlines():
        row = json.loads(line)
        text = row["body"]["messages"][-1]["content"]
        body = {
            "choices": [{"message": {"content": f"re: {text}"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        }
        code = 400 if text.endswith("2") else 200
        rows.append(
            {
                "custom_id": row["custom_id"],
                "response": {"status_code": code, "body": body},
                "error": None,
            }
        )
    return "".join(json.dumps(row) + "\n" for row in reversed(rows)).encode()


@pytest.fixture
def service() -> Iterator[tuple[str, Service]]:
    batch_service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(batch_service.get(self.path))

        def do_POST(self) -> None:
            self.reply(
                batch_service.post(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            )

        def reply(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", batch_service
    server.shutdown()
    thread.join()
    server.server_close()


def samples(count: int, access: str = "open") -> list[Sample]:
    return [
        Sample(f"s{n}", (user_turn(f"question {n}", 0),), meta=Meta(access=access))  # type: ignore[arg-type]
        for n in range(count)
    ]


def open_engine(model: str) -> batch.BatchEngine:
    engine = batch.load(model, EngineOptions(retries=0))
    assert isinstance(engine, batch.BatchEngine)
    return replace(engine, poll_s=0.0)


def replies(engine: batch.BatchEngine, count: int = 4) -> list[Reply]:
    return [
        reply
        for batch_replies in engine.generate(samples(count), Sampling())
        for reply in batch_replies
    ]


EXPECTED = [
    ("s0", "re: question 0", None),
    ("s1", "re: question 1", None),
    ("s2", None, "HTTP status 400"),
    ("s3", "re: question 3", None),
]


def test_a_batch_is_sent_waited_for_and_read(service: tuple[str, Service]) -> None:
    all_replies = replies(open_engine(f"batch:{service[0]}#m"))
    assert [(r.id, r.text, r.error) for r in all_replies] == EXPECTED
    assert (all_replies[0].prompt_tokens, all_replies[0].reply_tokens, all_replies[0].finish) == (
        5,
        2,
        "stop",
    )


def test_a_later_run_finds_the_batch_of_a_killed_one(service: tuple[str, Service]) -> None:
    url, batch_service = service
    replies(open_engine(f"batch:{url}#m"))
    assert len(replies(open_engine(f"batch:{url}#m"))) == 4 and len(batch_service.batches) == 1


def test_a_redirect_gets_neither_the_key_nor_the_requests(service: tuple[str, Service]) -> None:

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{service[0]}/batches?limit=100")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        engine = open_engine(f"batch:http://127.0.0.1:{server.server_port}/v1#m")
        with pytest.raises(EngineError, match="HTTP status 302"):
            replies(engine)
        server.shutdown()


def test_a_folder_is_written_and_read_back(tmp_path: Path) -> None:
    engine = open_engine(f"batch:{tmp_path / 'post'}@https://elsewhere.example/v1#m")
    with pytest.raises(EngineError, match=r"requests\.jsonl.*run the same command again"):
        replies(engine)
    (requests,) = (tmp_path / "post").iterdir()
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    assert (
        rows[0]["custom_id"] == "s0|0"
        and rows[0]["url"] == "/v1/chat/completions"
        and rows[0]["body"]["model"] == "m"
    )
    requests.with_name(requests.name.replace("requests", "replies")).write_bytes(
        batch_output(requests.read_bytes())
    )
    assert [(r.id, r.text, r.error) for r in replies(engine)] == EXPECTED


def test_what_may_not_leave_is_not_written_either(tmp_path: Path) -> None:
    engine = open_engine(f"batch:{tmp_path / 'post'}@https://elsewhere.example/v1#m")
    with pytest.raises(DataPolicyError):
        list(engine.generate(samples(1, access="credentialed"), Sampling()))
    assert not (tmp_path / "post").exists()


def test_batch_and_live_calls_share_a_cache(service: tuple[str, Service], tmp_path: Path) -> None:
    requests = [Request(sample, TEXT_FORMAT) for sample in samples(2)]
    with CachedClient(open_engine(f"batch:{service[0]}#m"), tmp_path, images=image_bytes) as calls:
        first = calls.ask(requests, Sampling())
    with CachedClient(
        openai.load(f"{service[0]}#m", EngineOptions()), tmp_path, images=image_bytes
    ) as calls:
        assert calls.ask(requests, Sampling()) == first
        assert calls.counts()["calls"] == 0


@pytest.mark.parametrize(
    "model",
    [
        "batch:nowhere",
        "batch:post@ftp://x/v1#m",
        "batch:posthttp://h/v1#m",
        "batch:http://127.0.0.1/v1",
    ],
)
def test_an_invalid_name_is_refused(model: str) -> None:
    with pytest.raises(InputError):
        batch.load(model, EngineOptions())
