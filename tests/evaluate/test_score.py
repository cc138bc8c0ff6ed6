"""Scoring under several protocols, from stored replies alone."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core.errors import InputError, UnknownNameError
from lingshu.core.files import read_jsonl, write_jsonl
from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Sample, Sampling, Score, Scorer
from lingshu.evaluate.generate import generate
from lingshu.evaluate.score import count_failed, score, scores_file
from lingshu.scoring import auto, rubric
from lingshu.scoring.rubric import NEEDS_JUDGE
from tests.support.evaluation import RecordingEngine, demo_task

SAMPLES = [
    Sample(
        f"s{i}",
        (user_turn("Which?", 0),),
        gold=("B",),
        choices=("lung", "heart"),
        meta=Meta(access="open", kind="choice"),
    )
    for i in range(3)
]
TASK = demo_task(SAMPLES)


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    generate(
        TASK, SAMPLES, RecordingEngine("B"), tmp_path, sampling=Sampling(), images=lambda image: b""
    )
    return tmp_path


def test_strict_alone_is_the_default(answered: Path) -> None:
    assert score(TASK, SAMPLES, answered) == (3, 0, 0)
    rows = list(read_jsonl(answered / "scores.jsonl"))
    assert [(row["id"], row["protocol"]) for row in rows] == [
        ("s0", "strict"),
        ("s1", "strict"),
        ("s2", "strict"),
    ]
    assert sorted(path.name for path in answered.iterdir()) == [
        "replies.jsonl",
        "requests.jsonl",
        "scores.jsonl",
    ]


def test_each_protocol_has_its_own_file(answered: Path) -> None:
    assert score(TASK, SAMPLES, answered, protocols=("strict", "medevalkit")) == (3, 0, 0)
    assert {row["protocol"] for row in read_jsonl(answered / "scores.jsonl")} == {"strict"}
    other = list(read_jsonl(scores_file(answered, "medevalkit")))
    assert scores_file(answered, "medevalkit").name == "scores.medevalkit.jsonl"
    assert [row["id"] for row in other] == ["s0", "s1", "s2"]
    assert {(row["protocol"], row["value"]) for row in other} == {("medevalkit", 1.0)}


def test_scoring_again_needs_neither_engine_nor_change(answered: Path) -> None:
    score(TASK, SAMPLES, answered)
    first = (answered / "scores.jsonl").read_bytes()
    score(TASK, SAMPLES, answered)
    assert (answered / "scores.jsonl").read_bytes() == first


def test_scores_of_other_replies_do_not_stay_with_those_of_these(answered: Path) -> None:
    score(TASK, SAMPLES, answered, protocols=("paper", "strict"))
    score(TASK, SAMPLES, answered)
    assert scores_file(answered, "paper").is_file()
    # As after a run with other decoding that was killed before its run card: the card still lists
    # both protocols.
    rows = [{**row, "text": "A"} for row in read_jsonl(answered / "replies.jsonl")]
    write_jsonl(answered / "replies.jsonl", rows)
    score(TASK, SAMPLES, answered)
    assert not scores_file(answered, "paper").exists()


def test_no_protocol_and_an_id_given_twice_are_refused(answered: Path) -> None:
    with pytest.raises(InputError, match="no protocol is named"):
        score(TASK, SAMPLES, answered, protocols=())
    with pytest.raises(UnknownNameError, match="strict"):
        score(TASK, SAMPLES, answered, protocols=("stricter",))
    with pytest.raises(InputError, match="two samples with one id"):
        score(TASK, [*SAMPLES, SAMPLES[0]], answered)


def test_a_scorer_that_fails_loses_only_that_reply(answered: Path) -> None:
    def breaks(sample: Sample, reply: str) -> Score:
        if sample.id == "s1":
            raise KeyError("gone")
        return Score(float("nan") if sample.id == "s2" else 1.0)

    assert score(replace(TASK, score=breaks), SAMPLES, answered) == (3, 2, 0)
    rows = list(read_jsonl(answered / "scores.jsonl"))
    assert [(row["value"], row["status"]) for row in rows] == [
        (1.0, "ok"),
        (None, "error"),
        (None, "error"),
    ]
    assert (
        rows[1]["note"].startswith("the scorer failed: KeyError: 'gone'")
        and rows[2]["note"] == "the scorer gave nan"
    )


@pytest.mark.parametrize("judged", [rubric.score, auto.score])
def test_replies_that_need_a_judge_did_not_fail(answered: Path, judged: Scorer) -> None:
    rubrics = [
        replace(sample, choices=(), meta=replace(sample.meta, kind="rubric")) for sample in SAMPLES
    ]
    (answered / "replies.jsonl").write_text(
        "".join((answered / "replies.jsonl").read_text().splitlines(keepends=True)[:2])
    )
    assert score(replace(TASK, score=judged), rubrics, answered, protocols=("strict", "paper")) == (
        3,
        1,
        2,
    )
    rows = list(read_jsonl(answered / "scores.jsonl"))
    assert {row["status"] for row in rows} == {"error"} and count_failed(rows) == 1
    assert rows[0]["note"].startswith(NEEDS_JUDGE)


def test_long_replies_are_not_all_in_memory(answered: Path) -> None:
    requested = [replace(SAMPLES[0], id=f"l{i}") for i in range(200)]
    row = next(iter(read_jsonl(answered / "replies.jsonl")))
    write_jsonl(
        answered / "requests.jsonl", ({"id": sample.id, "key": sample.id} for sample in requested)
    )
    write_jsonl(
        answered / "replies.jsonl",
        (
            {**row, "key": sample.id, "id": sample.id, "text": "B. " + "x" * 100_000}
            for sample in requested
        ),
    )
    tracemalloc.start()
    try:
        assert (
            score(replace(TASK, score=lambda sample, reply: Score(1.0)), requested, answered).n_rows
            == 200
        )
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # of 20 MB
    finally:
        tracemalloc.stop()
