"""The training loop: what it promises about freezing, loss, resuming, drops and refusals."""

from __future__ import annotations

import copy
import json
import math
import os
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from lingshu.core.errors import (
    ArtifactError,
    ConfigError,
    ImageError,
    StorageError,
    TrainingError,
)
from lingshu.core.messages import user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import Drop, Image, Message, Meta, Sample
from lingshu.imaging.read import png_bytes
from lingshu.models.export import export
from lingshu.models.inference_settings import stored_weights
from lingshu.models.load import load
from lingshu.sources import phantom
from lingshu.train.batching import GroupedPlan
from lingshu.train.config import Grpo, LearningRates, Stage, TrainConfig
from lingshu.train.data import encode_training_samples, read_groups
from lingshu.train.distributed import SINGLE_PROCESS
from lingshu.train.log import open_log, read_log
from lingshu.train.loop import RunContext, StageRun, StopRequested, train
from lingshu.train.progress import StepProgress
from lingshu.train.step import build_trainer, lr_multiplier
from tests.support.tiny import (
    FAMILIES,
    REPRESENTATIVES,
    make_image,
    small_config,
    tiny,
    write_phantoms,
)


class Interrupted(Exception):
    """Stands for a kill at a chosen step."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", params=REPRESENTATIVES)
def uninterrupted_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, Path]:
    """A run of two stages without interruption."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = small_config(folder, family=request.param)
    train(config, folder / "run")
    return config, folder / "run"


def test_a_frozen_part_is_bit_unchanged_and_the_others_are_not(
    uninterrupted_run: tuple[TrainConfig, Path],
) -> None:
    config, out = uninterrupted_run
    loaded = load(str(out / "start"))
    start, family = dict(loaded.model.named_parameters()), loaded.processor.family
    shallow = dict(load(str(out / "stages" / "1-shallow")).model.named_parameters())
    final = dict(load(str(out / "checkpoint")).model.named_parameters())
    for name, tensor in start.items():
        frozen = family.part_of(name) == "language"
        assert torch.equal(tensor, shallow[name]) == frozen, name
    assert config.stages[0].learning_rates.language is None
    assert not any(
        torch.equal(tensor, final[name]) for name, tensor in start.items() if tensor.ndim > 1
    )


@pytest.mark.parametrize("stop", [("shallow", 2), ("shallow", 4), ("instruct", 2), ("instruct", 6)])
def test_an_interrupted_run_ends_in_the_same_bits(
    uninterrupted_run: tuple[TrainConfig, Path], tmp_path: Path, stop: tuple[str, int]
) -> None:
    config, uninterrupted = uninterrupted_run

    def interrupt(now: StepProgress) -> None:
        if (now.stage, now.step) == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=interrupt)
    # What a real kill leaves: a half-written state and a torn line.
    (tmp_path / "run" / "state").mkdir(exist_ok=True)
    (tmp_path / "run" / "state" / ".00-00000099.x.tmp").mkdir()
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"stage": "sh')
    train(config, tmp_path / "run", resume=True)
    assert equal(weights(tmp_path / "run" / "checkpoint"), weights(uninterrupted / "checkpoint"))

    def lasting(row: dict) -> dict:
        return {k: v for k, v in row.items() if k not in ("tokens_per_s", "data_wait")}

    assert [lasting(row) for row in read_log(tmp_path / "run")] == [
        lasting(row) for row in read_log(uninterrupted)
    ]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    uninterrupted_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, uninterrupted = uninterrupted_run
    train(config, tmp_path / "again")
    assert equal(weights(tmp_path / "again" / "checkpoint"), weights(uninterrupted / "checkpoint"))
    train(replace(config, seed=1), tmp_path / "other")
    assert not equal(
        weights(tmp_path / "other" / "checkpoint"), weights(uninterrupted / "checkpoint")
    )


def test_what_a_run_leaves_behind(uninterrupted_run: tuple[TrainConfig, Path]) -> None:
    _, out = uninterrupted_run
    assert not (out / "state").exists()
    stages = json.loads((out / "summary.json").read_text())["stages"]
    assert [(stage["name"], stage["steps"]) for stage in stages] == [
        ("shallow", 6),
        ("instruct", 6),
    ]
    assert all(stage["first_loss"] > 0 and stage["dropped"] == {} for stage in stages)
    assert [row["step"] for row in read_log(out)] == [2, 4, 6, 2, 4, 6]
    assert (out / "config.yaml").exists() and (out / "run.json").exists()
    assert "| instruct | 6 |" in (out / "checkpoint" / "README.md").read_text()


