"""`lingshu eval --controls` and `lingshu report --exclude-overlaps`: what a user sees, and what a kill leaves
behind.
"""

import json
import subprocess
import sys

import pytest

from lingshu.cli.main import main
from lingshu.core.files import read_json, read_jsonl

ENGINE = '''"""Says the gold where an image is not black, and writes down what it was asked; ends the process at the given call."""
import os
from pathlib import Path
from lingshu.core.types import Reply
from lingshu.imaging.read import open_image

class Watcher:
    model, digest, endpoint = "watcher", "1", None

    def generate(self, samples, sampling, *, skip=()):
        for sample in samples:
            if (sample.id, 0) in skip:
                continue
            log = Path("asked.log")
            if log.exists() and len(log.read_text().splitlines()) == int(Path("stop").read_text()):
                os.kill(os.getpid(), 9)
            with log.open("a") as file:
                file.write(sample.id + "\\n")
            seen = any(open_image(image).getbbox() for image in sample.images)
            yield [Reply(sample.id, sample.gold[0] if seen else "nothing", finish="stop")]

def load(model, options):
    return Watcher()
'''
ASK = (
    "eval",
    "watcher.py",
    "vqa_rad,mmmu_med_val",
    "--synthetic",
    "--controls",
    "blind,shuffle,constant,wording",
    "--n-shuffles",
    "2",
)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watcher.py").write_text(ENGINE)
    (tmp_path / "stop").write_text("-1")
    return tmp_path


def test_a_killed_run_with_controls_generates_nothing_twice_and_reports_the_same(workdir, capsys):
    assert main([*ASK, "--out", "unbroken"]) == 0
    output = capsys.readouterr().out
    assert "Controls: what the scores rest on (watcher)" in output
    assert "controls: 44 questions, 44 generated now, 0 before, 0 errors" in output
    requested = (workdir / "asked.log").read_text().splitlines()
    assert len(requested) == 10 + 44
    (workdir / "asked.log").unlink()
    (workdir / "stop").write_text("20")  # among the controls of the first task
    killed = subprocess.run(
        [sys.executable, "-m", "lingshu", *ASK, "--out", "killed"], cwd=workdir, capture_output=True
    )
    assert killed.returncode == -9
    (workdir / "stop").write_text("-1")
    assert main([*ASK, "--out", "killed"]) == 0
    assert (workdir / "asked.log").read_text().splitlines() == requested
    for path in sorted((workdir / "unbroken").rglob("*")):
        if path.is_file() and path.name not in ("run.json", "manifest.json"):
            assert (
                path.read_bytes()
                == (workdir / "killed" / path.relative_to(workdir / "unbroken")).read_bytes()
            ), path
    output = {
        task["name"]: task["controls"]
        for task in read_json(workdir / "killed" / "report.json")["tasks"]
    }
    with_black_images = output["vqa_rad"][0]
    assert (
        with_black_images["name"],
        with_black_images["comparisons"][0]["n"],
        with_black_images["comparisons"][0]["run_accuracy"],
    ) == ("blind", 6, 1.0)
    assert "no options (6)" in (workdir / "killed" / "report.md").read_text()


def test_two_processes_share_the_questions_of_the_controls(workdir, capsys):
    shared = [*ASK, "--out", "shared", "--world-size", "2"]
    assert main([*shared, "--rank", "0"]) == 0
    assert "still with other processes" in capsys.readouterr().out
    assert main([*shared, "--rank", "1"]) == 0
    assert len((workdir / "asked.log").read_text().splitlines()) == 10 + 44
    assert main([*ASK, "--out", "alone"]) == 0
    for name in (
        "report.json",
        "report.md",
        "vqa_rad/controls/blind/scores.jsonl",
        "vqa_rad/controls/controls.json",
    ):
        assert (workdir / "shared" / name).read_bytes() == (workdir / "alone" / name).read_bytes()


def test_failures_of_a_control_give_exit_code_1(workdir, capsys):
    (workdir / "watcher.py").write_text(
        ENGINE.replace('yield [Reply(sample.id, sample.gold[0] if seen else "nothing", finish="stop")]',
                       'yield [Reply(sample.id, "a", finish="stop") if seen else Reply(sample.id, None, error="HTTP 500")]')
    )  # fmt: skip
    assert (
        main(
            ["eval", "watcher.py", "vqa_rad", "--synthetic", "--controls", "blind", "--out", "out"]
        )
        == 1
    )
    output = capsys.readouterr().out
    assert "6 samples, 6 generated now, 0 before, 0 dropped, 0 errors" in output
    assert "controls: 6 questions, 6 generated now, 0 before, 6 errors" in output
    assert (
        "blind: no numbers: no question was answered and scored here and in the run; the first:"
        " HTTP 500." in output
    )


def test_an_unknown_control_is_refused_before_anything_is_generated(workdir, capsys):
    assert (
        main(["eval", "watcher.py", "vqa_rad", "--synthetic", "--controls", "blnd", "--out", "out"])
        == 2
    )
    assert "there is no control 'blnd'; did you mean 'blind'?" in capsys.readouterr().err
    assert main([*ASK[:-1], "0", "--out", "out"]) == 2
    assert not (workdir / "asked.log").exists() and not (workdir / "out").exists()


def test_clean_scores_are_reported_next_to_the_full_ones(workdir, capsys):
    assert main(["eval", "echo:yes", "vqa_rad,medqa_usmle", "--synthetic", "--out", "run"]) == 0
    ids = [row["id"] for row in read_jsonl(workdir / "run" / "vqa_rad" / "scores.jsonl")]
    rows = [
        {"train_id": "n", "test_id": name, "kind": kind, "evidence": ""}
        for name, kind in ((ids[0], "study"), (ids[1], "boilerplate"))
    ]
    (workdir / "overlaps.jsonl").write_text(
        "".join(json.dumps({**row, "test": "vqa_rad"}) + "\n" for row in rows)
    )
    capsys.readouterr()
    assert main(["report", "run", "--exclude-overlaps", "overlaps.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "On clean items (echo:yes)" in output
    assert (
        "MedQA (USMLE, four options): synthetic samples: not compared with any training data; no clean"
        " score." in output
    )
    clean = read_json(workdir / "run" / "report.json")["clean"]
    assert clean["tasks"][0]["clean"]["n"] == len(ids) - 1
    assert (
        main(
            [
                "report",
                "run",
                "--exclude-overlaps",
                "overlaps.jsonl",
                "--overlap-kinds",
                "exact_text",
            ]
        )
        == 0
    )
    assert main(["report", "run", "--overlap-kinds", "exact_text"]) == 2
    assert read_json(workdir / "run" / "report.json")["clean"]["tasks"][0]["clean"]["n"] == len(ids)
    assert main(["report", "run", "--exclude-overlaps", "none.jsonl"]) == 2
