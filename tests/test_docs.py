"""docs/reference.py: the generated pages are up to date, and the public names are the frozen ones."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "reference.py"
PINNED = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or version("cyclopts") != PINNED["cyclopts"],
    reason="the pages are generated on Python 3.11 with the versions of constraints.txt",
)
def test_the_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_frozen() -> None:
    """A public name that is added, renamed or removed is a change of the interface: run
    docs/reference.py, and say so in CHANGELOG.md.
    """
    script = runpy.run_path(str(SCRIPT))
    frozen = json.loads(script["PUBLIC_NAMES"].read_text(encoding="utf-8"))
    assert json.loads(script["list_public_names"]()) == frozen
