"""Several processes on one task, samples on the disk, and the ledger of what is still to be
answered.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from lingshu.core.artifacts import read_scores
from lingshu.core.errors import InputError, StorageError
from lingshu.core.files import read_jsonl
from lingshu.core.messages import user_turn
from lingshu.core.types import Image, Meta, Provenance, Reply, Sample, Sampling, Task
from lingshu.evaluate import score as scoring
from lingshu.evaluate.generate import GenerationResult, PendingSamples, count_pending, generate
from lingshu.evaluate.spool import DiskSamples
from lingshu.imaging.read import image_bytes
from lingshu.scoring import auto


def score(task: Task, requested: Sequence[Sample], folder: Path) -> list[dict]:
    scoring.score(task, requested, folder)
    return read_scores(folder / "scores.jsonl")


def samples(count: int = 10) -> list[Sample]:
    return [
        Sample(f"s{i}", (user_turn(f"Question {i}?", 0),), gold=("yes",), meta=Meta(access="open"))
        for i in range(count)
    ]


TASK = Task(
    "demo",
    "Demo",
    Provenance("made up", "CC0"),
    lambda data: samples(),
    auto.score,
    lambda seed: samples(),
)


class Recorder:
    """Says yes, and remembers what it was asked; it holds on to answers until `go` where there is
    one.
    """

    model, digest, endpoint = "recorder", "d", None

    def __init__(
        self, *, fails: tuple[str, ...] = (), may_answer: threading.Event | None = None
    ) -> None:
        self.requested: list[str] = []
        self.fails, self.may_answer, self.started = fails, may_answer, threading.Event()

    def generate(self, samples, sampling, *, skip=()):
        for sample in samples:
            if (sample.id, 0) in skip:
                continue
            self.requested.append(sample.id)
            self.started.set()
            assert self.may_answer is None or self.may_answer.wait(10)
            yield [
                Reply(sample.id, None, error="busy")
                if sample.id in self.fails
                else Reply(sample.id, "yes")
            ]


def run(
    engine: Recorder, folder: Path, *, samples_override=None, rank: int = 0, world_size: int = 1
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
    first, second = Recorder(), Recorder(fails=("s3",))
    assert run(first, tmp_path, rank=0, world_size=3) == (4, 0, 4, 0, 0)
    assert count_pending(tmp_path) == 6
    assert run(second, tmp_path, rank=0, world_size=2) == (5, 2, 3, 0, 0)
    assert (first.requested, second.requested) == (["s0", "s3", "s6", "s9"], ["s2", "s4", "s8"])
    alone = Recorder()
    assert run(alone, tmp_path) == (10, 7, 3, 0, 0)
    assert alone.requested == ["s1", "s5", "s7"] and count_pending(tmp_path) == 0
    assert [row["value"] for row in score(TASK, samples(), tmp_path)] == [1.0] * 10


def test_concurrent_ranks_neither_repeat_nor_disturb_each_other(
    tmp_path: Path,
) -> None:
    may_answer = threading.Event()
    engines = [Recorder(may_answer=may_answer) for _ in range(3)]
    threads = [
        threading.Thread(target=run, args=(engine, tmp_path), kwargs={"rank": i, "world_size": 3})
        for i, engine in enumerate(engines)
    ]
    for thread in threads:
        thread.start()
    assert all(engine.started.wait(10) for engine in engines)
    with pytest.raises(StorageError, match="is being written by another"):
        run(Recorder(), tmp_path)
    with pytest.raises(StorageError, match="is being written by another"):
        run(Recorder(), tmp_path, rank=1, world_size=3)
    may_answer.set()
    for thread in threads:
        thread.join()
    assert sorted(name for engine in engines for name in engine.requested) == [
        f"s{i}" for i in range(10)
    ]
    assert [row["status"] for row in score(TASK, samples(), tmp_path)] == ["ok"] * 10


def test_a_refused_second_run_leaves_the_requests_of_the_first(tmp_path: Path) -> None:
    may_answer = threading.Event()
    engine = Recorder(may_answer=may_answer)
    thread = threading.Thread(target=run, args=(engine, tmp_path))
    thread.start()
    assert engine.started.wait(10)
    with pytest.raises(StorageError, match="wait for it to end"):
        run(Recorder(), tmp_path, samples_override=samples(3))
    may_answer.set()
    thread.join()
    assert len(list(read_jsonl(tmp_path / "requests.jsonl"))) == 10


def test_a_failure_that_another_rank_fixes_counts_as_its_answer(tmp_path: Path) -> None:
    assert run(Recorder(fails=("s0",)), tmp_path, rank=0, world_size=2).n_errors == 1
    run(Recorder(), tmp_path, rank=1, world_size=2)
    assert count_pending(tmp_path) == 0
    assert score(TASK, samples(), tmp_path)[0]["status"] == "error"
    assert run(Recorder(), tmp_path) == (10, 9, 1, 0, 0)
    assert score(TASK, samples(), tmp_path)[0]["value"] == 1.0


def test_replies_of_another_run_do_not_count(tmp_path: Path) -> None:
    run(
        Recorder(),
        tmp_path,
        samples_override=[Sample(s.id, (user_turn("Else?", 0),), meta=s.meta) for s in samples()],
        rank=1,
        world_size=2,
    )
    assert run(Recorder(), tmp_path).n_requested == 10


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_invalid_ranks_are_refused(tmp_path: Path, rank: int, world_size: int) -> None:
    with pytest.raises(InputError, match="ranks count from 0"):
        run(Recorder(), tmp_path, rank=rank, world_size=world_size)


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
    engine = Recorder()
    assert run(engine, tmp_path / "run", samples_override=spool) == (11, 0, 11, 0, 0)
    assert engine.requested == [*(f"s{i}" for i in range(10)), "p"]
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
