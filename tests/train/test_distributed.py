"""Training by several processes under a real torchrun, on tiny models: the same losses, exact
resume, and what goes wrong.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core import config as configuration
from lingshu.core.errors import ConfigError
from lingshu.core.files import sha256_file
from lingshu.train.config import Lora, Rates, Sharding
from lingshu.train.log import read_log
from lingshu.train.loop import check_world, train
from lingshu.train.stage import Stopped
from lingshu.train.world import World
from tests.tiny import small_config
from tests.train.ranks import at

ROOT = Path(__file__).parents[2]
LAST = "checkpoint/model.safetensors"


def torchrun(*command: str, processes: int = 2) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        *command,
    ]


def check(names: str, folder: Path, *, limit_s: float = 270) -> None:
    """Run checks of ranks.py in two processes; a hang is an error, too."""
    process = subprocess.Popen(
        torchrun("-m", "tests.train.ranks", names, str(folder)), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        told, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"{names} hung")
    assert process.returncode == 0, told


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_log(out)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs by one and by two processes; torchrun is started once, as that takes most of
    the time.
    """
    place = tmp_path_factory.mktemp("ran")
    config = replace(small_config(place), threads=1, log_every=1)
    configuration.write(config, place / "config.yaml")
    train(config, place / "one")
    with pytest.raises(Stopped):
        train(config, place / "one_then_two", stop=at(3, lambda: True))
    check("steps,no_numbers,runs", place)
    train(config, place / "two_then_one", resume=True)
    return place


def test_two_processes_have_the_losses_of_one_and_resume_each_other(ran: Path) -> None:
    expected = losses(ran / "one")
    assert len(expected) == 12
    for other in ("two", "again", "one_then_two", "two_then_one"):
        assert losses(ran / other) == pytest.approx(expected, rel=1e-6), other


def test_two_processes_resume_in_the_same_bits(ran: Path) -> None:
    assert losses(ran / "again") == losses(ran / "two")
    assert sha256_file(ran / "again" / LAST) == sha256_file(ran / "two" / LAST)


def test_a_sharded_run_leaves_the_same_files(ran: Path) -> None:
    for folder in ("", "checkpoint", "stages/1-shallow"):
        one, two = (
            sorted(path.name for path in (ran / out / folder).iterdir()) for out in ("one", "two")
        )
        assert one == two


@pytest.mark.slow
def test_a_full_disk_and_a_damaged_file_of_one_process_are_told_by_all(ran: Path) -> None:
    check("faults", ran)
    assert losses(ran / "faulty") == losses(ran / "two")
    assert sha256_file(ran / "faulty" / LAST) == sha256_file(ran / "two" / LAST)


@pytest.mark.slow
def test_half_precision_stays_near_that_of_one_process(tmp_path: Path) -> None:
    check("half", tmp_path)


@pytest.mark.slow
def test_lora_stages_are_sharded_too(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    config = replace(small_config(tmp_path), threads=1, log_every=1)
    stages = tuple(
        replace(stage, rates=Rates(language=1e-3, projector=1e-3), lora=Lora(rank=4))
        for stage in config.stages
    )
    config = replace(config, stages=stages, sharding=Sharding(activation_checkpointing=True))
    configuration.write(config, tmp_path / "config.yaml")
    train(config, tmp_path / "one")
    check("adapters", tmp_path)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    for folder in ("checkpoint", "adapters/2-instruct"):
        one, two = (
            sorted(path.name for path in (tmp_path / out / folder).iterdir())
            for out in ("one", "two")
        )
        assert one == two


def test_what_cannot_be_shared_out_is_refused_at_the_door(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    with pytest.raises(
        ConfigError, match="batch 4 cannot be shared out to 3 processes in micro-batches of 2"
    ):
        check_world(config, World(size=3, talk=object()))  # pyright: ignore[reportArgumentType]
    check_world(config, World(size=2, talk=object()))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"sharding\.cpu_offload needs GPUs"):
        check_world(replace(config, sharding=Sharding(cpu_offload=True)), World())


def test_shares_of_a_batch_are_its_micro_batches_in_turn() -> None:
    batch = list(range(8))
    assert [World(rank=rank, size=2).share(batch, 2) for rank in range(2)] == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
    ]
    assert World().share(batch, 2) == batch
