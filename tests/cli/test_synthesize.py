"""`lingshu synthesize`: recipes, files, exit codes and what a person reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.cli.main import main
from lingshu.core.artifacts import open_dataset, write_dataset
from lingshu.core.files import read_jsonl
from lingshu.core.run_card import RunCard
from lingshu.imaging.read import image_bytes
from lingshu.sources import phantom


@pytest.fixture
def captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    samples = phantom.training_samples(0, 8, "captions")
    write_dataset(
        tmp_path / "captions",
        "in",
        ((s, [image_bytes(i) for i in s.images]) for s in samples),
        RunCard("test", {}),
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more: str) -> list[str]:
    rl_task = "steps.captions.params.min_words=15"
    return [
        "synthesize",
        "synthesis_captions",
        "captions",
        rl_task,
        "--teacher",
        "scripted",
        "--out",
        "out",
        *more,
    ]


def test_a_recipe_builds_a_dataset_and_reports_its_cost(
    captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command()) == 0
    output = capsys.readouterr().out
    assert (
        "captions: 8 -> 8\n" in output
        and "calls: requests 32, calls" in output
        and "to review: out/review/queue.jsonl" in output
    )
    assert open_dataset(Path("out")).rows == 16 and Path("out.calls/calls.jsonl").is_file()
    assert main(command()) == 0
    assert "calls 0, cached" in capsys.readouterr().out


def test_a_spent_budget_is_exit_code_1(captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("token_budget=9000")) == 1
    assert "budget" in capsys.readouterr().out


def test_a_kind_that_reviewers_reject_is_exit_code_2_and_writes_nothing(
    captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command()) == 0
    before = open_dataset(Path("out")).version
    row = next(read_jsonl(Path("out/review/queue.jsonl")))
    Path("v.jsonl").write_text(
        json.dumps({"id": row["id"], "reviewer": "r1", "verdict": "reject", "reason": "wrong"})
        + "\n"
    )
    capsys.readouterr()
    assert main(command("--verdicts", "v.jsonl")) == 2
    assert "reviewers rejected 1 of 1 samples" in capsys.readouterr().err
    assert open_dataset(Path("out")).version == before


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            ["synthesize", "curation_phantom", "captions", "--teacher", "scripted", "--out", "out"],
            "not a recipe of a synthesis",
        ),
        (command("steps.captions.params.min_word=3"), "min_words"),
        (command("--limit", "0"), "--limit is 0"),
        (command("--verdicts", "none.jsonl"), "none.jsonl"),
    ],
)
def test_wrong_input_is_exit_code_2(
    captions: Path, capsys: pytest.CaptureFixture[str], given: list[str], why: str
) -> None:
    assert main(given) == 2
    assert why in capsys.readouterr().err


def test_calls_are_not_kept_where_they_would_be_replaced(
    captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command()) == 0
    capsys.readouterr()
    assert main(command("--cache-dir", "out/calls")) == 2
    assert (
        "choose another folder for the calls" in capsys.readouterr().err
        and not Path("out/calls").exists()
    )
