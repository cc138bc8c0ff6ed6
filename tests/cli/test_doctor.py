"""`lingshu doctor`: it says what is there, and exits with 1 when something found is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lingshu import __version__
from lingshu.cli.doctor import known_issues, satisfies
from lingshu.cli.main import main


def examine(extra_path: Path) -> tuple[int, dict]:
    """Run the doctor in an interpreter that finds modules in `extra_path` first."""
    code = (
        f"import sys; sys.path.insert(0, {str(extra_path)!r}); from lingshu.cli.main import main;"
        " sys.exit(main(['doctor', '--json']))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(extra_path)},
    )
    return process.returncode, json.loads(process.stdout)


def test_this_installation_is_usable(tmp_path: Path) -> None:
    code, report = examine(tmp_path)
    by_name = {check["name"]: check for check in report["checks"]}
    assert (code, report["usable"]) == (0, True)
    assert by_name["lingshu"]["value"] == __version__
    assert by_name["numpy"]["state"] == "ok"
    assert {"python", "CPU cores", "free here", "torchvision"} <= by_name.keys()


def test_a_torchvision_that_cannot_be_imported_is_broken_and_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    code, report = examine(tmp_path)
    broken_checks = [check for check in report["checks"] if check["state"] == "broken"]
    assert (code, report["usable"], len(broken_checks)) == (1, False, 1)
    assert "torchvision::nms" in broken_checks[0]["value"]
    assert broken_checks[0]["remedy"].startswith("pip uninstall torchvision")


def test_a_torch_that_cannot_be_imported_is_broken(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')\n")
    code, report = examine(tmp_path)
    assert code == 1
    assert any(
        "libcudart.so" in check["value"] for check in report["checks"] if check["state"] == "broken"
    )


def test_every_issue_has_one_line_and_a_remedy() -> None:
    issues = known_issues()
    assert issues and all(
        issue["remedy"] and "\n" not in "".join(issue.values()) for issue in issues
    )


def test_the_table_shows_every_area_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert {"python", "core", "extras", "torch", "machine", "disk", "known issues"} <= set(lines)
    assert lines[-1].startswith("usable" if code == 0 else "not usable")


@pytest.mark.parametrize(
    ("version", "bounds", "is_inside"),
    [
        ("2.13.0+cpu", ">=2.9,<2.14", True),
        ("2.14.0", ">=2.9,<2.14", False),
        ("5.9", ">=5.16,<6", False),
        ("5.16", ">=5.16.0,<6", True),
        ("1.0rc1", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, bounds: str, is_inside: bool) -> None:
    assert satisfies(version, bounds) is is_inside
