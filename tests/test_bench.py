"""Measurements that need what is rarely at hand are at least seen to run, in small."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"


def test_training_on_a_gpu_is_measured_by_code_that_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.syspath_prepend(str(BENCH))
    threads = torch.get_num_threads()
    script = runpy.run_path(str(BENCH / "gpu_train.py"))
    script["main"](["--tiny"])
    torch.set_num_threads(threads)
    summary = capsys.readouterr().out
    assert "| stage 2, captions |" in summary and "| stage 3, packed to 512 |" in summary
    if not torch.cuda.is_available():
        script["main"]([])
        assert "No GPU is at hand" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.stem)
def test_replace_is_given_fields_that_exist(path: Path, fields: set[str]) -> None:
    """A type checker does not see these names, and most of the scripts are not run here."""
    given = {
        keyword.arg
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        for keyword in (call.keywords if call.func.id == "replace" else ())
    }
    assert given <= fields


@pytest.fixture(scope="module")
def fields() -> set[str]:
    """The annotated names of every class of the package and of the benchmarks."""
    files = [*(BENCH.parent / "src").rglob("*.py"), *BENCH.glob("*.py")]
    return {
        statement.target.id
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


@pytest.fixture
def classification() -> dict[str, Any]:
    return runpy.run_path(str(BENCH / "_classification.py"))


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 0.75),
        ([1, 2, 3], [False, True, True], 1.0),
        ([3, 2, 1], [False, True, True], 0.0),
        ([1, 1, 1, 1], [True, False, True, False], 0.5),
        ([1, 2], [True, True], None),
        ([], [], None),
    ],
)
def test_auroc(classification, scores, positive, area):
    assert classification["auroc"](scores, positive) == area


def test_balanced_accuracy_weighs_classes_alike(classification):
    balanced_accuracy = classification["balanced_accuracy"]
    assert balanced_accuracy(["a", "a", "a", "b"], ["a", "a", "b", "b"]) == 0.75
    assert balanced_accuracy(["a"] * 10, ["a"] * 9 + ["b"]) == 0.5
    assert balanced_accuracy([], []) is None
