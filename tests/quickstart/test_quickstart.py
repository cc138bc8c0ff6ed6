"""The quickstart in very small: every file it promises, and the same again when it is called again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lingshu.cli.quickstart import print_summary
from lingshu.core.errors import ConfigError
from lingshu.quickstart.run import SIZES, Plan, run
from lingshu.recipes import phantom_rl
from lingshu.recipes.quickstart import recipe
from lingshu.sources.phantom import KINDS


def small(out: Path, *, seed: int = 3) -> dict[str, Any]:
    config = recipe()
    stages, rewarded = (
        tuple(replace(stage, steps=3) for stage in part)
        for part in (config.stages, phantom_rl.stages())
    )
    config = replace(config, stages=stages, tensorboard=False)
    return run(Plan(config, dict.fromkeys(SIZES, 32), rewarded, 3, images=24), out, seed=seed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quick") / "start"
    small(out)
    return out


def test_summary_has_what_it_promises(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    accuracy = summary["accuracy"]
    assert accuracy["by_question"].keys() == set(KINDS)
    assert all(
        part.keys() == {"value", "low", "high", "n"}
        for part in (accuracy["overall"], *accuracy["by_question"].values())
    )
    four = [
        accuracy["by_question"][kind]["value"] for kind in ("modality", "lesion", "side", "size")
    ]
    assert accuracy["overall"]["value"] == pytest.approx(sum(four) / 4)
    assert [stage["name"] for stage in summary["stages"]] == ["base", "shallow", "deep", "instruct"]
    assert all(
        stage.keys() == {"name", "steps", "seconds", "first_loss", "last_loss"}
        for stage in summary["stages"]
    )
    assert 0 < summary["majority_accuracy"] < 1 and 0 <= summary["untrained_accuracy"] <= 1
    assert summary["wall_s"] > 0 and summary["peak_rss_mb"] > 100
    assert (Path(summary["checkpoint"]) / "model.safetensors").is_file()


def test_reinforcement_learning_is_distinguished_from_the_model(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    rl = summary["rl"]
    for replies in (rl["sampled"], rl["greedy"]):
        assert replies.keys() == {"before", "after"}
        assert all(part.keys() == {"reward", "format", "accuracy"} for part in replies.values())
        assert all(0 <= value <= 1.5 for part in replies.values() for value in part.values())
    assert rl["updates"] == 3 and rl["questions"] > 48 and 0 <= rl["frac_with_signal"] <= 1
    assert rl["checkpoint"] == str(finished / "rl" / "checkpoint") != summary["checkpoint"]
    assert (finished / "rl" / "checkpoint" / "model.safetensors").is_file()
    # It starts from the checkpoint after deep alignment and leaves the instruction-tuned one alone.
    assert (
        str(finished / "train" / "stages" / "3-deep")
        in (finished / "rl" / "config.yaml").read_text()
    )


def test_averages_of_two_trajectories_are_distinguished_from_the_model(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    moft = summary["moft"]
    assert [point["weight"] for point in moft["points"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(
        point["accuracy"].keys() == {"value", "low", "high", "n"}
        for point in (*moft["points"], moft["soup"])
    )
    assert 0 < moft["entity_share"] < 1 and moft["entity_weight"] == 2.5 and moft["steps"] == 3
    assert moft["barrier"]["tolerance"] > 0 and moft["seconds"] > 0
    # They start from the instruction-tuned model, which stays unchanged.
    assert "train/checkpoint" in (finished / "moft" / "fluency" / "config.yaml").read_text()


def test_the_page_is_self_contained(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    for part in (
        "shallow: 3 steps",
        "Accuracy by kind of question",
        "Reinforcement learning",
        "Two trajectories, averaged (MOFT)",
        "<figure>",
        "data:image/png;base64,",
        "not for clinical use",
    ):
        assert part in html
    assert (
        "http://" not in html.replace("http://www.w3.org/2000/svg", "") and "https://" not in html
    )
    assert "<script" not in html


def test_a_second_call_prints_the_result_again(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "summary.json").stat().st_mtime_ns
    print_summary(small(finished), finished)
    output = capsys.readouterr().out
    assert "accuracy " in output and f"lingshu ask {finished}/train/checkpoint" in output
    assert (finished / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="finished quickstart of seed 3"):
        small(finished, seed=4)


def test_train_and_test_phantoms_share_no_image() -> None:
    from lingshu.sources.phantom import question_samples, training_samples

    train_images = {s.images[0].data for s in training_samples(0, 60, "captions")} | {
        s.images[0].data for s in training_samples(0, 60, "instruct", first=60)
    }
    test_images = {s.images[0].data for s in question_samples(0, "test", 60)}
    assert len(train_images) == 120 and len(test_images) == 60
    assert not train_images & test_images