def test_a_finished_run_is_not_trained_again_and_a_used_folder_is_refused(
    uninterrupted_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, out = uninterrupted_run
    before = (out / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    train(config, out, resume=True)
    assert (out / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    # A kill before its very last step: nothing is trained, the card is written.
    (out / "run.json").unlink()
    train(config, out, resume=True)
    assert (out / "run.json").exists()
    assert (out / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="pass --resume"):
        train(config, out)
    with pytest.raises(ConfigError, match="another configuration"):
        train(replace(config, seed=5), out, resume=True)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        train(config, tmp_path)


def test_a_damaged_state_is_named(
    uninterrupted_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, _ = uninterrupted_run

    def interrupt(now: StepProgress) -> None:
        if now.step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=interrupt)
    state = next((tmp_path / "run" / "state").glob("0*"))
    (state / "rank-00000.safetensors").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=r"rank-00000.safetensors has 5 bytes"):
        train(config, tmp_path / "run", resume=True)


def test_a_disk_that_fills_up_during_a_save_leaves_the_older_state(
    uninterrupted_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, uninterrupted = uninterrupted_run

    def fill(now: StepProgress) -> None:
        if now.step == 4:
            # The state of step 2 is written behind the training, and on a busy machine may still be
            # on its way.
            until = time.monotonic() + 60
            while (
                not (tmp_path / "run" / "state" / "00-00000002").exists()
                and time.monotonic() < until
            ):
                os.sched_yield()
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    try:
        with pytest.raises(StorageError, match=r"no space left while writing .*00-00000004"):
            train(config, tmp_path / "run", progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["00-00000002"]
    train(config, tmp_path / "run", resume=True)
    assert equal(weights(tmp_path / "run" / "checkpoint"), weights(uninterrupted / "checkpoint"))


def test_a_missing_image_is_named_and_the_run_resumes_when_it_is_back(
    tmp_path: Path,
) -> None:
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for number in range(8):
        make_image(number).save(images / f"{number}.png")
    rows = [
        {"id": str(n), "image": f"images/{n}.png", "question": "?", "answer": "yes no"[:3]}
        for n in range(8)
    ]
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_config(tmp_path)
    stage = replace(config.stages[0], data=("mine",), steps=6)
    # No room in memory for scaled images: each is read again when its turn comes.
    config = replace(config, stages=(stage,), data={"mine": str(tmp_path / "data")}, cache_mb=0)
    train(config, tmp_path / "uninterrupted")

    def hide_images(now: StepProgress) -> None:
        if now.step == 4:
            images.rename(images.with_name("away"))

    with pytest.raises(ImageError, match=r"images/\d\.png"):
        train(config, tmp_path / "run", progress=hide_images)
    images.with_name("away").rename(images)
    train(config, tmp_path / "run", resume=True)
    assert equal(
        weights(tmp_path / "run" / "checkpoint"), weights(tmp_path / "uninterrupted" / "checkpoint")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_does_not_depend_on_how_a_batch_is_cut_or_packed(family: str) -> None:
    model, processor = tiny(family)
    answers = ("yes", "no", "left side", "a large lesion on the right")
    batch = []
    for number, answer in enumerate(answers):
        tiles = processor.tiles([make_image(number)]) if number % 2 else ()
        parts = (0, "Is there a lesion?") if tiles else ("Is there a lesion?",)
        batch.append(
            processor.encode([Message("user", parts), Message("assistant", (answer,))], tiles)
        )
    stage = Stage("x", ("x",), LearningRates(language=1e-3), batch=4, micro_batch=4)
    results = []
    for size in (4, 2, 1):
        trainer = build_trainer(
            model,
            processor,
            replace(stage, micro_batch=size),
            device=torch.device("cpu"),
            bfloat16=False,
        )
        total = sum(
            float(trainer.compute_loss_sum(batch[i : i + size]).loss.detach())
            for i in range(0, 4, size)
        ) / sum(e.supervised for e in batch)
        results.append(total)
    packed = build_trainer(
        model, processor, replace(stage, packing=True), device=torch.device("cpu"), bfloat16=False
    )
    results.append(
        float(packed.compute_loss_sum(batch).loss.detach()) / sum(e.supervised for e in batch)
    )
    model.eval()
    assert results[1:] == pytest.approx(results[:1] * 3, rel=1e-6)
    full = {k: v for k, v in processor.collate(batch, pad="right").items()}
    stock = float(model(**full).loss.detach())
    assert results[0] == pytest.approx(stock, rel=1e-5)


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    stage = Stage(
        "x", ("x",), LearningRates(language=1.0), batch=1, warmup_steps=4, min_lr_ratio=0.1
    )
    multipliers = [lr_multiplier(step, 14, stage) for step in range(14)]
    assert multipliers[:4] == [0.25, 0.5, 0.75, 1.0]
    assert multipliers[4] == 1.0
    assert multipliers[9] == pytest.approx(0.55)
    assert multipliers[4:] == sorted(multipliers[4:], reverse=True)
    # A short run is not all warm-up.
    assert max(lr_multiplier(step, 6, replace(stage, warmup_steps=100)) for step in range(6)) == 1.0


def test_each_part_has_its_own_rate() -> None:
    model, processor = tiny("internvl")
    stage = Stage("x", ("x",), LearningRates(vision=1e-6, language=1e-5), batch=1)
    trainer = build_trainer(model, processor, stage, device=torch.device("cpu"), bfloat16=False)
    model.eval()
    assert sorted(set(trainer.peak_learning_rates)) == [1e-6, 1e-5]
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in trained) == (processor.family.part_of(name) != "projector"), name
        assert parameter.requires_grad == (id(parameter) in trained)


def test_a_plan_is_a_function_of_seed_and_step() -> None:
    plan = GroupedPlan(tuple(range(10, 110)), batch=8, seed=3)
    batches = [batch for batch, _ in zip(plan.batches(0), range(30), strict=False)]
    resumed = [batch for batch, _ in zip(plan.batches(17), range(13), strict=False)]
    assert resumed == batches[17:]
    first_epoch = [index for batch in batches[:12] for (index,) in batch]
    assert len(set(first_epoch)) == 96
    assert batches[:12] != batches[12:24]
    spread = [max(batch)[0] - min(batch)[0] for batch in batches[:12]]
    assert sum(spread) / len(spread) < 20  # lengths are close together in a batch
    # fewer samples than a batch
    assert sorted(next(GroupedPlan((5, 6, 7), batch=8, seed=0).batches(0))).count((0,)) >= 2


def test_bad_samples_are_dropped_counted_and_named() -> None:
    _, processor = tiny("qwen2_5_vl")
    good = Sample(
        "good",
        (user_turn("?", 1), Message("assistant", ("yes",))),
        (Image(data=png_bytes(make_image(0))),),
        meta=Meta(extra={"text": "of the row"}),
    )
    bad = Sample("bad", good.messages, (Image(data=b"no image"),))
    missing_image = Sample("gone", good.messages, (Image(path="nowhere.png"),))
    unanswered = Sample("silent", (user_turn("?", 0),))
    long = Sample("long", (user_turn("x " * 500, 0), Message("assistant", ("yes",))))
    data = encode_training_samples(
        [good, bad, Drop("row-9", "no_question"), missing_image, unanswered, long],
        processor,
        max_tokens=100,
        cache_mb=1,
    )
    assert len(data) == 1
    assert data.drops == {"bad_image": 2, "no_question": 1, "no_answer": 1, "too_long": 1}
    assert data.drop_examples[0].startswith("bad: bad_image (")
    assert "max_tokens is 100" in data.drop_examples[-1]
    assert data.samples == (Sample("good", (), good.images),)
    assert data.sample(0).tiles[0].tokens == 6
    with pytest.raises(TrainingError, match=r"no sample is left to train on \(bad_image 1\)"):
        encode_training_samples([bad], processor, max_tokens=100, cache_mb=1)


def test_images_beyond_the_cache_are_read_again() -> None:
    _, processor = tiny("qwen2_5_vl")
    sample = Sample(
        "a",
        (user_turn("?", 1), Message("assistant", ("yes",))),
        (Image(data=png_bytes(make_image(0))),),
    )
    cached, uncached = (
        encode_training_samples([sample], processor, max_tokens=100, cache_mb=mb) for mb in (1, 0)
    )
    assert (cached.sample(0).tiles[0].pixels == uncached.sample(0).tiles[0].pixels).all()


def test_a_folder_of_rows_trains_like_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    make_image(0).save(tmp_path / "images" / "a.png")
    rows = [
        {"id": "1", "image": "images/a.png", "question": "?", "answer": ["yes", "yeah"]},
        {"id": "2", "image": "images/b.png", "question": "?"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_groups([tmp_path]))
    assert isinstance(found[0], Sample) and found[0].messages[-1] == Message("assistant", ("yes",))
    assert isinstance(found[1], Drop) and found[1].reason == "missing_image"


def test_rows_that_a_split_holds_out_are_not_trained_on(tmp_path: Path) -> None:
    rows = [
        {"id": side, "question": "?", "answer": "yes", "extra": {"split": side}}
        for side in ("train", "validation", "Training", "test")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_groups([tmp_path]))
    assert [item.id for item in found if isinstance(item, Sample)] == ["train", "Training"]
    assert [(item.id, item.reason) for item in found if isinstance(item, Drop)] == [
        ("validation", "held_out"),
        ("test", "held_out"),
    ]
    assert all(isinstance(item, Sample) for item in read_groups([tmp_path], held_out=True))


def test_a_stage_without_a_finite_step_is_one_clear_error_and_no_checkpoint(
    tmp_path: Path,
) -> None:
    config = small_config(tmp_path)
    model, processor = tiny("qwen2_5_vl")
    broken = copy.deepcopy(model)
    # It answers with finite logits, but the squares of its gradients overflow.
    torch.nn.init.constant_(broken.model.language_model.norm.weight, 1e30)
    export(broken, processor, tmp_path / "broken", RunCard("test", {}))
    config = replace(
        config, model=str(tmp_path / "broken"), stages=(replace(config.stages[0], steps=3),)
    )
    with pytest.raises(
        TrainingError,
        match=r"stage 'shallow': none of its 3 steps had a finite loss and gradient",
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_non_finite_metric_is_logged_as_none(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    context = RunContext(config, tmp_path, {}, SINGLE_PROCESS, stop=lambda: False)
    with open_log(tmp_path / "out", log_bytes=0) as log:
        metrics = {"gradient_norm": math.nan, "kl": math.inf, "clipped": 0.5}
        StageRun(context, 0).log_step(log, 1, metrics)
    (row,) = read_log(tmp_path / "out")
    assert row["kl"] is row["loss"] is row["gradient_norm"] is None and row["clipped"] == 0.5


def test_a_second_process_in_the_folder_of_a_running_one_removes_no_row_of_its_log(
    tmp_path: Path,
) -> None:
    with open_log(tmp_path, log_bytes=0) as log:
        log.add({"stage": "a", "step": 1, "loss": 1.0}, 1)
        with (
            pytest.raises(StorageError, match="is being written by another process"),
            open_log(tmp_path, log_bytes=0),
        ):
            pass
        log.add({"stage": "a", "step": 2, "loss": 1.0}, 2)
        cached = log.size
        log.add({"stage": "a", "step": 3, "loss": 1.0}, 3)
    with open_log(tmp_path, log_bytes=cached):
        pass
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]


def test_a_run_resumes_with_the_data_it_started_with_or_not_at_all(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config = replace(config, stages=config.stages[:1])

    def interrupt(now: StepProgress) -> None:
        if now.step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=interrupt)
    folder = Path(str(config.data["captions"]))
    folder.rename(tmp_path / "kept")
    write_phantoms(folder, list(phantom.training_samples(7, 10, "captions")))
    with pytest.raises(
        ConfigError, match=r"data group 'captions' \(.*\) is not what .*run has learned from so far"
    ):
        train(config, tmp_path / "run", resume=True)
    shutil.rmtree(folder)
    (tmp_path / "kept").rename(folder)
    assert train(config, tmp_path / "run", resume=True).is_dir()


def test_too_many_non_finite_losses_stop_the_run(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    wild = replace(
        config,
        max_skipped_steps=2,
        stages=(
            replace(
                config.stages[1],
                learning_rates=LearningRates(language=1e30),
                warmup_steps=0,
                clip_norm=1e9,
            ),
        ),
    )
    with pytest.raises(
        TrainingError,
        match=(
            r"stage 'instruct', step \d+: the loss is .* 3 such steps were skipped; lower the"
            r" stage's learning rates"
        ),
    ):
        train(wild, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_non_finite_step_changes_nothing() -> None:
    model, processor = tiny("internvl")
    stage = Stage("x", ("x",), LearningRates(language=1e-2), batch=1)
    trainer = build_trainer(model, processor, stage, device=torch.device("cpu"), bfloat16=False)
    sample = processor.encode([Message("user", ("?",)), Message("assistant", ("yes",))], ())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norm = model.model.language_model.norm
    broken = norm.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    loss = trainer.step([[sample]], 0, 1).loss
    broken.remove()
    model.eval()
    assert loss != loss
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_stopped_run_saves_and_resumes_to_the_same_bits(
    uninterrupted_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, uninterrupted = uninterrupted_run
    steps = iter(range(100))
    rare = replace(config, save_every=1000)  # nothing but the request saves
    with pytest.raises(StopRequested, match="stage 'shallow', step 4 of 6"):
        train(rare, tmp_path / "run", stop=lambda: next(steps) == 3)
    train(rare, tmp_path / "run", resume=True)
    assert equal(weights(tmp_path / "run" / "checkpoint"), weights(uninterrupted / "checkpoint"))


def test_a_run_is_refused_before_it_starts(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    with pytest.raises(
        ConfigError, match=r"needs data group 'captions'; give it with data.captions=FOLDER"
    ):
        train(replace(config, data={**config.data, "captions": None}), tmp_path / "run")
    shutil.rmtree(tmp_path / "captions" / "data")
    with pytest.raises(ArtifactError, match=r"missing though manifest.json lists it"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "setting", ["learning_rates", "weight_decay", "min_lr_ratio", "clip_norm", "epochs", "betas"]
)
def test_harmful_numbers_are_refused_before_anything_runs(setting: str, value: float) -> None:
    if (setting, value) == ("clip_norm", math.inf):
        assert Stage("x", ("x",), LearningRates(language=1e-3), clip_norm=value).clip_norm == value
        return
    with pytest.raises(ConfigError, match=rf"{setting}.* is {value:g}"):
        learning_rates = LearningRates(language=value if setting == "learning_rates" else 1e-3)
        changed = (
            {}
            if setting == "learning_rates"
            else {setting: (0.9, value) if setting == "betas" else value}
        )
        Stage("x", ("x",), learning_rates, **changed)  # type: ignore[arg-type]


def test_invalid_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch is 0; it must be at least 1"):
        Stage("x", ("x",), LearningRates(language=1e-3), batch=0)
    with pytest.raises(ConfigError, match="rollout_batch_size is 0; it must be at least 1"):
        Grpo(rollout_batch_size=0)
    stage = Stage("a", ("x",), LearningRates(language=1e-3))
    for change in ({"data": ()}, {"micro_batch": 3}, {"steps": 0}, {"epochs": 0.0}):
        with pytest.raises(ConfigError, match="stage 'a'"):
            replace(stage, **change)
    with pytest.raises(ConfigError, match="every part of the stage is frozen"):
        LearningRates()
    with pytest.raises(ConfigError, match="did you mean 'captions'"):
        TrainConfig("x", "model", (replace(stage, data=("caption",)),), {"captions": None})


@pytest.mark.parametrize(
    ("stored", "option", "expected"),
    [("BF16", "auto", "BF16"), ("BF16", "float32", "F32"), ("F32", "bfloat16", "BF16")],
)
def test_the_checkpoint_has_the_dtype_of_its_start_or_of_the_option(
    stored: str, option: Literal["auto", "float32", "bfloat16"], expected: str, tmp_path: Path
) -> None:
    model, processor = tiny("qwen2_5_vl")
    model = copy.deepcopy(model)
    start = tmp_path / "start"
    export(
        model.to(torch.bfloat16 if stored == "BF16" else torch.float32),
        processor,
        start,
        RunCard("test", {}),
    )
    config = small_config(tmp_path, steps=2)
    config = replace(
        config, model=str(start), stages=config.stages[:1], save_every=10, export_dtype=option
    )
    train(config, tmp_path / "run")
    assert stored_weights(tmp_path / "run" / "checkpoint").dtype == expected
    saved = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert saved["dtype"] == {"BF16": "bfloat16", "F32": "float32"}[expected]
