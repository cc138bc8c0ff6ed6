"""The scripts of examples/ run as they are called."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from lingshu.core.artifacts import write_scores
from lingshu.imaging.read import encode_png

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> int:
    """Run a script as Python would, and return its exit code."""
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = before
    return 0


def test_ask(checkpoint: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("01_ask.py", str(checkpoint), "Is there a lesion?", "image.png") == 0
    assert capsys.readouterr().out.endswith("\n")


def test_evaluate_your_model(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("02_evaluate_your_model.py", "echo", "my_images", "runs/mine") == 0
    assert "12 of 12 right; not read: 0" in capsys.readouterr().out


def test_train_on_your_images(workplace: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert (
        run("03_train_on_your_images.py", "my_images", "runs/small", "stages.instruct.steps=2") == 0
    )
    assert (workplace / "runs/small/checkpoint/config.json").is_file()


def test_add_a_benchmark(tmp_path: Path) -> None:
    assert run("04_add_a_benchmark.py", str(tmp_path / "run")) == 0


def test_score_replies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("05_score_replies.py") == 0
    output = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert output == [
        ["0.0", "ok"],
        ["1.0", "ok"],
        ["None", "multiple"],
        ["None", "unparsed"],
        ["None", "empty"],
    ]


def test_compare_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, right in (("ours", 9), ("theirs", 3)):
        rows = [{"id": str(i), "value": float(i < right), "status": "ok"} for i in range(10)]
        write_scores(tmp_path / name / "demo" / "scores.jsonl", rows)
    assert run("06_compare_two_runs.py", str(tmp_path / "ours"), str(tmp_path / "theirs")) == 0
    assert (
        "demo: 60.0 points (23.1 to 96.9) on 10 questions, p = 0.031 (McNemar, exact)"
        in capsys.readouterr().out
    )


def test_lora_on_your_images(checkpoint: Path, workplace: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    assert (
        run(
            "07_lora_on_your_images.py",
            str(checkpoint),
            "my_images",
            "runs/lora",
            "stages.lora.steps=2",
            "tensorboard=false",
        )
        == 0
    )
    assert (workplace / "runs/lora/adapters/1-lora/adapter_config.json").is_file()
    assert (workplace / "runs/lora/checkpoint/model.safetensors").is_file()


def test_resume_a_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert (
        run(
            "08_resume_a_run.py",
            "my_images",
            "runs/resumed",
            "stages.instruct.steps=40",
            "tensorboard=false",
        )
        == 0
    )
    assert "interrupted: exit code 75, saved ['00-000000" in capsys.readouterr().out
    assert (workplace / "runs/resumed/checkpoint/model.safetensors").is_file()


def test_reinforce_with_rewards(
    checkpoint: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [
        "stages.rl.steps=2",
        "stages.rl.grpo.max_reply_tokens=8",
        "stages.rl.grpo.num_generations=2",
        "threads=1",
        "tensorboard=false",
    ]
    assert run("09_reinforce_with_rewards.py", str(checkpoint), "my_images", "runs/rl", *short) == 0
    assert "update 2: reward 0.00, format 0.00" in capsys.readouterr().out
    assert (workplace / "runs/rl/checkpoint/model.safetensors").is_file()


def test_grpo_in_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert (
        run(
            "grpo_in_one_file.py", "--words", "2", "--warm", "2", "--updates", "2", "--images", "20"
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1].startswith("reward 0.00 -> 0.0")


def test_curate_your_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file_name, size in (
        ("dark/a.png", 64),
        ("dark/b.png", 8),
        ("bright/c.png", 64),
        ("bright/d.png", 64),
    ):
        (tmp_path / "mine" / file_name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(ord(file_name[0])).integers(0, 255, (size, size), np.uint8)
        (tmp_path / "mine" / file_name).write_bytes(encode_png(pixels))
    assert (
        run("10_curate_your_images.py", str(tmp_path / "mine"), str(tmp_path / "data"), "workers=0")
        == 0
    )
    assert capsys.readouterr().out == "2 rows kept; dropped: image_exact 1, image_too_small 1\n"
    assert (tmp_path / "data/explain.html").is_file()


def test_two_trajectories(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lingshu.core.entities import EntityMatcher, find_spans, with_spans
    from lingshu.sources import phantom
    from tests.support.tiny import write_phantoms

    terms = EntityMatcher(["left", "right", "small", "large", "lesion"])
    for folder, first in (("data", 0), ("held", 16)):
        write_phantoms(
            tmp_path / folder,
            [
                with_spans(s, find_spans(s, terms))
                for s in phantom.training_samples(0, 8, "instruct", first=first)
            ],
        )
    short = ["stages.moft.steps=1", "stages.moft.batch=4", "threads=1", "tensorboard=false"]
    folders = [str(tmp_path / folder) for folder in ("data", "held", "out")]
    assert run("12_two_trajectories.py", str(checkpoint), *folders, *short) == 0
    output = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in output[-5:]] == [
        "fluency",
        "entities",
        "second_seed",
        "moft",
        "soup",
    ]


def test_merge_two_models(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "path"
    assert (
        run(
            "11_merge_two_models.py",
            str(checkpoint),
            str(checkpoint),
            str(out),
            "phantom",
            "--limit",
            "2",
        )
        == 0
    )
    assert "weight 0.5" in capsys.readouterr().out and (out / "path.html").is_file()
    assert (out / "points/0.50/model.safetensors").read_bytes() == (
        checkpoint / "model.safetensors"
    ).read_bytes()


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [
        script.name for script in EXAMPLES.glob("*.py") if f'"{script.name}"' not in tests
    ] == []


def test_serve_and_ask(
    checkpoint: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    assert run("13_serve_and_ask.py", str(checkpoint), "image.png") == 0
    assert capsys.readouterr().out.endswith("Research only; not for clinical use.\n")


def test_draft_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from tests.support.dicom_files import dicom

    (tmp_path / "study").mkdir()
    for z in range(6):
        geometry = {
            "ImagePositionPatient": ["0", "0", str(z)],
            "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        }
        values = {
            "Modality": "CT",
            "RescaleSlope": "1",
            "RescaleIntercept": "0",
            "PatientID": "made up",
            **geometry,
        }
        (tmp_path / "study" / f"{z}.dcm").write_bytes(dicom(np.full((8, 8), z, np.int16), **values))
    model = "echo:Findings: A drawing. Impression: None of medicine."
    assert run("14_draft_a_report.py", model, str(tmp_path / "study"), str(tmp_path / "out")) == 0
    assert (
        capsys.readouterr().out.splitlines()[0]
        == "images 1, 3, 5, 7: slices 1, 3, 4, 6 of 6, CT, series 1, window lung -600/1500"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.dcm",
        "report.fhir.json",
        "report.md",
    ]


def test_ask_through_mcp(
    checkpoint: Path, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("15_ask_through_mcp.py", str(checkpoint), "image.png") == 0
    output = capfd.readouterr().out
    assert output.startswith("tools: analyze_image, answer_question") and output.endswith(
        "Research only; not for clinical use.\n"
    )


def test_your_hospital(
    checkpoint: Path, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The synthetic hospital is the one of docs/your-hospital.md.

    None of its patients is named in files or output.
    """
    for module in ("pydicom", "peft"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    import pydicom

    from lingshu.core.artifacts import read_dataset, read_scores
    from lingshu.imaging.read import image_bytes, open_image
    from lingshu.inference.inputs import ViewOptions, load_inputs
    from tests.support.markdown_blocks import blocks

    page = EXAMPLES.parent / "docs" / "your-hospital.md"
    drawing = next(block.text for block in blocks(page) if block.language == "python").replace(
        "range(100)", "range(24)"
    )
    exec(compile(drawing, str(page), "exec"), {})
    (workplace / "out").mkdir()
    # a random one might hold nobody out of so few
    (workplace / "out/ids.key").write_bytes(b"0123456789abcdef")
    short = ["stages.instruct.steps=24", "stages.instruct.warmup_steps=2", "tensorboard=false"]
    tables = ["hospital/reports.csv", "hospital/questions.csv"]
    assert (
        run("16_your_hospital.py", str(checkpoint), "hospital/dicom", *tables, "out", *short) == 0
    )

    train, test = (list(read_dataset(workplace / "out" / side)) for side in ("train", "test"))
    assert (
        {s.meta.facet("patient") for s in train}.isdisjoint({s.meta.facet("patient") for s in test})
        and train
        and test
    )
    scores = read_scores(workplace / "out/eval/vqa/scores.jsonl")
    assert {row["kind"] for row in scores} == {"report", "lesion", "side"} and all(
        row["status"] != "error" for row in scores
    )
    overlaps = (workplace / "out/overlaps.jsonl").read_text()
    assert not [
        kind
        for kind in ("study", "image_exact", "image_near", "image_question")
        if f'"kind": "{kind}"' in overlaps
    ]
    # Asked about the files, a model sees what it saw of the row that curation made of them.
    files = runpy.run_path(str(EXAMPLES / "16_your_hospital.py"))["held_out"](
        "hospital/dicom", Path("out")
    )
    assert [
        np.asarray(open_image(i)).tolist() for i in load_inputs(files, ViewOptions()).images
    ] == [np.asarray(open_image(test[0].images[0])).tolist()]

    headers = [
        pydicom.dcmread(file, stop_before_pixels=True) for file in Path("hospital/dicom").iterdir()
    ]
    names = (
        "PatientID",
        "AccessionNumber",
        "InstitutionName",
        "PatientBirthDate",
        "StudyDate",
        "StudyInstanceUID",
        "SOPInstanceUID",
    )
    planted = {str(header[name].value).lower().encode() for header in headers for name in names} | {
        b"zzquill",
        b"zzferrer",
        b"17 march",
    }
    everything = {
        str(path.relative_to(workplace)): path.read_bytes()
        for path in (workplace / "out").rglob("*")
        if path.is_file()
    }
    for sample in (*train, *test):
        everything[sample.id] = repr(sample).encode() + b"".join(map(image_bytes, sample.images))
    captured = capfd.readouterr()
    everything |= {
        "standard output": captured.out.encode(),
        "standard error": captured.err.encode(),
    }
    named = {
        location
        for location, data in everything.items()
        if any(word in data.lower() for word in planted)
    }
    assert named == {"out/draft/report.dcm"}
