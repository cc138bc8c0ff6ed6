"""A folder with a random fault is refused in one line, or it answers as stock transformers does."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from lingshu.core.errors import LingshuError
from lingshu.models.load import load
from tests.support.mutated_folders import model_batch, mutate, stock_logits, write_base
from tests.support.tiny import FAMILIES

SECONDS = 60  # for one folder, on a busy machine


def check_folder(folder: Path, what: str, unchanged: torch.Tensor | None = None) -> bool:
    """Whether it was loaded; fails if it neither answers as stock nor is refused in one line.

    What stock cannot load, such as shards without their index, must answer as the `unchanged`
    folder.
    """

    def stop(*_: object) -> None:
        raise AssertionError(f"no end after {SECONDS} s: {what}")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        loaded = load(str(folder))
        with torch.inference_mode():
            logits = loaded.model(**model_batch(loaded)).logits
    except LingshuError as error:
        assert str(folder) in str(error) and "\n" not in str(error), f"{what}: {error}"
        assert len(str(error)) < 800, f"{what}: {error}"
        return False
    finally:
        signal.alarm(0)
    try:
        expected = stock_logits(folder, loaded)
    except Exception as error:
        if unchanged is None:
            raise AssertionError(f"loaded, but stock cannot: {what}") from error
        expected = unchanged
    assert torch.allclose(logits, expected, atol=1e-5, rtol=1e-5), f"other logits: {what}"
    return True


@pytest.fixture(scope="module", params=FAMILIES)
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, torch.Tensor]:
    """A folder without a fault and its logits."""
    folder = write_base(tmp_path_factory.mktemp("base") / "model", request.param)
    assert check_folder(folder, "nothing changed")
    return folder, stock_logits(folder, load(str(folder)))


def n_loaded(base: tuple[Path, torch.Tensor], folder: Path, seeds: range) -> int:
    return sum(check_folder(folder, mutate(base[0], folder, seed), base[1]) for seed in seeds)


def test_some_faults_are_refused_or_harmless(
    base: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    assert 0 < n_loaded(base, tmp_path / "model", range(8)) < 8


@pytest.mark.slow
def test_five_hundred_faults_of_each_family_are_refused_or_harmless(
    base: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    assert 0 < n_loaded(base, tmp_path / "model", range(1000, 1500)) < 500
