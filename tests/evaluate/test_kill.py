"""SIGKILL at random moments of a real run: nothing lost, nothing asked twice, the same report."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lingshu.core.files import read_jsonl

COUNT = 3000

TASK = f'''"""Many short questions."""
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Meta, Sample, Task
from lingshu.scoring import auto

def samples(data):
    for i in range({COUNT}):
        gold = "yes" if i % 3 else "no"
        meta = Meta(access="open", kind=("side", "size")[i % 2], group=str(i // 4))
        yield Sample(f"s{{i}}", (user_turn(f"Question {{i}}?", 0),), gold=(gold,), meta=meta)

TASK = Task("many", "Many", "made up", "CC0", samples, auto.score, lambda seed: [], by=("kind",))
'''

DRIVER = """
import sys
from pathlib import Path
from lingshu.apps.evaluate import evaluate
sys.exit(evaluate("echo:yes", "many.py", out=Path(sys.argv[1]), batch_size=2))
"""


def start(folder: Path, out: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "driver.py", out], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_report(tmp_path):
    (tmp_path / "many.py").write_text(TASK, encoding="utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    began = time.monotonic()
    assert start(tmp_path, "unbroken").wait() == 0
    lasts = time.monotonic() - began
    pick = random.Random(0)
    killed = 0
    for moment in range(10):
        out = f"killed-{moment}"
        for _ in range(2):
            process = start(tmp_path, out)
            try:
                process.wait(timeout=pick.uniform(0.1, 0.9) * lasts)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        assert start(tmp_path, out).wait() == 0
        keys = [row["key"] for row in read_jsonl(tmp_path / out / "many" / "replies.jsonl")]
        assert len(keys) == len(set(keys)) == COUNT
        for name in ("report.json", "report.md", "report.html", "many/scores.jsonl"):
            assert (tmp_path / out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert killed >= 10
