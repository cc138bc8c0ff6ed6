"""Real processes, killed with SIGKILL at random moments: the final weights are those of an unbroken run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core import config as configuration
from lingshu.core.files import sha256_file
from tests.tiny import small_config

KILLS = 10


def start(config: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lingshu", "train", str(config), "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_ten_random_moments_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    config = small_config(tmp_path, steps=120)
    # A state after every step, so that many kills fall into a save.
    path = tmp_path / "config.yaml"
    configuration.write(replace(config, save_every=1, log_every=1), path)
    begun = time.monotonic()
    assert start(path, tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - begun
    moments = random.Random(0)
    kills = 0
    for _ in range(KILLS):
        process = start(path, tmp_path / "killed")
        try:
            process.wait(timeout=moments.uniform(0.25, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    process = start(path, tmp_path / "killed")
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert kills >= 3
    for name in ("checkpoint/model.safetensors", "stages/1-shallow/model.safetensors"):
        assert sha256_file(tmp_path / "killed" / name) == sha256_file(tmp_path / "whole" / name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", range(KILLS))
def test_killed_once_at_a_random_moment_it_ends_in_the_same_bits(moment: int, whole: tuple[Path, str, float], tmp_path: Path) -> None:
    path, expected, seconds = whole
    process = start(path, tmp_path / "killed")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=random.Random(moment).uniform(0.3, 0.85) * seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(path, tmp_path / "killed").wait() == 0
    assert sha256_file(tmp_path / "killed" / "checkpoint" / "model.safetensors") == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """A configuration, the sha256 of its unbroken run's weights, and the seconds that run took."""
    place = tmp_path_factory.mktemp("whole")
    path = place / "config.yaml"
    configuration.write(replace(small_config(place, steps=120), save_every=5), path)
    begun = time.monotonic()
    assert start(path, place / "run").wait() == 0
    return path, sha256_file(place / "run" / "checkpoint" / "model.safetensors"), time.monotonic() - begun
