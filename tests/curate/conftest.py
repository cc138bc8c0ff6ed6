"""Rows and configurations for the tests of curation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu.curate.config import CurateConfig
from tests.support.curate_config import configure, write_rows


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    return lambda count=10, *, name="rows", **fields: write_rows(tmp_path / name, count, **fields)


@pytest.fixture
def config(rows: Callable[..., Path]) -> Callable[..., CurateConfig]:
    return lambda *steps, path=None, **options: configure(path or rows(), *steps, **options)
