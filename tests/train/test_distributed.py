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
from lingshu.sources import phantom
from lingshu.train.config import Checkpoints, LearningRates, Lora, Sharding, Validation
from lingshu.train.distributed import DistributedContext, check_distributed
from lingshu.train.log import read_log
from lingshu.train.loop import StopRequested, train
from tests.support.distributed_checks import stop_at
from tests.support.tiny import small_config, write_phantoms

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


def check(names: str, folder: Path, *, processes: int = 2, limit_s: float = 270) -> None:
    """Run checks of ranks.py in some processes; a hang is an error, too."""
    command = ("-m", "tests.support.distributed_checks", names, str(folder))
    process = subprocess.Popen(
        torchrun(*command, processes=processes), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"{names} hung")
    assert process.returncode == 0, output


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_log(out)]


@pytest.fixture(scope="module")
def training_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs by one and by two processes; torchrun is started once, as that takes most of
    the time.
    """
    folder = tmp_path_factory.mktemp("ran")
    config = replace(small_config(folder), threads=1, log_every=1)
    configuration.write(config, folder / "config.yaml")
    train(config, folder / "one")
    with pytest.raises(StopRequested):
        train(config, folder / "one_then_two", stop=stop_at(3, lambda: True))
    held = write_phantoms(folder / "held", list(phantom.question_samples(0, "validation", 1)))
    validated = replace(
        config,
        data={**config.data, "held": str(held)},
        # Seven rows: one process has four, the other three.
        validation=Validation(("held",), every=2, max_samples=7, max_reply_tokens=6),
        checkpoints=Checkpoints(every=2, use_best=True),
    )
    configuration.write(validated, folder / "validated.yaml")
    train(validated, folder / "validated_one")
    check("steps,non_finite_steps,runs,validation", folder)
    train(config, folder / "two_then_one", resume=True)
    return folder


def test_two_processes_have_the_losses_of_one_and_resume_each_other(training_runs: Path) -> None:
    expected = losses(training_runs / "one")
    assert len(expected) == 12
    for run_name in ("two", "again", "one_then_two", "two_then_one"):
        assert losses(training_runs / run_name) == pytest.approx(expected, rel=1e-6), run_name


def test_two_processes_measure_on_held_out_rows_what_one_does(training_runs: Path) -> None:
    one, two = (read_log(training_runs / f"validated_{name}") for name in ("one", "two"))
    for watched, name in ((one, "one"), (two, "two")):
        # The second stage starts from the best checkpoint of the first, not from its end.
        assert [row["loss"] for row in watched][:6] == losses(training_runs / name)[:6]
    for name in ("loss", "validation/held/loss", "validation/held/accuracy"):
        expected = [row[name] for row in one if name in row]
        assert [row[name] for row in two if name in row] == pytest.approx(expected, rel=1e-5)
    inside = [
        sorted(
            str(path.relative_to(training_runs / f"validated_{name}"))
            for path in (training_runs / f"validated_{name}").glob("checkpoints/*/*")
        )
        for name in ("one", "two")
    ]
    assert inside[0] == inside[1]


def test_two_processes_resume_in_the_same_bits(training_runs: Path) -> None:
    assert losses(training_runs / "again") == losses(training_runs / "two")
    assert sha256_file(training_runs / "again" / LAST) == sha256_file(training_runs / "two" / LAST)


def test_a_sharded_run_leaves_the_same_files(training_runs: Path) -> None:
    for folder in ("", "checkpoint", "stages/1-shallow"):
        one, two = (
            sorted(path.name for path in (training_runs / out / folder).iterdir())
            for out in ("one", "two")
        )
        assert one == two


@pytest.mark.slow
def test_a_full_disk_and_a_damaged_file_of_one_process_are_reported_by_all(
    training_runs: Path,
) -> None:
    check("faults", training_runs)
    assert losses(training_runs / "faulty") == losses(training_runs / "two")
    assert sha256_file(training_runs / "faulty" / LAST) == sha256_file(training_runs / "two" / LAST)


@pytest.mark.slow
def test_two_copies_of_two_shards_move_as_many_bytes_as_planned(tmp_path: Path) -> None:
    check("hybrid", tmp_path, processes=4)


@pytest.mark.slow
def test_half_precision_stays_near_that_of_one_process(tmp_path: Path) -> None:
    check("half_precision", tmp_path)


@pytest.mark.slow
def test_lora_stages_are_sharded_too(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    config = replace(small_config(tmp_path), threads=1, log_every=1)
    stages = tuple(
        replace(
            stage, learning_rates=LearningRates(language=1e-3, projector=1e-3), lora=Lora(rank=4)
        )
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


def test_what_cannot_be_divided_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    with pytest.raises(
        ConfigError, match="batch 4 cannot be divided over 3 processes in micro-batches of 2"
    ):
        check_distributed(config, DistributedContext(size=3, control_group=object()))  # pyright: ignore[reportArgumentType]
    check_distributed(config, DistributedContext(size=2, control_group=object()))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"sharding\.cpu_offload needs GPUs"):
        check_distributed(
            replace(config, sharding=Sharding(cpu_offload=True)), DistributedContext()
        )


def test_shares_of_a_batch_are_its_micro_batches_in_turn() -> None:
    batch = list(range(8))
    assert [DistributedContext(rank=rank, size=2).shard_batch(batch, 2) for rank in range(2)] == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
    ]
    assert DistributedContext().shard_batch(batch, 2) == batch
