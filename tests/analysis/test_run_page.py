"""The page of a training run: from the files of any run, finished or not, and small for any length."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lingshu.analysis.run_page import PAGE, thin_curve, with_page, write_run_page
from lingshu.train.progress import StepProgress


def write_log(out: Path, steps: int, *, stage: str = "deep <b>") -> None:
    rows = [
        {
            "stage": stage, "step": step, "total": 100_000, "loss": None if step == 7 else 5 / step,
            "gradient_norm": 1.0, "skipped": 1, "learning_rate": 1e-4, "tokens_per_s": 900.5, "data_wait": 0.25,
            **({"validation/vqa/loss": 0.5, "validation/vqa/accuracy": 0.75} if step % 100 == 0 else {}),
        }
        for step in range(1, steps + 1)
    ]  # fmt: skip
    (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_the_page_of_a_running_stage_has_its_curves_and_no_markup_from_data(tmp_path: Path) -> None:
    write_log(tmp_path, 20_000)
    kept = tmp_path / "checkpoints" / "1-deep <b>" / "kept.json"
    kept.parent.mkdir(parents=True)
    row = {"step": 100, "value": 0.5, "path": "step-00000100"}
    kept.write_text(json.dumps({"metric": "loss", "checkpoints": [row]}), "utf-8")
    page = write_run_page(tmp_path).read_text("utf-8")
    assert "Step 20000 of 100000; skipped steps: 1." in page and "Not finished" in page
    assert page.count("<polyline") == 6  # two losses, accuracy, speed, waiting, learning rate
    assert all(len(points.split()) <= 400 for points in re.findall(r'points="([^"]*)"', page))
    assert "<td>0.5000</td>" in page and "step-00000100" in page and "<b>" not in page
    assert "http" not in page.replace("http-equiv", "") and len(page) < 100_000


def test_a_run_without_a_logged_step_has_a_page_too(tmp_path: Path) -> None:
    assert "No step has been logged yet." in write_run_page(tmp_path).read_text("utf-8")


def test_the_points_of_a_thin_curve_are_means_and_a_short_curve_is_as_it_was() -> None:
    points = [(float(x), float(x % 2)) for x in range(1, 1001)]
    thin = thin_curve(points, 100)
    assert len(thin) == 100 and {y for _, y in thin} == {0.5} and thin[-1][0] == 1000
    assert thin_curve(points[:5], 100) == points[:5]


def test_the_page_follows_the_steps_and_a_page_that_fails_does_not_stop_training(
    tmp_path: Path,
) -> None:
    seen: list[int] = []
    show = with_page(lambda step: seen.append(step.step), tmp_path)
    show(StepProgress("deep", 1, 9, 1.0, 10.0))
    assert (tmp_path / PAGE).exists()
    (tmp_path / PAGE).unlink()
    show(StepProgress("deep", 2, 9, 1.0, 10.0))  # less than a minute later
    assert not (tmp_path / PAGE).exists()
    show(StepProgress("deep", 3, 9, 1.0, 10.0, validation={"vqa/loss": 1.0}))
    assert (tmp_path / PAGE).exists()
    (tmp_path / "log.jsonl").write_text('{"stage": 1}\n', "utf-8")
    show(StepProgress("deep", 4, 9, 1.0, 10.0, validation={"vqa/loss": 1.0}))
    assert seen == [1, 2, 3, 4]
