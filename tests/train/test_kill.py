"""Real processes, killed with SIGKILL at random moments: the final weights are those of an unbroken
run.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core import config as configuration
from lingshu.core.files import sha256_file
from tests.support.tiny import small_config

KILLS = 10
STEPS = 60  # of each of the two stages
LAST = "checkpoint/model.safetensors"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(config: Path, out: Path, *, launcher: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        *launcher,
        "-m",
        "lingshu",
        "train",
        str(config),
        "--out",
        str(out),
        "--resume",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_rows(process: subprocess.Popen[bytes], log: Path, rows: int) -> None:
    while not log.exists() or log.read_bytes().count(b"\n") < rows:
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the run ended before its log had {rows} rows")


def wait_for_save(process: subprocess.Popen[bytes], state: Path) -> None:
    while not list(state.glob(".*.tmp")):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.001)


def ranks(launcher: int) -> list[int]:
    """The processes that a launcher has started, by their number in the world."""
    return [
        int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ]


def wait_until_gone(pid: int, *, limit_s: float = 120) -> None:
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        assert select.select([handle], [], [], limit_s)[0], f"process {pid} outlived its launcher"
        os.close(handle)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration that saves after every step."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = replace(small_config(folder, steps=STEPS), save_every=1, log_every=1, threads=1)
    configuration.write(config, folder / "config.yaml")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["one process", "two processes"])
def test_a_run_killed_ten_times_ends_in_the_same_bits(
    launcher: tuple[str, ...], run_folder: Path, tmp_path: Path
) -> None:
    """Every other kill strikes while a state is written; of two processes it takes one, the other
    or torchrun itself.
    """
    config, out, rng = run_folder / "config.yaml", tmp_path / "killed", random.Random(1)
    assert start(config, tmp_path / "uninterrupted", launcher=launcher).wait() == 0
    for number in range(KILLS):
        process = start(config, out, launcher=launcher)
        wait_for_rows(
            process,
            out / "log.jsonl",
            (2 * STEPS - 8) * (number + 1) // (KILLS + 1) + rng.randrange(4),
        )
        if number % 2:
            wait_for_save(process, out / "state")
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0, 0.05))
        started = ranks(process.pid) if launcher else []
        os.kill([*started, process.pid][number % (len(started) + 1)], signal.SIGKILL)
        assert process.wait() not in (0, 75)
        for pid in started:
            wait_until_gone(pid)
    assert start(config, out, launcher=launcher).wait() == 0
    assert sha256_file(out / LAST) == sha256_file(tmp_path / "uninterrupted" / LAST)


def test_sigterm_saves_the_state_and_ends_with_75(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    configuration.write(
        replace(small_config(tmp_path, steps=400), save_every=10_000, log_every=1), path
    )
    out = tmp_path / "run"
    process = start(path, out)
    wait_for_rows(process, out / "log.jsonl", 1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert b"stopped at stage" in error and b"--resume" in error
    assert (next((out / "state").glob("0*")) / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["a rank", "torchrun"])
def test_sigterm_to_any_process_of_several_saves_the_state(killed: str, tmp_path: Path) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    configuration.write(
        replace(small_config(tmp_path, steps=400), save_every=10_000, log_every=1, threads=1), path
    )
    process = start(path, out, launcher=TORCHRUN)
    wait_for_rows(process, out / "log.jsonl", 1)
    started = ranks(process.pid)
    os.kill(process.pid if killed == "torchrun" else started[1], signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error  # torchrun's own code, whatever its processes ended with
    assert error.count(b"stopped at stage") == 1
    state = next((out / "state").glob("0*"))
    assert {path.name for path in state.iterdir()} >= {
        "rank-00000.safetensors",
        "rank-00001.safetensors",
        "index.json",
        "manifest.json",
    }


@pytest.mark.slow
def test_torchrun_may_start_all_processes_again(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"
    # Without it, torch 2.13 gives the processes the store in which their predecessors' addresses
    # still stand.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    process = start(run_folder / "config.yaml", out, launcher=(*TORCHRUN, "--max-restarts", "1"))
    wait_for_rows(process, out / "log.jsonl", 5)
    os.kill(ranks(process.pid)[1], signal.SIGKILL)
    assert process.wait() == 0
    assert (out / LAST).is_file()
