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
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Meta, Reply, Sample, Sampling, Task
from lingshu.core.wire import Endpoint
from lingshu.engines.openai import OpenAI
from lingshu.evaluate.generate import generate
from lingshu.evaluate.judge import judge, open_calls
from lingshu.evaluate.score import score, scores_file
from lingshu.scoring import auto

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
TASK = Task(
    "demo", "Demo", "made up", "CC0", lambda data: SAMPLES, auto.score, lambda seed: SAMPLES
)
FAULTS = ("429", "500", "hangs", "garbage", "cut stream", "prose", "broken json")
FAILING, HOPELESS, RETRIES, TRIES = 0.3, 12, 1, 2


class Says:
    model, digest, endpoint = "says", "d", None

    def generate(self, samples, sampling, *, skip=()):
        yield [Reply(one.id, "heart" if i % 3 else "lung") for i, one in enumerate(samples)]


class Judge(ThreadingHTTPServer):
    """Answers with a verdict, or fails in one of the ways; which, the question and the number of
    its try decide.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, failing: float = FAILING) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tries: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.given: set[str] = set()
        self.failing = failing
        self.lock, self.over = threading.Lock(), threading.Event()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def judge(self) -> Judge:
        assert isinstance(self.server, Judge)
        return self.server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1][
            "content"
        ]
        name = re.search(r"Question (\d+)\?", asked)
        code = re.search(r"carry the code (\w+)", asked)
        assert name and code
        with self.judge.lock:
            self.judge.tries[name[1]] += 1
            drawn = zlib.crc32(f"{name[1]}|{self.judge.tries[name[1]]}".encode())
            # Some questions never get a verdict, whatever the luck of the others.
            hopeless = self.judge.failing and int(name[1]) % HOPELESS == 0
            fault = (
                FAULTS[drawn % len(FAULTS)]
                if hopeless or (drawn >> 8) % 1000 < 1000 * self.judge.failing
                else None
            )
            if fault:
                self.judge.faults[fault] += 1
            else:
                self.judge.given.add(name[1])
        word = "correct" if ">\nheart\n</answer" in asked else "incorrect"
        verdict = json.dumps({"case": code[1], "reason": "so", "verdict": word})
        self.fail(fault, verdict) if fault else self.say(200, completion(verdict))

    def fail(self, fault: str, verdict: str) -> None:
        if fault in ("429", "500"):
            self.say(int(fault), b'{"error": {"message": "not today"}}')
        elif fault == "hangs":
            self.judge.over.wait(3)
        elif fault == "garbage":
            self.say(200, b"<html>Bad gateway</html>")
        elif fault == "cut stream":
            self.say(200, completion(verdict), whole=False)
        else:
            self.say(
                200, completion("It is correct, I would say." if fault == "prose" else verdict[:-5])
            )

    def say(self, status: int, body: bytes, *, whole: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if whole else body[: len(body) // 2])


def completion(text: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(
        {"choices": [choice], "usage": {"prompt_tokens": 300, "completion_tokens": 20}}
    ).encode()


@pytest.fixture
def server() -> Iterator[Judge]:
    with Judge() as running:
        threading.Thread(
            target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield running
        running.over.set()
        running.shutdown()


def test_a_third_of_the_calls_failing_ends_with_exact_counts(server: Judge, tmp_path: Path) -> None:
    place = tmp_path / "demo"
    generate(TASK, SAMPLES, Says(), place, sampling=Sampling(), images=lambda image: b"")
    score(TASK, SAMPLES, place)
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    wire = Endpoint(url, concurrency=16, timeout_s=1.0, retries=RETRIES, backoff_s=0.005)
    engine = OpenAI(f"{url}#j", "1", "j", wire)

    def run() -> Counter[str]:
        with open_calls(engine, place, tries=TRIES, repeats=RETRIES) as calls:
            found = judge(TASK, SAMPLES, place, calls, sampling=Sampling(max_tokens=64)).judged
        rows = list(read_jsonl(scores_file(place, "judge")))
        told = Counter(row["status"] for row in rows)
        # Every verdict that was ever sent whole is there, and no other.
        assert {row["id"] for row in rows if row["status"] == "ok"} == {
            f"s{name}" for name in server.given
        }
        assert all(
            row["value"] == float(row["reply"] == "heart") for row in rows if row["status"] == "ok"
        )
        assert (found.asked, found.judged, sum(found.failed.values())) == (
            COUNT,
            told["ok"],
            told["error"],
        )
        assert found.if_wrong == pytest.approx(sum(row["value"] or 0 for row in rows) / COUNT)
        assert found.if_right == pytest.approx(
            sum(1.0 if row["value"] is None else row["value"] for row in rows) / COUNT
        )
        return told

    first = run()
    assert set(server.faults) == set(FAULTS) and first["error"] >= COUNT // HOPELESS
    assert max(server.tries.values()) <= (1 + RETRIES) * TRIES
    answered, tries = set(server.given), Counter(server.tries)
    second = run()
    # What has a verdict is not asked again.
    assert second["error"] <= first["error"] and all(
        server.tries[name] == tries[name] for name in answered
    )


TASK_FILE = '''"""The same questions, for the command line."""
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Meta, Sample, Task
from lingshu.scoring import auto

def samples(data):
    for i in range(800):
        yield Sample(f"s{i}", (user_turn(f"Question {i}?", 0),), gold=("heart",), meta=Meta(access="open", kind="open"))

TASK = Task("demo", "Demo", "made up", "CC0", samples, auto.score, lambda seed: [])
'''


@pytest.mark.slow
def test_a_killed_judging_goes_on_without_asking_again(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text(TASK_FILE)
    with Judge(failing=0.0) as server:
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
        kept = stored(log)
        asked = sum(server.tries.values())
        assert 100 <= kept < 800 and not (tmp_path / "out" / "demo" / "scores.judge.jsonl").exists()
        assert (
            subprocess.run(
                command, cwd=tmp_path, capture_output=True, check=True, timeout=120
            ).returncode
            == 0
        )
        # A request that was under way at a kill may reach the server a moment later.
        assert 0 <= sum(server.tries.values()) - (asked + 800 - kept) <= 4
        server.shutdown()
    rows = list(read_jsonl(tmp_path / "out" / "demo" / "scores.judge.jsonl"))
    assert len(rows) == 800 and {row["value"] for row in rows} == {1.0}


def stored(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.is_file() else 0
