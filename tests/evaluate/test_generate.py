"""Several processes on one task, samples on the disk, and the ledger of what is still to be
answered.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lingshu.core.errors import InputError, StorageError
from lingshu.core.files import read_jsonl
from lingshu.core.messages import user_turn
from lingshu.core.types import Image, Meta, Sample, Sampling
from lingshu.evaluate.generate import GenerationResult, PendingSamples, count_pending, generate
from lingshu.evaluate.spool import DiskSamples
from lingshu.imaging.read import image_bytes
from tests.support.evaluation import RecordingEngine, demo_task, score


def samples(count: int = 10) -> list[Sample]:
    return [
        Sample(f"s{i}", (user_turn(f"Question {i}?", 0),), gold=("yes",), meta=Meta(access="open"))
        for i in range(count)
    ]


TASK = demo_task(samples())


def run(
    engine: RecordingEngine,
    folder: Path,
    *,
    samples_override=None,
    rank: int = 0,
    world_size: int = 1,
) -> GenerationResult:
    task_samples = samples() if samples_override is None else samples_override
    return generate(
        TASK,
        task_samples,
        engine,
        folder,
        sampling=Sampling(),
        images=image_bytes,
        rank=rank,
        world_size=world_size,
    )


def test_ranks_share_a_task_and_another_number_of_them_resumes(tmp_path: Path) -> None:
    first, second = (
        RecordingEngine(),
        RecordingEngine(lambda sample: None if sample.id == "s3" else "yes"),
    )
    assert run(first, tmp_path, rank=0, world_size=3) == (4, 0, 4, 0, 0)
    assert count_pending(tmp_path) == 6
    assert run(second, tmp_path, rank=0, world_size=2) == (5, 2, 3, 0, 0)
    assert (first.requested_ids, second.requested_ids) == (
        ["s0", "s3", "s6", "s9"],
        ["s2", "s4", "s8"],
    )
    alone = RecordingEngine()
    assert run(alone, tmp_path) == (10, 7, 3, 0, 0)
    assert alone.requested_ids == ["s1", "s5", "s7"] and count_pending(tmp_path) == 0
    assert [row["value"] for row in score(TASK, samples(), tmp_path)] == [1.0] * 10


def test_concurrent_ranks_neither_repeat_nor_disturb_each_other(
    tmp_path: Path,
) -> None:
    may_answer = threading.Event()
    engines = [RecordingEngine(may_answer=may_answer) for _ in range(3)]
    threads = [
        threading.Thread(target=run, args=(engine, tmp_path), kwargs={"rank": i, "world_size": 3})
        for i, engine in enumerate(engines)
    ]
    for thread in threads:
        thread.start()
    assert all(engine.started.wait(10) for engine in engines)
    with pytest.raises(StorageError, match="is being written by another"):
        run(RecordingEngine(), tmp_path)
    with pytest.raises(StorageError, match="is being written by another"):
        run(RecordingEngine(), tmp_path, rank=1, world_size=3)
    may_answer.set()
    for thread in threads:
        thread.join()
    assert sorted(name for engine in engines for name in engine.requested_ids) == [
        f"s{i}" for i in range(10)
    ]
    assert [row["status"] for row in score(TASK, samples(), tmp_path)] == ["ok"] * 10


def test_a_refused_second_run_leaves_the_requests_of_the_first(tmp_path: Path) -> None:
    may_answer = threading.Event()
    engine = RecordingEngine(may_answer=may_answer)
    thread = threading.Thread(target=run, args=(engine, tmp_path))
    thread.start()
    assert engine.started.wait(10)
    with pytest.raises(StorageError, match="wait for it to end"):
        run(RecordingEngine(), tmp_path, samples_override=samples(3))
    may_answer.set()
    thread.join()
    assert len(list(read_jsonl(tmp_path / "requests.jsonl"))) == 10


def test_a_failure_that_another_rank_fixes_counts_as_its_answer(tmp_path: Path) -> None:
    assert (
        run(
            RecordingEngine(lambda sample: None if sample.id == "s0" else "yes"),
            tmp_path,
            rank=0,
            world_size=2,
        ).n_errors
        == 1
    )
    run(RecordingEngine(), tmp_path, rank=1, world_size=2)
    assert count_pending(tmp_path) == 0
    assert score(TASK, samples(), tmp_path)[0]["status"] == "error"
    assert run(RecordingEngine(), tmp_path) == (10, 9, 1, 0, 0)
    assert score(TASK, samples(), tmp_path)[0]["value"] == 1.0


def test_replies_of_another_run_do_not_count(tmp_path: Path) -> None:
    run(
        RecordingEngine(),
        tmp_path,
        samples_override=[Sample(s.id, (user_turn("Else?", 0),), meta=s.meta) for s in samples()],
        rank=1,
        world_size=2,
    )
    assert run(RecordingEngine(), tmp_path).n_requested == 10


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_invalid_ranks_are_refused(tmp_path: Path, rank: int, world_size: int) -> None:
    with pytest.raises(InputError, match="ranks count from 0"):
        run(RecordingEngine(), tmp_path, rank=rank, world_size=world_size)


def test_samples_on_the_disk_are_generated_like_others(tmp_path: Path) -> None:
    image_sample = Sample(
        "p",
        (user_turn("?", 1),),
        (Image(data=b"encoded"),),
        ("A",),
        ("x", "y"),
        Meta(extra={"split": "test"}),
    )
    spool = DiskSamples([*samples(), image_sample], tmp_path / "run")
    assert (
        list(spool) == [*samples(), image_sample]
        and spool[-1] == image_sample
        and spool[2:4] == samples()[2:4]
    )
    with pytest.raises(IndexError):
        spool[11]
    engine = RecordingEngine()
    assert run(engine, tmp_path / "run", samples_override=spool) == (11, 0, 11, 0, 0)
    assert engine.requested_ids == [*(f"s{i}" for i in range(10)), "p"]
    spool.close()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "replies.jsonl",
        "requests.jsonl",
    ]


def test_pending_items_are_found_by_key_and_by_waiter() -> None:
    ledger = PendingSamples()
    for i in range(100):
        ledger.add(f"s{i}", f"{i:064x}")
    assert ledger.freeze() is None
    assert all(f"s{i}" in ledger and ledger.key(f"s{i}") == f"{i:064x}" for i in range(100))
    ledger.mark_done("s7")
    ledger.mark_done("s7")
    assert "s7" not in ledger and ledger.key("s7") == f"{7:064x}" and ledger.n_pending == 99
    assert "other" not in ledger
    with pytest.raises(KeyError):
        ledger.key("other")


def test_a_repeated_id_is_found() -> None:
    ledger = PendingSamples()
    for name in ("a", "b", "a"):
        ledger.add(name, "0" * 64)
    assert ledger.freeze() == 2
