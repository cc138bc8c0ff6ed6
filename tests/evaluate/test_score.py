"""Scoring under several protocols, from stored replies alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lingshu.core.errors import InputError, UnknownName
from lingshu.core.files import read_jsonl
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Meta, Reply, Sample, Sampling, Task
from lingshu.evaluate.generate import generate
from lingshu.evaluate.score import score, scores_file
from lingshu.scoring import auto

SAMPLES = [
    Sample(f"s{i}", (user_turn("Which?", 0),), gold=("B",), choices=("lung", "heart"), meta=Meta(access="open", kind="choice"))
    for i in range(3)
]
TASK = Task("demo", "Demo", "made up", "CC0", lambda data: SAMPLES, auto.score, lambda seed: SAMPLES)


class Says:
    model, digest, endpoint = "says", "d", None

    def generate(self, samples, sampling, *, skip=()):
        yield [Reply(sample.id, "B") for sample in samples]


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    generate(TASK, SAMPLES, Says(), tmp_path, sampling=Sampling(), images=lambda image: b"")
    return tmp_path


def test_strict_alone_is_the_default(answered: Path) -> None:
    rows = score(TASK, SAMPLES, answered)
    assert {row["protocol"] for row in rows} == {"strict"}
    assert list(read_jsonl(answered / "scores.jsonl")) == rows
    assert sorted(path.name for path in answered.iterdir()) == ["asked.jsonl", "replies.jsonl", "scores.jsonl"]


def test_each_protocol_has_a_file_of_its_own(answered: Path) -> None:
    rows = score(TASK, SAMPLES, answered, protocols=("strict", "medevalkit"))
    assert {row["protocol"] for row in rows} == {"strict"}
    other = list(read_jsonl(scores_file(answered, "medevalkit")))
    assert scores_file(answered, "medevalkit").name == "scores.medevalkit.jsonl"
    assert [row["id"] for row in other] == ["s0", "s1", "s2"]
    assert {(row["protocol"], row["value"]) for row in other} == {("medevalkit", 1.0)}


def test_scoring_again_needs_neither_engine_nor_change(answered: Path) -> None:
    score(TASK, SAMPLES, answered)
    first = (answered / "scores.jsonl").read_bytes()
    score(TASK, SAMPLES, answered)
    assert (answered / "scores.jsonl").read_bytes() == first


def test_no_protocol_and_an_id_given_twice_are_refused(answered: Path) -> None:
    with pytest.raises(InputError, match="no protocol is named"):
        score(TASK, SAMPLES, answered, protocols=())
    with pytest.raises(UnknownName, match="strict"):
        score(TASK, SAMPLES, answered, protocols=("stricter",))
    with pytest.raises(InputError, match="two samples with one id"):
        score(TASK, [*SAMPLES, SAMPLES[0]], answered)
