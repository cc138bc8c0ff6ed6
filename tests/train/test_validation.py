"""Validation and checkpoints inside a stage: what is measured, what is kept, and that training does
not depend on either.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json
from lingshu.core.types import EngineOptions, Sample, Sampling
from lingshu.engines import hf
from lingshu.models.load import load
from lingshu.recipes.quickstart import recipe
from lingshu.scoring import auto
from lingshu.sources import phantom
from lingshu.train.config import Checkpoints, Lora, TrainConfig, Validation
from lingshu.train.data import open_data_group
from lingshu.train.grpo import as_question
from lingshu.train.kept_checkpoints import best_rows, metric_value
from lingshu.train.log import read_log
from lingshu.train.loop import train
from lingshu.train.progress import StepProgress
from lingshu.train.validation import choose_rows, validation_rows
from tests.support.tiny import small_config, write_phantoms

SHARED = ("checkpoint", "stages/1-shallow")


class Interrupted(Exception):
    """Stands for a kill at a chosen step."""


def watched_config(folder: Path, *, held_answer: str = "yes") -> TrainConfig:
    """Two stages; a group of its own to validate on, and the marked rows of a trained one."""
    config = small_config(folder)
    held = write_phantoms(folder / "held", list(phantom.question_samples(0, "validation", 2)))
    rows = [
        {
            "id": f"r{i}",
            "question": "Is there a lesion?",
            "answer": "yes" if split == "train" else held_answer,
            "split": split,
        }
        for i, split in enumerate(["train", "val", "test", "dev"] * 3)
    ]
    (folder / "text").mkdir()
    (folder / "text" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shallow, instruct = config.stages
    return replace(
        config,
        stages=(shallow, replace(instruct, data=("instruct", "text"))),
        data={**config.data, "held": str(held), "text": str(folder / "text")},
        validation=Validation(("held", "text"), every=2, max_reply_tokens=8),
        checkpoints=Checkpoints(every=2),
    )


@pytest.fixture(scope="module")
def watched_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    folder = tmp_path_factory.mktemp("watched")
    config = watched_config(folder)
    train(config, folder / "run")
    return config, folder / "run"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_bits(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def held_out(config: TrainConfig, group: str) -> list[Sample]:
    return list(validation_rows(Path(str(config.data[group])), is_trained=group == "text"))


def mean_loss(checkpoint: Path, samples: Sequence[Sample]) -> float:
    """Cross-entropy per supervised token by the stock model, one sample at a time."""
    loaded = load(str(checkpoint))
    loss, tokens = 0.0, 0
    for sample in samples:
        tiles = loaded.processor.tiles([hf_image(image) for image in sample.images])
        encoded = loaded.processor.encode(sample.messages, tiles)
        inputs = loaded.processor.collate([encoded], pad="right")
        with torch.no_grad():
            loss += float(loaded.model(**inputs).loss) * encoded.supervised
        tokens += encoded.supervised
    return loss / tokens


def hf_image(image: object):
    from lingshu.imaging.read import open_image

    return open_image(image)  # type: ignore[arg-type]


def test_training_has_the_same_bits_with_validation_and_without(
    watched_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, out = watched_run
    train(replace(config, validation=Validation(), checkpoints=Checkpoints()), tmp_path / "run")
    assert all(same_bits(out / name, tmp_path / "run" / name) for name in SHARED)
    losses = [[row["loss"] for row in read_log(run)] for run in (out, tmp_path / "run")]
    assert losses[0] == losses[1]


def test_the_loss_of_a_group_is_that_of_the_stock_model_and_its_accuracy_that_of_the_engine(
    watched_run: tuple[TrainConfig, Path],
) -> None:
    config, out = watched_run
    final = read_log(out)[-1]
    engine = hf.load(str(out / "checkpoint"), EngineOptions())
    for group, n_rows in (("held", None), ("text", 6)):
        samples = held_out(config, group)
        assert n_rows is None or len(samples) == n_rows
        expected = mean_loss(out / "checkpoint", samples)
        assert final[f"validation/{group}/loss"] == pytest.approx(expected, rel=1e-5)
        questions = [q for q in map(as_question, samples) if isinstance(q, Sample)]
        replies = [r for part in engine.generate(questions, Sampling(8, 0.0)) for r in part]
        by_id = {question.id: question for question in questions}
        right = sum(auto.score(by_id[r.id], r.text or "").value or 0.0 for r in replies)
        assert final[f"validation/{group}/accuracy"] == right / len(questions)
    assert [row["step"] for row in read_log(out) if "validation/held/loss" in row] == [2, 4, 6] * 2
    groups = read_json(out / "summary.json")["stages"][1]["validation"]["groups"]
    assert groups["text"] == {"used": 6}


def test_rows_marked_test_never_steer_training_and_trained_rows_never_validate(
    watched_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, _ = watched_run
    folder = Path(str(config.data["text"]))
    assert [s.id for s in validation_rows(folder, is_trained=True)] == [
        f"r{i}" for i in (1, 3, 5, 7, 9, 11)
    ]
    assert len(list(validation_rows(folder, is_trained=False))) == 9
    bad = replace(config, validation=Validation(("captions",)), checkpoints=Checkpoints())
    with pytest.raises(ConfigError, match=r"'captions' .* has no row to validate on; mark rows"):
        train(bad, tmp_path / "run")


def test_the_same_rows_are_chosen_whatever_their_order(tmp_path: Path) -> None:
    samples = list(phantom.question_samples(0, "validation", 3))
    chosen = choose_rows(iter(samples), 5, seed=3)
    assert chosen == choose_rows(iter(samples[::-1]), 5, seed=3)
    assert len({s.id for s in chosen}) == 5 and chosen != choose_rows(iter(samples), 5, seed=4)
    assert tmp_path.is_dir()


def kept(out: Path, stage: str) -> list[Mapping[str, float]]:
    return read_json(out / "checkpoints" / stage / "kept.json")["checkpoints"]


def test_the_best_checkpoint_is_kept_and_nothing_else(
    watched_run: tuple[TrainConfig, Path],
) -> None:
    config, out = watched_run
    for number, stage in enumerate(config.stages):
        name = f"{number + 1}-{stage.name}"
        rows = [row for row in read_log(out) if row["stage"] == stage.name]
        means = {
            row["step"]: (row["validation/held/loss"] + row["validation/text/loss"]) / 2
            for row in rows
        }
        best = min(means, key=lambda step: means[step])
        expected = [] if best == stage.steps else [best]
        assert [row["step"] for row in kept(out, name)] == expected
        assert sorted(p.name for p in (out / "checkpoints" / name).iterdir()) == sorted(
            ["kept.json", *(f"step-{step:08d}" for step in expected)]
        )


def test_the_rule_ranks_and_breaks_ties_by_the_earlier_step() -> None:
    rows = [{"step": step, "value": value} for step, value in enumerate([3.0, 1.0, None, 1.0, 2.0])]
    assert [row["step"] for row in best_rows(rows, 2, metric="loss")] == [1, 3]
    assert [row["step"] for row in best_rows(rows, 2, metric="vqa/accuracy")] == [0, 4]
    assert best_rows(rows, 0, metric="loss") == []
    values = {"a/loss": 1.0, "b/loss": 3.0, "a/accuracy": 0.5}
    assert metric_value("loss", values) == 2.0 and metric_value("b/loss", values) == 3.0
    assert metric_value("b/accuracy", values) is None and metric_value("accuracy", values) == 0.5


@pytest.mark.parametrize("base", [None, "auto", "bfloat16"])
def test_a_stage_can_result_in_its_best_checkpoint_and_a_killed_run_keeps_the_same(
    tmp_path: Path, base: Any
) -> None:
    config = watched_config(tmp_path, held_answer="no lesion")
    if base:
        pytest.importorskip("peft")
    rule = Checkpoints(every=2, last=2, best=1, metric="text/loss", use_best=True)
    lora = Lora(rank=2, base=base) if base else None
    # The more of it is learned, the less likely is what the held-out rows answer.
    rates = replace(config.stages[1].learning_rates, language=1.0 if base else 0.03)
    stage = replace(config.stages[1], data=("text",), lora=lora, warmup_steps=0, steps=8)
    stage = replace(stage, learning_rates=rates)
    half = base == "bfloat16"
    config = replace(config, stages=(stage,), checkpoints=rule, save_every=3)
    config = replace(config, precision="bfloat16" if half else "float32")
    train(config, tmp_path / "run")
    rows = {row["step"]: row.get("validation/text/loss") for row in read_log(tmp_path / "run")}
    best = min(rows, key=lambda step: rows[step] or 9e9)
    assert best < 8
    summary = read_json(tmp_path / "run" / "summary.json")["stages"][0]
    assert summary["result_step"] == best and {r["step"] for r in summary["kept"]} == {best, 8}
    inside = tmp_path / "run" / "checkpoints" / "1-instruct"
    assert same_bits(tmp_path / "run" / "checkpoint", inside / f"step-{best:08d}")
    assert not same_bits(tmp_path / "run" / "checkpoint", inside / "step-00000008")
    measured = mean_loss(tmp_path / "run" / "checkpoint", held_out(config, "text"))
    assert measured == pytest.approx(rows[best], rel=0.05 if half else 1e-4)
    assert (tmp_path / "run" / "adapters").exists() == bool(base)

    def interrupt(now: StepProgress) -> None:
        if now.step == 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, tmp_path / "again", progress=interrupt)
    shutil.rmtree(
        next((tmp_path / "again" / "checkpoints" / "1-instruct").glob("step-*4")),
        ignore_errors=True,
    )
    train(config, tmp_path / "again", resume=True)
    assert same_bits(tmp_path / "run" / "checkpoint", tmp_path / "again" / "checkpoint")
    assert kept(tmp_path / "again", "1-instruct") == kept(tmp_path / "run", "1-instruct")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": Validation(("nothing",))}, "validation asks for data group 'nothing'"),
        ({"checkpoints": Checkpoints(every=3)}, "validation.every that divides checkpoints.every"),
        ({"validation": Validation()}, "the best checkpoints are found by validation"),
        ({"checkpoints": Checkpoints(4, metric="held/accuracy"), "validation": Validation(("held",), every=2, accuracy=False)}, "which is not measured"),
        ({"checkpoints": Checkpoints(4, metric="captions/loss")}, "captions/loss"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_when_they_are_read(
    change: dict, message: str, watched_run: tuple[TrainConfig, Path]
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(watched_run[0], **change)
    with pytest.raises(ConfigError, match=r"metric is 'bleu'"):
        Checkpoints(every=1, metric="bleu")
    assert not recipe().validation.groups and open_data_group(
        Path(str(watched_run[0].data["held"]))
    )
