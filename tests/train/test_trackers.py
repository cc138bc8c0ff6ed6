"""Experiment trackers: the numbers of the log reach the real libraries, where they are installed."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from lingshu.core.errors import MissingExtraError, UnknownNameError
from lingshu.train.log import TrackedRun, check_trackers, open_log, open_trackers

Read = Callable[[Path], Mapping[int, float]]  # the values of one metric by step
METRIC = "deep/validation/vqa/loss"
LIBRARIES = ("wandb", "trackio", "mlflow", "tensorboard")


def read_tensorboard(out: Path) -> Mapping[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(METRIC)}


def read_wandb(out: Path) -> Mapping[int, float]:
    """From the file of an offline run: records in the log format of LevelDB, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    values = {}
    for path in sorted((out / "wandb").glob("offline-run-*/*.wandb")):
        data, start = path.read_bytes(), 7
        while start + 7 < len(data):
            size, kind = struct.unpack_from("<HB", data, start + 4)
            assert kind == 1, "a record in one piece"
            record = Record()
            record.ParseFromString(data[start + 7 : start + 7 + size])
            start += 7 + size
            items = record.history.item
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            if METRIC in row:
                values[row["_step"]] = row[METRIC]
    return values


def read_mlflow(out: Path) -> Mapping[int, float]:
    import mlflow  # pyright: ignore[reportMissingImports]

    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, METRIC)
    return {point.step: point.value for point in history}


def read_trackio(out: Path) -> Mapping[int, float]:
    (path,) = (out / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT step, metrics FROM metrics").fetchall()
    parsed = [(step, json.loads(metrics)) for step, metrics in rows]
    return {step: row[METRIC] for step, row in parsed if METRIC in row}


READERS: Mapping[str, Read] = {
    "wandb": read_wandb,
    "trackio": read_trackio,
    "mlflow": read_mlflow,
    "tensorboard": read_tensorboard,
}


def add_row(out: Path, name: str, *, stage_start: int, step: int, loss: float) -> None:
    run = TrackedRun(out, "vqa", {"deep.batch": "4"}, steps_done=stage_start + step - 1)
    with (
        open_trackers([name], run) as trackers,
        open_log(out, log_bytes=0, trackers=trackers, steps_before=stage_start) as log,
    ):
        row = {"stage": "deep", "step": step, "total": 9, "validation/vqa/loss": loss, "kl": None}
        log.add(row, step)
    assert not trackers.failures


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_tracker_has_the_numbers_by_the_total_step_also_after_a_resume(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    add_row(tmp_path, name, stage_start=100, step=1, loss=0.5)
    add_row(tmp_path, name, stage_start=100, step=2, loss=0.25)
    assert READERS[name](tmp_path) == {101: 0.5, 102: 0.25}


FAILING = """
from contextlib import contextmanager
from lingshu.train.log import OpenTracker

LIBRARY = "json"

@contextmanager
def open_run(run):
    def track(scalars, step):
        raise ConnectionError("no route")
    yield OpenTracker(track, "id of " + str(run.run_id))
"""


def test_a_tracker_of_ones_own_is_a_file_and_its_failures_are_counted_while_the_log_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.py").write_text(FAILING, encoding="utf-8")
    name = str(tmp_path / "mine.py")
    check_trackers([name])
    with (
        open_trackers([name], TrackedRun(tmp_path, "vqa", {})) as trackers,
        open_log(tmp_path, log_bytes=0, trackers=trackers) as log,
    ):
        for step in (1, 2):
            log.add({"stage": "deep", "step": step, "total": 2, "loss": 1.0}, step)
    assert trackers.failures == {name: 2}
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} did not take step 1: no route"
    ]
    assert len((tmp_path / "log.jsonl").read_text("utf-8").splitlines()) == 2
    with open_trackers([name], TrackedRun(tmp_path, "vqa", {})):
        pass
    assert "id of id of None" in (tmp_path / "trackers.json").read_text("utf-8")


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_or_unknown_is_named_before_anything_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lingshu.train.log.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=rf"{name} is not installed; .*lingshu\[trackers\]"):
        check_trackers([name])
    with pytest.raises(UnknownNameError, match="mlflow"):
        check_trackers(["mlfow"])
