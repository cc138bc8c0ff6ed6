"""`lingshu convert` as a person calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from lingshu.cli.main import main
from lingshu.core.files import check_manifest
from lingshu.core.run_card import RunCard
from lingshu.models.export import export
from tests.support.tiny import FAMILIES, tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_the_result_is_a_checkpoint_and_its_counts_are_printed(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = tiny(family)
    export(model, processor, tmp_path / "source", RunCard("test", {}))
    arguments = [str(tmp_path / "source"), "--dtype", "bfloat16", "--out", str(tmp_path / "out")]
    assert main(["convert", *arguments]) == 0
    printed = capsys.readouterr().out
    n_values = sum(parameter.numel() for parameter in model.parameters())
    assert f"values {n_values:,}" in printed and f"converted: {tmp_path / 'out'}" in printed
    assert check_manifest(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "--out", "out"], "missing is not a folder"),
        ([".", "--out", "out"], "config.json is missing"),
        ([".", "--out", "out", "--sha256", "12"], "give FILE=DIGEST"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
