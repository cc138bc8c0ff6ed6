"""The run card: says what was asked for, with what, and nothing about the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lingshu import __version__
from lingshu.core.errors import ArtifactError
from lingshu.core.run_card import RunCard, installed_versions, read_run_card, write_run_card


def test_a_run_card_comes_back_as_written(tmp_path: Path) -> None:
    card = RunCard(
        "train",
        {"seed": 1, "parts": ("vision",)},
        seed=1,
        counts={"rows": 2},
        hashes={"data": "00"},
    )
    write_run_card(tmp_path, card)
    found = read_run_card(tmp_path)
    assert (found["verb"], found["config"], found["seed"], found["counts"]) == (
        "train",
        {"seed": 1, "parts": ["vision"]},
        1,
        {"rows": 2},
    )
    assert found["versions"]["lingshu"] == __version__ and found["created"].endswith("+00:00")


def test_the_command_names_the_program_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/somebody/bin/lingshu", "eval", "echo"])
    assert RunCard("eval", {}).command == ("lingshu", "eval", "echo")


def test_versions_do_not_import_what_they_ask_about() -> None:
    assert {"lingshu", "python", "numpy", "pyarrow"} <= installed_versions().keys()


def test_a_missing_run_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"run\.json does not exist"):
        read_run_card(tmp_path)
