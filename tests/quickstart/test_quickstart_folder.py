"""A quickstart into a folder that something else wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from lingshu.cli.quickstart import quickstart
from lingshu.core.errors import ConfigError
from lingshu.core.files import write_json


def test_the_folder_of_a_training_run_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"stages": []})
    with pytest.raises(ConfigError, match="no quickstart wrote"):
        quickstart(out=tmp_path)
