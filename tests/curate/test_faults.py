"""Killed workers, killed drivers, full disks: real processes, and what is left behind."""

from __future__ import annotations

import importlib.util
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core import config as configuration
from lingshu.core.artifacts import open_dataset, read_dataset
from lingshu.core.errors import StorageError
from lingshu.core.files import JsonlAppender
from lingshu.curate.config import CurateConfig
from lingshu.curate.run import CurateOptions, curate
from tests.support.curate_config import step_config

Make = Callable[..., CurateConfig]


def shards(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((out / "data").iterdir())]


class RecordedProgress:
    """Counts the rows that a run reports as progress."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.resumed_rows = self.new_rows = 0
        self._stop_after = stop_after

    def start(self, total: int | None, done: int = 0, *, title: str = "") -> None:
        pass

    def advance(self, n: int, failed: int | None = None, *, resumed: bool = False) -> None:
        self.resumed_rows += n if resumed else 0
        self.new_rows += 0 if resumed else n
        if self._stop_after is not None and self.new_rows >= self._stop_after:
            raise KeyboardInterrupt


def test_a_worker_killed_once_costs_no_row(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path = rows(10)
    curate(config(step_config("step", kind="keep"), path=path), tmp_path / "whole")
    killer = step_config("step", kind="kill", at="r005", once=str(tmp_path / "flag"))
    done = curate(config(killer, path=path, workers=2), tmp_path / "killed")
    assert (tmp_path / "flag").exists() and not done.failures and done.card.rows == 10
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")


def test_a_row_that_kills_every_worker_is_dropped_and_the_others_stay(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    steps = (step_config("before", kind="keep"), step_config("step", kind="kill", at="r005"))
    done = curate(config(*steps, path=rows(8), workers=1), tmp_path / "out")
    assert done.card.drops == {"worker_died": 1} and done.failures == 1
    assert [sample.id[-1] for sample in read_dataset(tmp_path / "out")] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "6",
        "7",
    ]
    table = {s["name"]: (s["in"], s["out"]) for s in done.card.steps or ()}
    assert table["before"] == (8, 8) and table["step"] == (8, 7)


def test_a_second_run_resumes_where_the_driver_was_killed(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = rows(20), tmp_path / "out"
    curate(config(step_config("step", kind="keep"), path=path), tmp_path / "whole")
    prepared_config = config(
        step_config("step", kind="kill_driver", at="r015", once=str(tmp_path / "flag")),
        path=path,
        workers=1,
    )
    configuration.write(prepared_config, tmp_path / "run.yaml")
    command = [
        sys.executable,
        "-m",
        "lingshu.cli.main",
        "curate",
        str(tmp_path / "run.yaml"),
        "--out",
        str(out),
    ]
    code = f"import sys; from lingshu.cli.main import main; sys.exit(main({command[3:]!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL and not (out / "dataset.json").exists()
    progress = RecordedProgress()
    assert curate(prepared_config, out, progress=progress).card.rows == 20
    assert progress.resumed_rows >= 12 and shards(out) == shards(tmp_path / "whole")


def test_a_full_disk_is_one_line_and_nothing_half_written(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    configuration.write(
        config(step_config("step", kind="keep"), path=rows(20), workers=1), tmp_path / "run.yaml"
    )
    code = (
        "import sys; from lingshu.cli.main import main; sys.exit(main(['curate',"
        f" {str(tmp_path / 'run.yaml')!r}, '--out', {str(out)!r}]))"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, preexec_fn=limit
    )
    assert done.returncode == 2, done.stderr
    assert (
        "no space left while writing" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    )
    assert not (out / "dataset.json").exists() and not list(out.rglob("*.tmp"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and open_dataset(out).rows == 20


def test_an_interrupted_run_resumes(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path, progress = rows(20), RecordedProgress()
    prepared_config = config(
        step_config("step", kind="crop"),
        step_config("caps", "balance", by=["source"], cap=9),
        step_config("last", kind="note"),
        path=path,
    )
    curate(prepared_config, tmp_path / "whole")
    for rows_done in (4, 20):
        with pytest.raises(KeyboardInterrupt):
            curate(
                prepared_config, tmp_path / "out", progress=RecordedProgress(stop_after=rows_done)
            )
    assert curate(prepared_config, tmp_path / "out", progress=progress).card.rows == 9
    assert progress.resumed_rows >= 20 and shards(tmp_path / "out") == shards(tmp_path / "whole")


def test_two_runs_in_one_folder_are_refused(config: Make, tmp_path: Path) -> None:
    prepared_config = config()
    with (
        JsonlAppender(tmp_path / "out" / "work" / "lock"),
        pytest.raises(StorageError, match="is being written by another process"),
    ):
        curate(prepared_config, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_bytes_survives_a_killed_worker_and_resumes(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path, progress = rows(20), RecordedProgress()
    curate(config(step_config("step", kind="keep"), path=path), tmp_path / "whole")
    killer = step_config("step", kind="kill", at="r005", once=str(tmp_path / "flag"))
    prepared_config = config(killer, path=path, workers=2)
    assert not curate(prepared_config, tmp_path / "ray", CurateOptions(backend="ray")).failures
    assert (tmp_path / "flag").exists() and shards(tmp_path / "ray") == shards(tmp_path / "whole")
    always = config(step_config("step", kind="kill", at="r005"), path=path, workers=2)
    assert curate(always, tmp_path / "always", CurateOptions(backend="ray")).card.drops == {
        "worker_died": 1
    }
    with pytest.raises(KeyboardInterrupt):
        curate(
            replace(always, seed=1),
            tmp_path / "again",
            CurateOptions(backend="ray"),
            progress=RecordedProgress(stop_after=4),
        )
    assert not (tmp_path / "again" / "dataset.json").exists()
    curate(
        replace(always, seed=1),
        tmp_path / "again",
        CurateOptions(backend="ray"),
        progress=progress,
    )
    assert progress.resumed_rows >= 4 and shards(tmp_path / "again") == shards(tmp_path / "always")


def test_no_drop_names_the_path_of_a_private_image_whatever_its_name(
    config: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "Doe  Jane"
    folder.mkdir()
    names = ["scan  1.png", "line\n2.png", "wide\u00a03.png"]
    for name in names:
        (folder / name).write_bytes(b"")
    lines = [
        {"id": str(n), "question": "What?", "answer": "yes", "image": name}
        for n, name in enumerate(names)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for index, steps in enumerate(((), (step_config("size", "image_size"),))):
        out = tmp_path / f"out{index}"
        curate(config(*steps, path=folder), out)
        drops_text = (out / "drops.jsonl").read_text(encoding="utf-8")
        assert (
            drops_text.count("its image is empty") == 3
            and "Doe" not in drops_text
            and "scan" not in drops_text
        )
