"""The plan of a run: operations and memory of a model small enough to count by hand, hours,
lengths, and what it says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.cli.main import main
from lingshu.core.errors import ConfigError, UnknownNameError
from lingshu.models.base import VisionTowerSpec
from lingshu.models.model_spec import PixelBudget
from lingshu.models.specs import ModelShapes, load_shapes
from lingshu.recipes import lingshu_7b, lingshu_i_8b, lora_7b
from lingshu.train.config import Grpo, LearningRates, Lora, Sharding, Stage, TrainConfig
from lingshu.train.estimate import (
    GPUS,
    AssumedLengths,
    Flops,
    Gpu,
    MeanLengths,
    RunEstimate,
    estimate_flops,
    estimate_memory,
    estimate_run,
    find_gpu,
)
from lingshu.train.loop import train
from tests.support.tiny import make_image, small_config

# A model to be counted by hand: 10 + 4 + 100 parameters, of which 20 are the output head's.
SMALL = ModelShapes(
    family="qwen2_5_vl",
    parameters={"vision": 10, "projector": 4, "language": 100},
    linear_dims={"vision": 5, "projector": 3, "language": 20},
    matmul_parameters={"vision": 8, "projector": 4, "language": 60},
    lm_head_parameters=20,
    hidden=2,
    layers=3,
    attention=2,
    vocab_size=10,
    tower=VisionTowerSpec(
        width=2,
        full_attention_blocks=1,
        window_attention_blocks=1,
        window_patches=4,
        patches_per_token=4,
        pixels_per_token=784,
        tile_tokens=None,
    ),
    blocks=(4, 4, 20, 20, 20),
    verified=True,
)
# 6 tokens of text and 2 of one image, hence 8 patches; 3 are supervised.
SAMPLE = MeanLengths(text=6, image=2, supervised=3, squared_length=64, squared_patches=64)
# one block attends over 8 patches, one inside windows of 4
VISION, VISION_ATTENTION = 2 * 8 * 8, 4 * 2 * (64 + 4 * 8)
PROJECTOR = 2 * 4 * 2
LANGUAGE, LANGUAGE_ATTENTION, HEAD = 2 * 60 * 8, 2 * 3 * 2 * 64, 2 * 20 * 3
FORWARD = VISION + VISION_ATTENTION + PROJECTOR + LANGUAGE + LANGUAGE_ATTENTION + HEAD
RECOMPUTED = Sharding(activation_checkpointing=True)
CARD = Gpu("card", peak_flops=1e12, memory_bytes=80e9)


def stage(*, lora: Lora | None = None, grpo: Grpo | None = None, **learning_rates: float) -> Stage:
    return Stage(
        "s",
        ("train",),
        LearningRates(**learning_rates),
        batch=8,
        max_tokens=8,
        lora=lora,
        grpo=grpo,
    )


def test_backward_is_twice_forward_where_everything_learns() -> None:
    assert FORWARD == 2760
    assert estimate_flops(
        stage(vision=1, projector=1, language=1), SMALL, SAMPLE, recompute=True
    ) == Flops(2760, 2 * 2760, 2760 - PROJECTOR - HEAD)


def test_a_frozen_language_model_passes_gradients_on_and_gets_none() -> None:
    estimate = estimate_flops(stage(vision=1, projector=1), SMALL, SAMPLE, recompute=True)
    passed_on = LANGUAGE + 2 * LANGUAGE_ATTENTION + HEAD
    assert estimate.backward == 2 * (VISION + VISION_ATTENTION + PROJECTOR) + passed_on == 4440


def test_no_gradient_flows_before_the_first_trained_part() -> None:
    estimate = estimate_flops(stage(language=1), SMALL, SAMPLE, recompute=True)
    assert estimate == Flops(
        2760, 2 * (LANGUAGE + LANGUAGE_ATTENTION + HEAD), LANGUAGE + LANGUAGE_ATTENTION
    )


def test_an_adapter_costs_its_own_weights_and_the_passage_through_the_frozen_ones() -> None:
    adapter = 2 * 2 * 20 * 8  # rank 2, 20 inputs and outputs, 8 tokens
    estimate = estimate_flops(stage(language=1, lora=Lora(rank=2)), SMALL, SAMPLE, recompute=True)
    assert estimate.forward == 2760 + adapter == 3400
    assert estimate.backward == LANGUAGE + 2 * LANGUAGE_ATTENTION + HEAD + 2 * adapter == 3896


@pytest.mark.parametrize(
    ("kl", "rollout_batch_size", "passes"), [(0.0, 8, 1), (1e-3, 8, 2), (1e-3, 16, 3)]
)
def test_a_reference_and_the_start_of_a_round_add_forward_passes(
    kl: float, rollout_batch_size: int, passes: int
) -> None:
    grpo_stage = stage(
        language=1,
        grpo=Grpo(
            num_generations=2, rollout_batch_size=rollout_batch_size, max_reply_tokens=4, kl=kl
        ),
    )
    assert estimate_flops(grpo_stage, SMALL, SAMPLE, recompute=True).forward == passes * 2760


def test_six_operations_a_weight_and_token_on_the_real_model() -> None:
    text = MeanLengths(text=1000, image=0, supervised=1000, squared_length=0, squared_patches=0)
    estimate = estimate_flops(
        lingshu_7b.stages()[1], load_shapes("lingshu-medical-mllm/Lingshu-7B"), text, recompute=True
    )
    # q and o, k and v, the gated feed-forward
    linear = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert estimate.model == 6 * 1000 * (linear + 152064 * 3584)
    assert estimate.recomputed == 2 * 1000 * linear


def test_memory_counted_by_hand() -> None:
    full_stage = estimate_memory(
        stage(vision=1, projector=1, language=1), SMALL, 1, sharding=RECOMPUTED
    )
    assert full_stage.states == 114 * 16
    # All 46 parameters outside of blocks and two blocks of 20 in two bytes, and the gradient of
    # one.
    assert full_stage.gathered == 2 * 46 + 2 * 2 * 20 + 6 * 20
    # A full sequence of images: 32 patches, two blocks' inputs kept in four bytes, one block at
    # work.
    assert full_stage.activations == 32 * 2 * (4 * 2 + 68) > 8 * 2 * (4 * 3 + 68) + 8 * 10 * 12
    assert (
        estimate_memory(
            stage(vision=1, projector=1, language=1), SMALL, 2, sharding=RECOMPUTED
        ).states
        == 114 * 16 // 2
    )
    assert (
        estimate_memory(stage(vision=1, projector=1), SMALL, 1, sharding=RECOMPUTED).states
        == 14 * 16 + 100 * 4
    )
    assert (
        estimate_memory(stage(language=1, lora=Lora(rank=2)), SMALL, 1, sharding=RECOMPUTED).states
        == 114 * 4 + 2 * 20 * 16
    )
    assert (
        estimate_memory(
            stage(vision=1, language=1, lora=Lora(rank=2)), SMALL, 1, sharding=RECOMPUTED
        ).states
        == 104 * 4 + (10 + 2 * 20) * 16
    )


def test_memory_without_recomputing_or_on_the_cpu() -> None:
    full_stage = stage(vision=1, projector=1, language=1)
    uncheckpointed = estimate_memory(full_stage, SMALL, 1, sharding=Sharding())
    # Two blocks' inner states of 32 patches each, and those of the block at work.
    assert (
        uncheckpointed.activations == 32 * 2 * 68 * (2 + 1)
        and uncheckpointed.gathered == 2 * 46 + 2 * 2 * 20 + 6 * 20 > 2 * 114
    )
    assert estimate_memory(full_stage, SMALL, 8, sharding=Sharding(cpu_offload=True)).states == 0
    assert estimate_flops(full_stage, SMALL, SAMPLE, recompute=False) == Flops(2760, 2 * 2760, 0)


def estimate_on_card(
    config: TrainConfig, assumed: AssumedLengths | None = None, *, gpus: int = 1
) -> RunEstimate:
    return estimate_run(config, assumed, gpu=CARD, gpus=gpus)


def test_hours_are_operations_over_speed() -> None:
    config = replace(lora_7b.recipe(), expected={"train": 65_536})
    first = estimate_on_card(config, AssumedLengths(mfu=0.5)).stages[0]
    assert (
        first.gpu_estimate is not None
        and first.flops is not None
        and first.gpu_estimate.hours is not None
    )
    assert first.gpu_estimate.hours == pytest.approx(first.flops.model / 0.5e12 / 3600)
    assert first.gpu_estimate.hours_per_thousand == pytest.approx(
        1000 * first.flops_per_sample.model / 0.5e12 / 3600
    )
    with_64_gpus = estimate_on_card(config, AssumedLengths(mfu=0.5), gpus=64).stages[0].gpu_estimate
    # A batch of 16 sequences, one at a time, gives work to 16.
    assert (
        with_64_gpus is not None
        and with_64_gpus.busy_gpus == 16
        and with_64_gpus.hours == pytest.approx(first.gpu_estimate.hours / 16)
    )


def test_packing_makes_steps_fewer_by_the_samples_that_a_sequence_takes() -> None:
    instruct = estimate_run(
        lingshu_7b.recipe(), AssumedLengths(text_tokens=300, image_tokens=211)
    ).stages[2]
    assert instruct.samples_per_sequence == pytest.approx(0.99 * 8192 / 511)
    # 7.1 M samples of 511 tokens fill 447,363 sequences, 1,747 batches of 256; two epochs.
    assert instruct.steps == 2 * 1747 and instruct.unpacked_steps == 55_468
    assert instruct.tokens_per_epoch == 7_100_000 * 511


def test_a_stage_without_rows_has_no_hours_and_a_rate_all_the_same() -> None:
    estimate = estimate_on_card(lora_7b.recipe()).stages[0]
    assert estimate.steps is estimate.tokens is estimate.flops is None
    assert (
        estimate.gpu_estimate is not None
        and estimate.gpu_estimate.hours is None
        and estimate.gpu_estimate.hours_per_thousand > 0
    )


@pytest.mark.parametrize(
    ("budget", "tokens"), [(PixelBudget(), 384), (PixelBudget(max_pixels=100 * 784), 100)]
)
def test_the_assumed_image_is_within_the_pixel_budget(budget: PixelBudget, tokens: float) -> None:
    estimate = estimate_run(replace(lora_7b.recipe(), pixels=budget)).stages[0].mean
    assert (estimate.text, estimate.image, estimate.supervised) == (200, tokens, 100)
    assert estimate.squared_patches == (4 * tokens) ** 2


def test_a_tile_has_its_own_number_of_tokens_and_attends_to_itself() -> None:
    recipe = lingshu_i_8b.recipe()
    assert estimate_run(recipe).stages[0].mean.image == 256
    tiled = estimate_run(replace(recipe, pixels=PixelBudget(max_tiles=12))).stages[0].mean
    assert tiled.image == 13 * 256 and tiled.squared_patches == 13 * 1024**2


def test_available_data_are_measured_and_the_steps_are_those_of_the_run(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config = replace(
        config,
        stages=tuple(
            replace(stage_entry, steps=None, epochs=2.0, batch=2, micro_batch=1)
            for stage_entry in config.stages
        ),
    )
    estimate = estimate_run(config)
    assert [group.measured_rows for group in estimate.groups] == [24, 24]
    assert all(
        group.mean.image == 4 and group.mean.squared_patches == 256 for group in estimate.groups
    )
    train(config, tmp_path / "run")
    stages = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]
    assert [stage_entry.steps for stage_entry in estimate.stages] == [
        stage_entry["steps"] for stage_entry in stages
    ]
    # The run's tokenizer saw the text of both groups just as the plan's did.
    assert [round(stage_entry.tokens_per_epoch or 0) for stage_entry in estimate.stages] == [
        stage_entry["tokens"] for stage_entry in stages
    ]


def test_unusable_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for number in range(4):
        make_image(number).save(tmp_path / f"{number}.png")
        rows.append(
            {
                "id": str(number),
                "image": f"{number}.png",
                "question": "Is there a lesion?",
                "answer": "yes",
            }
        )
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["train", "small_vqa", f"data.train={tmp_path}", "--check"]) == 0
    output = capsys.readouterr().out
    assert (
        "of all rows a mean of" in output
        and "bad_image 1 dropped" in output
        and "Assumed for" not in output
    )


def test_cards_are_found_by_name_and_unknown_ones_suggest_the_nearest() -> None:
    assert find_gpu("a100 80gb") is GPUS["A100-80GB"] and find_gpu("rtx-4090") is GPUS["RTX4090"]
    with pytest.raises(UnknownNameError, match="did you mean 'H100'"):
        find_gpu("h1000")
    assert GPUS["H100"].has_capacity(72e9) and not GPUS["H100"].has_capacity(72.1e9)


@pytest.mark.parametrize(
    "assumed", [{"text_tokens": 0}, {"image_tokens": -1}, {"mfu": 0}, {"mfu": 40}]
)
def test_numbers_that_cannot_be_planned_with_are_refused(assumed: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        AssumedLengths(**assumed)


def test_the_plan_names_its_assumptions_and_states_what_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "lora_7b", "--check", "--gpu", "H100"]) == 0
    output = capsys.readouterr().out
    assert (
        "1 x H100" in output
        and "fits: at most" in output
        and "200 text and 384 image tokens" in output
        and "MFU of 0.4" in output
    )
    assert (
        main(
            [
                "train",
                "lingshu_7b",
                "--check",
                "--gpu",
                "rtx4090",
                "--gpus",
                "2",
                "--mfu",
                "0.3",
                "--text-tokens",
                "90",
            ]
        )
        == 0
    )
    output = capsys.readouterr().out
    assert (
        "does NOT fit" in output
        and "at an MFU of 0.3" in output
        and "90 text" in output
        and "in total" in output
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check", "--gpu", "H1000"], "did you mean 'H100'?"),
        (["--check", "--gpus", "8"], "needs --gpu"),
        (["--gpu", "H100"], "pass --check"),
        (["--check", "--mfu", "2"], "between 0 and 1"),
    ],
)
def test_invalid_planning_options_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "lora_7b", *options]) == 2
    assert message in capsys.readouterr().err
