"""`lingshu list`: names and first lines, read without importing the files."""

from __future__ import annotations

import json
import sys

import pytest

from lingshu.cli.main import main
from lingshu.core import registry


def test_every_engine_is_listed_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "engines"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == registry.names("engines")
    assert all(len(line.split()) > 2 for line in lines)


def test_listing_imports_no_file_of_the_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "lingshu.engines.echo", raising=False)
    assert main(["list", "engines"]) == 0
    assert "echo" in capsys.readouterr().out
    assert "lingshu.engines.echo" not in sys.modules


def test_json_maps_names_to_first_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "engines", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == registry.names("engines")


def test_without_a_group_the_groups_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert tuple(json.loads(capsys.readouterr().out)) == registry.GROUPS
