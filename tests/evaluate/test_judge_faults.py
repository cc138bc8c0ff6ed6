"""A judge behind an address of which a third of the calls fail in every way there is: bounded time,
exact counts, no verdict twice.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lingshu.core.files import read_jsonl
from lingshu.core.llm_client import Endpoint
from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Sample, Sampling
from lingshu.engines.openai import OpenAIEngine
from lingshu.evaluate.generate import generate
from lingshu.evaluate.judge import judge, open_judge_client
from lingshu.evaluate.score import score, scores_file
from tests.support.evaluation import RecordingEngine, demo_task

COUNT = 60
SAMPLES = [
    Sample(
        f"s{i}",
        (user_turn(f"Question {i}?", 0),),
        gold=("heart",),
        meta=Meta(access="open", kind="open", group=str(i // 2)),
    )
    for i in range(COUNT)
]
TASK = demo_task(SAMPLES)
FAULTS = ("429", "500", "hangs", "garbage", "cut stream", "prose", "broken json")
FAILURE_RATE, ALWAYS_FAIL_EVERY, RETRIES, MAX_ATTEMPTS = 0.3, 12, 1, 2


class JudgeServer(ThreadingHTTPServer):
    """Answers with a verdict, or fails in one of the ways; which, the question and the number of
    its try decide.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, failure_rate: float = FAILURE_RATE) -> None:
        super().__init__(("127.0.0.1", 0), JudgeHandler)
        self.attempts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.failure_rate = failure_rate
        self.lock, self.stopped = threading.Lock(), threading.Event()


