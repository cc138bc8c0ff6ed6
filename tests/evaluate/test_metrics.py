"""Metrics of a whole set of replies, from the task through its folder to the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.cli.main import main
from lingshu.core.artifacts import read_scores
from lingshu.core.errors import ArtifactError
from lingshu.core.registry import get_attribute
from lingshu.core.types import MetricResult, Sample, Score
from lingshu.evaluate.metrics import METRICS_FILE, compute_metrics, metrics_table
from lingshu.evaluate.report import build


def constant(
    samples: list[Sample], replies: list[str | None], *, weights: Path | None = None
) -> list[MetricResult]:
    """Half for whatever is said."""
    scores = [
        Score(None, "error") if reply is None else Score(0.5) if reply else Score(None, "empty")
        for reply in replies
    ]
    return [MetricResult("half", 0.25, 0.5, 2, 1, tuple(scores))]


def broken(
    samples: list[Sample], replies: list[str | None], *, weights: Path | None = None
) -> list[MetricResult]:
    """Never works."""
    raise KeyError("no such thing")


def samples(count: int) -> list[Sample]:
    return [Sample(f"s{number}", (), gold=("clear lungs",)) for number in range(count)]


def test_a_metric_that_fails_is_reported_and_affects_no_other() -> None:
    result = compute_metrics((broken, constant), samples(3), ["a", "", None])  # type: ignore[arg-type]
    assert [metric_result.name for metric_result in result] == ["broken", "half"]
    assert result[0].value is None and str(result[0].note).startswith("failed: KeyError")
    rows = metrics_table(result, samples(3))["metrics"]
    assert rows[0]["low"] is None
    # Over the two that did not fail; the empty one counts as 0.
    assert (
        rows[1]["value"],
        rows[1]["low"],
        rows[1]["high"],
        rows[1]["n"],
        rows[1]["n_non_empty"],
    ) == (
        0.25,
        0.0,
        0.5,
        2,
        1,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert (
        main(["eval", "echo", "iu_xray,slake_en", "--synthetic", "--out", str(tmp_path / "run")])
        == 0
    )
    return tmp_path / "run"


def test_a_report_task_brings_its_metrics_to_the_report(run: Path) -> None:
    held = json.loads((run / "iu_xray" / METRICS_FILE).read_text())
    assert held["references"] == 2 and len(held["references_sha256"]) == 64
    assert not (run / "slake_en" / METRICS_FILE).exists()
    assert read_scores(run / "iu_xray" / "scores.jsonl")[0]["metrics"]["rouge_l"] == 1.0
    assert "metrics" not in read_scores(run / "slake_en" / "scores.jsonl")[0]
    output = json.loads((run / "report.json").read_text())["tasks"]
    by_name = {row["name"]: row for row in output[0]["metrics"]}
    assert (
        by_name["rouge_l"]["value"] == 1.0
        and by_name["rouge_l"]["n"] == 2
        and output[1]["metrics"] == []
    )
    assert by_name["radcliq_v1"]["note"] == "unavailable: needs radgraph_f1, bert_score, semb_score"
    page = (run / "report.md").read_text()
    assert "| rouge_l | 1.0000 |" in page and "- green: unavailable: " in page
    assert page.count("Metrics of the reports") == 1


def test_metrics_over_other_items_are_left_out(run: Path) -> None:
    metrics_path = run / "iu_xray" / METRICS_FILE
    (run / "manifest.json").unlink()
    metrics_path.write_text(json.dumps({**json.loads(metrics_path.read_text()), "references": 3}))
    evaluation_report = build.build(run)
    assert evaluation_report.tasks[0].metrics == ()
    assert evaluation_report.tasks[0].excluded == (
        "The metrics are over other items and left out; score the run again.",
    )
    metrics_path.write_text(json.dumps({"metrics": 3}))
    with pytest.raises(ArtifactError, match="damaged"):
        build.build(run)


def test_report_tasks_name_their_metrics() -> None:
    for name in ("iu_xray", "iu_xray_296", "mimic_cxr", "chexpert_plus"):
        task = get_attribute("tasks", name, "TASK")
        assert replace(task).metrics  # type: ignore[type-var]


def test_score_prints_the_metrics_of_its_scorer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "1", "gold": "Clear lungs.", "reply": "Clear lungs."},
        {"id": "2", "gold": "No effusion.", "reply": ""},
        {"id": "3", "gold": "Normal heart.", "reply": None},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        main(
            [
                "score",
                str(tmp_path / "a.jsonl"),
                "--scorer",
                "report",
                "--out",
                str(tmp_path / "b.jsonl"),
            ]
        )
        == 1
    )
    output = json.loads(capsys.readouterr().out)
    result = {row["name"]: row for row in output["metrics"]}
    assert (
        result["rouge_l"]["value"],
        result["rouge_l"]["n"],
        result["rouge_l"]["non_empty_value"],
        result["rouge_l"]["n_non_empty"],
    ) == (0.5, 2, 1.0, 1)
    assert [row["metrics"]["rouge_l"] for row in read_scores(tmp_path / "b.jsonl")] == [
        1.0,
        None,
        None,
    ]
    assert main(["score", str(tmp_path / "a.jsonl"), "--scorer", "exact"]) == 1
    assert "metrics" not in json.loads(capsys.readouterr().out)
