"""Looking up plug-ins by name, by path and by entry point; the nearest name if there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lingshu.core.errors import (
    InputError,
    MissingExtraError,
    UnknownNameError,
    one_line,
    suggest_name,
)
from lingshu.core.registry import GROUPS, builtin_modules, describe, get_attribute, load, names


def test_files_are_the_registration() -> None:
    assert {"echo", "openai"} <= builtin_modules("engines").keys()
    assert all(not name.startswith("_") for group in GROUPS for name in builtin_modules(group))
    assert "echo" in names("engines")
    assert load("engines", "echo") is sys.modules["lingshu.engines.echo"]
    assert describe("engines", "echo").startswith("Returns the gold answer")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="engines has no 'ehco'; did you mean 'echo'"):
        load("engines", "ehco")


def test_a_path_works_like_a_name_and_files_of_one_name_stay_separate(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "task.py").write_text(f"VALUE = {value}\n")
    assert [
        get_attribute("tasks", str(tmp_path / folder / "task.py"), "VALUE") for folder in "ab"
    ] == [1, 2]
    with pytest.raises(InputError, match="does not exist"):
        load("tasks", str(tmp_path / "no.py"))
    with pytest.raises(InputError, match="has no 'TASK'"):
        get_attribute("tasks", str(tmp_path / "a" / "task.py"), "TASK")


def test_a_file_that_fails_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text("raise RuntimeError('first')\n")
    with pytest.raises(
        InputError, match=r"task.py cannot be loaded: RuntimeError: first \(task.py, line 1\)"
    ):
        load("tasks", str(path))
    path.write_text("VALUE = 2\n")
    assert get_attribute("tasks", str(path), "VALUE") == 2


def test_loading_one_thing_imports_that_alone() -> None:
    code = (
        "import sys; from lingshu.core import registry; registry.load('engines', 'echo');"
        " print('lingshu.engines.openai' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        ).stdout.strip()
        == "False"
    )


def test_messages_for_people() -> None:
    assert suggest_name("zzz", ["b", "a"]) == "choose one of: a, b"
    assert suggest_name("x", []) == "nothing is available."
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError()) == "ValueError"
    assert "pip install 'lingshu[dicom]'" in str(MissingExtraError.of("pydicom", "dicom"))


def test_a_file_registers_its_variants_and_is_not_imported_to_list_them() -> None:
    assert {"slake", "slake_en", "slake_zh"} <= builtin_modules("tasks").keys()
    assert "medqa" not in names("tasks") and "medqa_usmle" in names("tasks")
    assert describe("tasks", "slake_zh").startswith("SLAKE, Chinese:")
    task = get_attribute("tasks", "slake-zh", "TASK")
    assert getattr(task, "name", None) == "slake_zh"
    code = (
        "import sys; from lingshu.core import registry; registry.describe('tasks', 'slake_en');"
        " print(any(name.startswith('lingshu.tasks') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"
