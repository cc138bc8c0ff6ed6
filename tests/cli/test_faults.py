"""Bad input to the verbs that use a model: one clear line that names the thing and the remedy, exit
code 2, nothing half-written.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lingshu.cli.main import main
from tests.support.tiny import make_image, small_config


def run_expecting_error(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """The one line on standard error of a command that exits with 2."""
    capsys.readouterr()
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("lingshu: error: ")]
    assert len(lines) == 1 and captured.err.strip().splitlines()[-1] == lines[0]
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "No such file"),
        (b"", "is empty (0 bytes)"),
        (b"\x89PNG\r\n\x1a\nnonsense", "cannot be decoded"),
    ],
    ids=["missing", "empty", "corrupt"],
)
def test_a_bad_image(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / "scan.png"
    if content is not None:
        path.write_bytes(content)
    line = run_expecting_error(capsys, ["ask", str(checkpoint), "Is there a lesion?", str(path)])
    # A file name may name a patient: errors count files instead.
    assert "file 1" in line and path.name not in line and message in line


def test_a_truncated_image(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scan.png"
    make_image(0, 200, 200).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert "file 1" in run_expecting_error(
        capsys, ["ask", str(checkpoint), "Is there a lesion?", str(path)]
    )


def test_a_truncated_checkpoint_or_a_wrong_folder(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for argv in (
        ["ask", str(copy), "?"],
        ["eval", str(copy), "phantom", "--out", str(tmp_path / "eval")],
    ):
        line = run_expecting_error(capsys, argv)
        assert "model.safetensors" in line and "truncated" in line
    assert "config.json is missing" in run_expecting_error(capsys, ["ask", str(tmp_path), "?"])
    assert not (tmp_path / "eval" / "report.json").exists()


def test_recipe_mistakes_suggest_what_was_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert "did you mean 'quickstart'?" in run_expecting_error(
        capsys, ["train", "quickstrat", *out]
    )
    assert "did you mean 'seed'?" in run_expecting_error(
        capsys, ["train", "quickstart", "sed=1", *out]
    )
    assert "did you mean 'shallow'?" in run_expecting_error(
        capsys, ["train", "quickstart", "stages.shalow.steps=1", *out]
    )
    assert "stages.0.steps" in run_expecting_error(
        capsys, ["train", "quickstart", "stages.base.steps=many", *out]
    )
    assert "data.text=FOLDER" in run_expecting_error(capsys, ["train", "quickstart", *out])
    assert "--out is missing" in run_expecting_error(capsys, ["train", "quickstart"])
    assert not (tmp_path / "run").exists()


def test_a_plan_needs_no_data_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lingshu_7b", "--check"]) == 0
    output = capsys.readouterr().out
    assert "8.292 B parameters (vision 632.0 M, projector 44.6 M, language 7,615.6 M)" in output
    assert "data.alignment=FOLDER, 927,000 expected" in output
    assert "55,468" in output


def test_a_bad_sample_is_counted_and_not_fatal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "mine"
    (data / "images").mkdir(parents=True)
    rows = []
    for index in range(6):
        make_image(index).save(data / "images" / f"{index}.png")
        rows.append(
            {
                "id": str(index),
                "image": f"images/{index}.png",
                "question": "Is there a lesion?",
                "answer": "yes",
            }
        )
    (data / "images" / "3.png").write_bytes(b"")
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = [
        "stages.instruct.steps=1",
        "stages.instruct.batch=4",
        "stages.instruct.micro_batch=4",
        "tensorboard=false",
    ]
    assert (
        main(["train", "small_vqa", f"data.train={data}", *changes, "--out", str(tmp_path / "run")])
        == 1
    )
    assert "dropped bad_image 1" in capsys.readouterr().out
    card = json.loads((tmp_path / "run" / "run.json").read_text())
    assert card["counts"] == {"dropped_bad_image": 1}
    assert "3: bad_image" in card["notes"]["first_drops"][0]
    assert (
        "3: bad_image"
        in json.loads((tmp_path / "run" / "checkpoint" / "run.json").read_text())["notes"][
            "first_drops"
        ][0]
    )


def limited_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))


def test_a_full_disk_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    from lingshu.core import config as configuration

    path = tmp_path / "config.yaml"
    configuration.write(small_config(tmp_path, steps=2), path)
    command = [sys.executable, "-m", "lingshu", "train", str(path), "--out", str(tmp_path / "run")]
    process = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limited_files, check=False
    )
    assert process.returncode == 2, process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("lingshu: error: ")]
    assert len(errors) == 1 and "no space left while writing" in errors[0]
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    assert not (tmp_path / "run" / "start").exists()
