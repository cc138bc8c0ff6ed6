"""Real processes, killed with SIGKILL at random moments: the final weights are those of an unbroken run."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core import config as configuration
from lingshu.core.files import sha256_file
from tests.tiny import small_config

KILLS = 10
STEPS = 60  # of each of the two stages
LAST = "checkpoint/model.safetensors"


def start(config: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lingshu", "train", str(config), "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_at(process: subprocess.Popen[bytes], log: Path, rows: int, extra_s: float) -> None:
    """Send SIGKILL a random while after the log has got `rows` rows: inside a step, a save, an export or between them."""
    while not log.exists() or log.read_bytes().count(b"\n") < rows:
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the run ended before its log had {rows} rows")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=extra_s)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A configuration that saves after every step, and the sha256 of its unbroken run's weights."""
    place = tmp_path_factory.mktemp("whole")
    path = place / "config.yaml"
    configuration.write(replace(small_config(place, steps=STEPS), save_every=1, log_every=1), path)
    assert start(path, place / "run").wait() == 0
    return path, sha256_file(place / "run" / LAST)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_ten_times_on_its_way_it_ends_in_the_same_bits(whole: tuple[Path, str], tmp_path: Path) -> None:
    path, expected = whole
    out, moments = tmp_path / "killed", random.Random(1)
    for number in range(KILLS):
        rows = (2 * STEPS - 8) * (number + 1) // (KILLS + 1) + moments.randrange(4)
        kill_at(start(path, out), out / "log.jsonl", rows, moments.uniform(0, 0.05))
    assert start(path, out).wait() == 0
    assert sha256_file(out / LAST) == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", range(KILLS))
def test_killed_once_at_a_random_moment_it_ends_in_the_same_bits(moment: int, whole: tuple[Path, str], tmp_path: Path) -> None:
    path, expected = whole
    out, moments = tmp_path / "killed", random.Random(moment)
    kill_at(start(path, out), out / "log.jsonl", moments.randrange(2 * STEPS - 4), moments.uniform(0, 0.05))
    assert start(path, out).wait() == 0
    assert sha256_file(out / LAST) == expected


def test_sigterm_saves_the_state_and_ends_with_75(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    configuration.write(replace(small_config(tmp_path, steps=400), save_every=10_000, log_every=1), path)
    out = tmp_path / "run"
    process = start(path, out)
    while not (out / "log.jsonl").exists() or not (out / "log.jsonl").read_bytes():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert b"stopped at stage" in error and b"--resume" in error
    assert (next((out / "state").glob("0*")) / "manifest.json").is_file()