class JudgeHandler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def judge(self) -> JudgeServer:
        assert isinstance(self.server, JudgeServer)
        return self.server

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1][
            "content"
        ]
        name = re.search(r"Question (\d+)\?", prompt)
        code = re.search(r"carry the code (\w+)", prompt)
        assert name and code
        with self.judge.lock:
            self.judge.attempts[name[1]] += 1
            random_value = zlib.crc32(f"{name[1]}|{self.judge.attempts[name[1]]}".encode())
            # Some questions never get a verdict, whatever the luck of the others.
            always_fails = self.judge.failure_rate and int(name[1]) % ALWAYS_FAIL_EVERY == 0
            fault = (
                FAULTS[random_value % len(FAULTS)]
                if always_fails or (random_value >> 8) % 1000 < 1000 * self.judge.failure_rate
                else None
            )
            if fault:
                self.judge.faults[fault] += 1
            else:
                self.judge.answered.add(name[1])
        word = "correct" if ">\nheart\n</answer" in prompt else "incorrect"
        verdict = json.dumps({"case": code[1], "reason": "so", "verdict": word})
        self.fail(fault, verdict) if fault else self.send(200, completion(verdict))

    def fail(self, fault: str, verdict: str) -> None:
        if fault in ("429", "500"):
            self.send(int(fault), b'{"error": {"message": "not today"}}')
        elif fault == "hangs":
            self.judge.stopped.wait(3)
        elif fault == "garbage":
            self.send(200, b"<html>Bad gateway</html>")
        elif fault == "cut stream":
            self.send(200, completion(verdict), complete=False)
        else:
            self.send(
                200, completion("It is correct, I would say." if fault == "prose" else verdict[:-5])
            )

    def send(self, status: int, body: bytes, *, complete: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if complete else body[: len(body) // 2])


def completion(text: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(
        {"choices": [choice], "usage": {"prompt_tokens": 300, "completion_tokens": 20}}
    ).encode()


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        threading.Thread(
            target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield running
        running.stopped.set()
        running.shutdown()


def test_a_third_of_the_calls_failing_ends_with_exact_counts(
    server: JudgeServer, tmp_path: Path
) -> None:
    task_folder = tmp_path / "demo"
    generate(
        TASK,
        SAMPLES,
        RecordingEngine(lambda sample: "heart" if int(sample.id[1:]) % 3 else "lung"),
        task_folder,
        sampling=Sampling(),
        images=lambda image: b"",
    )
    score(TASK, SAMPLES, task_folder)
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    wire = Endpoint(url, concurrency=16, timeout_s=1.0, retries=RETRIES, backoff_s=0.005)
    engine = OpenAIEngine(f"{url}#j", "1", "j", wire)

    def run() -> Counter[str]:
        with open_judge_client(
            engine, task_folder, max_attempts=MAX_ATTEMPTS, engine_retries=RETRIES
        ) as calls:
            result = judge(
                TASK, SAMPLES, task_folder, calls, sampling=Sampling(max_tokens=64)
            ).result
        rows = list(read_jsonl(scores_file(task_folder, "judge")))
        output = Counter(row["status"] for row in rows)
        # Every verdict that was ever sent whole is there, and no other.
        assert {row["id"] for row in rows if row["status"] == "ok"} == {
            f"s{name}" for name in server.answered
        }
        assert all(
            row["value"] == float(row["reply"] == "heart") for row in rows if row["status"] == "ok"
        )
        assert (result.n_requested, result.n_judged, sum(result.failed.values())) == (
            COUNT,
            output["ok"],
            output["error"],
        )
        assert result.lower_bound == pytest.approx(sum(row["value"] or 0 for row in rows) / COUNT)
        assert result.upper_bound == pytest.approx(
            sum(1.0 if row["value"] is None else row["value"] for row in rows) / COUNT
        )
        return output

    first = run()
    assert set(server.faults) == set(FAULTS) and first["error"] >= COUNT // ALWAYS_FAIL_EVERY
    assert max(server.attempts.values()) <= (1 + RETRIES) * MAX_ATTEMPTS
    answered, attempts = set(server.answered), Counter(server.attempts)
    second = run()
    # What has a verdict is not asked again.
    assert second["error"] <= first["error"] and all(
        server.attempts[name] == attempts[name] for name in answered
    )


TASK_FILE = '''"""The same questions, for the command line."""
from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Provenance, Sample, Task
from lingshu.scoring import auto

def samples(data):
    for i in range(800):
        yield Sample(f"s{i}", (user_turn(f"Question {i}?", 0),), gold=("heart",), meta=Meta(access="open", kind="open"))

TASK = Task("demo", "Demo", Provenance("made up", "CC0"), samples, auto.score, lambda seed: [])
'''


@pytest.mark.slow
def test_a_killed_judging_resumes_without_repeated_calls(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text(TASK_FILE)
    with JudgeServer(failure_rate=0.0) as server:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1#j"
        command = [
            sys.executable,
            "-m",
            "lingshu",
            "eval",
            "echo:heart",
            "demo.py",
            "--out",
            "out",
            "--concurrency",
            "4",
            "--judge",
            url,
        ]
        log = tmp_path / "out" / "demo" / "judge" / "calls.jsonl"
        for _ in range(2):
            before = stored(log)
            with subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                deadline = time.monotonic() + 60
                while stored(log) < before + 50 and time.monotonic() < deadline:
                    process.poll()
                process.kill()
        after = stored(log)
        n_requested = sum(server.attempts.values())
        assert (
            100 <= after < 800 and not (tmp_path / "out" / "demo" / "scores.judge.jsonl").exists()
        )
        assert (
            subprocess.run(
                command, cwd=tmp_path, capture_output=True, check=True, timeout=120
            ).returncode
            == 0
        )
        # A request that was under way at a kill may reach the server a moment later.
        assert 0 <= sum(server.attempts.values()) - (n_requested + 800 - after) <= 4
        server.shutdown()
    rows = list(read_jsonl(tmp_path / "out" / "demo" / "scores.judge.jsonl"))
    assert len(rows) == 800 and {row["value"] for row in rows} == {1.0}


def stored(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.is_file() else 0
