"""The built wheel, installed without extras outside the checkout, scores and reports where there is
no torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = (
    {"id": "1", "question": "Is there a nodule?", "gold": "no", "reply": "No.", "kind": "lesion"},
    {"id": "2", "question": "Is there a nodule?", "gold": "yes", "reply": "Yes.", "kind": "lesion"},
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment that holds the wheel and what it requires, no
    more.
    """
    path = tmp_path_factory.mktemp("wheel")
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run(
        [sys.executable, *pip, "wheel", str(ROOT), "--no-deps", "--wheel-dir", str(path)],
        check=True,
    )
    [wheel] = path.glob("lingshu-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(path / "env")], check=True)
    programs = path / "env" / "bin"
    subprocess.run([str(programs / "python"), *pip, "install", str(wheel)], check=True)
    return programs


def call(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(environment / "lingshu"), *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_works_without_torch(environment: Path, tmp_path: Path) -> None:
    absent = (
        "import importlib.util as u; print([u.find_spec(m) is None for m in ('torch',"
        " 'transformers')])"
    )
    found = subprocess.run(
        [str(environment / "python"), "-c", absent],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[True, True]"

    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert "quickstart" in call(environment, tmp_path, "--help").stdout
    tasks = call(environment, tmp_path, "list", "tasks")
    assert (tasks.returncode, "vqa" in tasks.stdout) == (0, True), tasks.stderr
    scored = call(
        environment,
        tmp_path,
        "score",
        "replies.jsonl",
        "--scorer",
        "yes_no",
        "--out",
        "scores.jsonl",
    )
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run_evaluation = call(
        environment, tmp_path, "eval", "echo", "vqa", "--data", ".", "--out", "run"
    )
    assert run_evaluation.returncode == 0, run_evaluation.stderr
    reported = call(environment, tmp_path, "report", "run")
    assert reported.returncode == 0, reported.stderr
    assert call(environment, tmp_path, "doctor").returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_local_model_without_torch_names_the_extra(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    completed = call(environment, tmp_path, "ask", "model", "Is there a lesion?")
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert "lingshu[torch]" in completed.stderr
