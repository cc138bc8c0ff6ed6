"""The command line: it starts without heavy libraries, and wrong input is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lingshu import __version__
from lingshu.cli.main import EXTRA_BY_MODULE, VERBS, build_app, main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "pyarrow", "pydantic", "numpy", "PIL", "aiohttp", "cv2", "mcp")


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = f"""
import sys
from lingshu.cli.main import main
code = main(["--help"])
verbs = [m for m in sys.modules if m.startswith("lingshu.cli.") and m[12:] not in ("main", "log")]
print("HEAVY", [m for m in {HEAVY!r} if m in sys.modules], verbs, code)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.endswith("HEAVY [] [] 0\n")
    for name in VERBS:
        assert f" {name} " in process.stdout


def test_python_dash_m_prints_the_version() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "lingshu", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout == f"{__version__}\n"


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Usage: lingshu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["lits"], "there is no command or option 'lits'; did you mean 'list'?"),
        (["--verson"], "there is no command or option '--verson'"),
        (["list", "task"], "there is no group 'task'; did you mean 'tasks'?"),
        (["list", "tasks", "--jsn"], "Did you mean --json"),
        (["list", "tasks", "more"], "see `lingshu list --help`"),
        (["doctor", "now"], "see `lingshu doctor --help`"),
        (["score", "missing.jsonl", "--scorer", "yes_no"], "missing.jsonl"),
        (["score", "missing.jsonl"], "--scorer"),
        (["score", "missing.jsonl", "--scorer", "yes_nop"], "did you mean 'yes_no'?"),
        (
            ["eval", "echo", "phantm", "--out", "run"],
            "tasks has no 'phantm'; did you mean 'phantom'?",
        ),
        (["eval", "echo", "phantom"], "--out"),
        (["eval", "echo", "phantom", "--out", "run", "--limit", "few"], "few"),
        (["eval", "echo", "vqa", "--data", "missing", "--out", "run"], "missing"),
        (["eval", "echo", "missing.py", "--out", "run"], "missing.py does not exist"),
        (["report", "missing"], "missing"),
        (["ask", "missing", "Is there a lesion?"], "missing"),
        (["ask", "echo:yes", "Is there a lesion?", "missing.png"], "file 1 cannot be opened"),
        (["train", "quickstrt", "--out", "run"], "did you mean 'quickstart'?"),
        (["train", "quickstart", "sed=1", "--out", "run"], "did you mean 'seed'?"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lingshu: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_not_installed_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_torch() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    run_instead(needs_torch, monkeypatch)
    assert main(["doctor"]) == 2
    assert (
        capsys.readouterr().err
        == "lingshu: error: torch is not installed; run: pip install 'lingshu[torch]'\n"
    )


def test_bugs_keep_their_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_bug() -> None:
        raise ZeroDivisionError

    run_instead(raise_bug, monkeypatch)
    # Not 1: that says a command finished with failures it counted.
    assert main(["doctor"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_user_who_stops_a_command_gets_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_interrupt() -> None:
        raise KeyboardInterrupt

    run_instead(raise_interrupt, monkeypatch)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "lingshu: stopped\n"


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_decides_its_exit_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(lambda: code, monkeypatch)
    assert main(["doctor"]) == code


def test_every_extra_that_a_message_names_is_declared() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(EXTRA_BY_MODULE.values()) <= set(pyproject["project"]["optional-dependencies"])


def test_every_verb_can_be_found() -> None:
    app = build_app()
    for name, summary in VERBS.items():
        assert app[name].help == summary


def run_instead(function: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `function` where `lingshu doctor` is looked up."""
    import lingshu.cli.doctor

    monkeypatch.setattr(lingshu.cli.doctor, "doctor", function)
