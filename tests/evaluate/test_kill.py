"""SIGKILL at random moments of a run against a real server: nothing lost, no stored answer asked
for again, the same report.

What is promised: an answer whose row is in replies.jsonl is never asked for again. Asked for again
may be what was under way at the kill, and what had arrived within the last twentieth of a second
and was not written yet. The server counts.
"""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from lingshu.core.files import read_jsonl

FAKE_SERVER = Path(__file__).parents[2] / "bench" / "_stand_in.py"
COUNT, CONCURRENCY, KILLS = 1500, 16, 10
REPORT = ("report.json", "report.md", "report.html", "many/scores.jsonl")

TASK = f'''"""Many short questions."""
from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Provenance, Sample, Task
from lingshu.scoring import auto

def samples(data):
    for i in range({COUNT}):
        gold = "yes" if i % 3 else "no"
        meta = Meta(access="open", kind=("side", "size")[i % 2], group=str(i // 4))
        yield Sample(f"s{{i}}", (user_turn(f"Question s{{i}}?", 0),), gold=(gold,), meta=meta)

TASK = Task("many", "Many", Provenance("made up", "CC0"), samples, auto.score, lambda seed: [], facets=("kind",))
'''


@pytest.fixture
def server():
    command = [sys.executable, str(FAKE_SERVER), "--delay", "0.02", "--failing", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def start(folder: Path, url: str, out: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "lingshu",
        "eval",
        f"{url}/v1#m",
        "many.py",
        "--out",
        out,
        "--concurrency",
        str(CONCURRENCY),
    ]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def counts(url: str, *, forget: bool = False) -> dict[str, int]:
    with urlopen(Request(f"{url}/counts", method="DELETE" if forget else "GET")) as answer:
        return json.load(answer)


def stored(out: Path) -> list[str]:
    path = out / "many" / "replies.jsonl"
    return [row["id"] for row in read_jsonl(path) if row["error"] is None] if path.is_file() else []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_loses_nothing_generates_nothing_twice_and_reports_the_same(tmp_path, server):
    (tmp_path / "many.py").write_text(TASK, encoding="utf-8")
    started_at = time.monotonic()
    assert start(tmp_path, server, "unbroken").wait() == 0
    duration_s = time.monotonic() - started_at
    rng = random.Random(0)
    n_interrupted = 0
    for moment in range(KILLS):
        counts(server, forget=True)
        out = tmp_path / f"killed-{moment}"
        process = start(tmp_path, server, out.name)
        try:
            process.wait(timeout=rng.uniform(0.2, 0.9) * duration_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        before = stored(out)
        n_interrupted += 0 < len(before) < COUNT
        assert start(tmp_path, server, out.name).wait() == 0
        after = stored(out)
        answered = counts(server)
        assert after[: len(before)] == before
        assert len(after) == len(set(after)) == len(answered) == COUNT
        assert {answered[f"Question {name}?"] for name in before} <= {1}
        assert sum(answered.values()) - COUNT <= 16 * CONCURRENCY
        for name in REPORT:
            assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name
    assert n_interrupted >= KILLS // 2


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_second_run_in_one_folder_is_refused_while_the_first_runs(tmp_path, server):
    (tmp_path / "many.py").write_text(TASK, encoding="utf-8")
    first = start(tmp_path, server, "out")
    while not stored(tmp_path / "out"):
        assert first.poll() is None
    assert start(tmp_path, server, "out").wait() == 2
    assert first.wait() == 0
    assert len(stored(tmp_path / "out")) == COUNT
