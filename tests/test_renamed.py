"""tests/renamed.json (names of before the first release, as external checkers still use them) leads
to names that exist.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from lingshu.cli.main import build_app

TESTS = Path(__file__).parent
NEW_NAMES = json.loads((TESTS / "renamed.json").read_text(encoding="utf-8"))


def test_every_module_that_replaces_another_exists() -> None:
    modules = {name for name in NEW_NAMES.values() if name.startswith("lingshu.")}
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


def test_every_option_that_replaces_another_is_taken_by_some_command() -> None:
    help_text = build_app().generate_docs(output_format="markdown", recursive=True)
    options = {name for name in NEW_NAMES.values() if name.startswith("--")}
    assert [option for option in sorted(options) if option not in help_text] == []


def test_every_other_name_occurs_in_the_code() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in sorted((TESTS.parent / "src").rglob("*"))
        if path.suffix in (".py", ".json")
    )
    names = {name for name in NEW_NAMES.values() if not name.startswith(("lingshu.", "--"))}
    assert [name for name in sorted(names) if name not in source] == []
