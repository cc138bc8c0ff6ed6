"""Measurements that need what is rarely at hand are at least seen to run, in small."""

from __future__ import annotations

import runpy
from pathlib import Path

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
