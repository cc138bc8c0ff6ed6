"""The scripts of examples/ run as they are called."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from lingshu.core.artefacts import write_scores

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> int:
    """Run a script as Python would, and return its exit code."""
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = before
    return 0


def test_ask(checkpoint: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("01_ask.py", str(checkpoint), "Is there a lesion?", "image.png") == 0
    assert capsys.readouterr().out.endswith("\n")


def test_evaluate_your_model(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("02_evaluate_your_model.py", "echo", "my_images", "runs/mine") == 0
    assert "12 of 12 right; not read: 0" in capsys.readouterr().out


def test_train_on_your_images(workplace: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert run("03_train_on_your_images.py", "my_images", "runs/small", "stages.instruct.steps=2") == 0
    assert (workplace / "runs/small/checkpoint/config.json").is_file()


def test_add_a_benchmark(tmp_path: Path) -> None:
    assert run("04_add_a_benchmark.py", str(tmp_path / "run")) == 0


def test_score_replies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("05_score_replies.py") == 0
    said = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert said == [["0.0", "ok"], ["1.0", "ok"], ["None", "multiple"], ["None", "unparsed"], ["None", "empty"]]


def test_compare_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, right in (("ours", 9), ("theirs", 3)):
        rows = [{"id": str(i), "value": float(i < right), "status": "ok"} for i in range(10)]
        write_scores(tmp_path / name / "demo" / "scores.jsonl", rows)
    assert run("06_compare_two_runs.py", str(tmp_path / "ours"), str(tmp_path / "theirs")) == 0
    assert "demo: 60.0 points (30.0 to 90.0) on 10 questions, p = 0.031 (McNemar, exact)" in capsys.readouterr().out


def test_lora_on_your_images(checkpoint: Path, workplace: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    assert run("07_lora_on_your_images.py", str(checkpoint), "my_images", "runs/lora", "stages.lora.steps=2", "tensorboard=false") == 0
    assert (workplace / "runs/lora/adapters/1-lora/adapter_config.json").is_file()
    assert (workplace / "runs/lora/checkpoint/model.safetensors").is_file()


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [script.name for script in EXAMPLES.glob("*.py") if f'"{script.name}"' not in tests] == []
