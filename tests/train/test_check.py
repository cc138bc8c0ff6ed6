"""The plan of a run: operations and memory of a model small enough to count by hand, hours,
lengths, and what it says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.apps.cli import main
from lingshu.core.errors import ConfigError, UnknownName
from lingshu.models.family import Tower
from lingshu.models.known import Shapes, shapes
from lingshu.models.spec import PixelBudget
from lingshu.recipes import lingshu_7b, lingshu_i_8b, lora_7b
from lingshu.train.check import RunCheck, check
from lingshu.train.config import Grpo, Lora, Rates, Sharding, Stage, TrainConfig
from lingshu.train.cost import Flops, Mean, flops, memory
from lingshu.train.gpus import GPUS, Gpu, gpu
from lingshu.train.lengths import Assumed
from lingshu.train.loop import train
from tests.tiny import picture, small_config

# A model to be counted by hand: 10 + 4 + 100 parameters, of which 20 are the output head's.
SMALL = Shapes(
    family="qwen2_5_vl",
    parameters={"vision": 10, "projector": 4, "language": 100},
    linear_sides={"vision": 5, "projector": 3, "language": 20},
    multiplied={"vision": 8, "projector": 4, "language": 60},
    head=20,
    hidden=2,
    layers=3,
    attention=2,
    vocabulary=10,
    tower=Tower(width=2, everywhere=1, windowed=1, window=4, patches_per_token=4, tile_tokens=None),
    blocks=(4, 4, 20, 20, 20),
    verified=True,
)
# 6 tokens of text and 2 of one image, hence 8 patches; 3 are learnt.
SAMPLE = Mean(text=6, image=2, supervised=3, squares=64, patch_squares=64)
# one block attends over 8 patches, one inside windows of 4
VISION, VISION_ATTENTION = 2 * 8 * 8, 4 * 2 * (64 + 4 * 8)
PROJECTOR = 2 * 4 * 2
LANGUAGE, LANGUAGE_ATTENTION, HEAD = 2 * 60 * 8, 2 * 3 * 2 * 64, 2 * 20 * 3
FORWARD = VISION + VISION_ATTENTION + PROJECTOR + LANGUAGE + LANGUAGE_ATTENTION + HEAD
RECOMPUTED = Sharding(activation_checkpointing=True)
CARD = Gpu("card", peak=1e12, memory=80e9)


def stage(*, lora: Lora | None = None, grpo: Grpo | None = None, **rates: float) -> Stage:
    return Stage("s", ("train",), Rates(**rates), batch=8, max_tokens=8, lora=lora, grpo=grpo)


def test_backward_is_twice_forward_where_everything_learns() -> None:
    assert FORWARD == 2760
    assert flops(stage(vision=1, projector=1, language=1), SMALL, SAMPLE, recompute=True) == Flops(
        2760, 2 * 2760, 2760 - PROJECTOR - HEAD
    )


def test_a_frozen_language_model_passes_gradients_on_and_makes_none_of_its_own() -> None:
    found = flops(stage(vision=1, projector=1), SMALL, SAMPLE, recompute=True)
    passed_on = LANGUAGE + 2 * LANGUAGE_ATTENTION + HEAD
    assert found.backward == 2 * (VISION + VISION_ATTENTION + PROJECTOR) + passed_on == 4440


def test_nothing_flows_back_into_what_lies_before_the_first_trained_part() -> None:
    found = flops(stage(language=1), SMALL, SAMPLE, recompute=True)
    assert found == Flops(
        2760, 2 * (LANGUAGE + LANGUAGE_ATTENTION + HEAD), LANGUAGE + LANGUAGE_ATTENTION
    )


def test_an_adapter_costs_its_own_weights_and_the_passage_through_the_frozen_ones() -> None:
    adapter = 2 * 2 * 20 * 8  # rank 2, 20 inputs and outputs, 8 tokens
    found = flops(stage(language=1, lora=Lora(rank=2)), SMALL, SAMPLE, recompute=True)
    assert found.forward == 2760 + adapter == 3400
    assert found.backward == LANGUAGE + 2 * LANGUAGE_ATTENTION + HEAD + 2 * adapter == 3896


@pytest.mark.parametrize(
    ("kl", "round_prompts", "passes"), [(0.0, 8, 1), (1e-3, 8, 2), (1e-3, 16, 3)]
)
def test_a_reference_and_the_start_of_a_round_add_forward_passes(
    kl: float, round_prompts: int, passes: int
) -> None:
    rewarded = stage(
        language=1, grpo=Grpo(copies=2, round_prompts=round_prompts, max_reply_tokens=4, kl=kl)
    )
    assert flops(rewarded, SMALL, SAMPLE, recompute=True).forward == passes * 2760


def test_six_operations_a_weight_and_token_on_the_real_model() -> None:
    text = Mean(text=1000, image=0, supervised=1000, squares=0, patch_squares=0)
    found = flops(
        lingshu_7b.stages()[1], shapes("lingshu-medical-mllm/Lingshu-7B"), text, recompute=True
    )
    # q and o, k and v, the gated feed-forward
    linear = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert found.model == 6 * 1000 * (linear + 152064 * 3584)
    assert found.recomputed == 2 * 1000 * linear


def test_memory_counted_by_hand() -> None:
    everything = memory(stage(vision=1, projector=1, language=1), SMALL, 1, sharding=RECOMPUTED)
    assert everything.states == 114 * 16
    # All 46 parameters outside of blocks and two blocks of 20 in two bytes, and the gradient of
    # one.
    assert everything.gathered == 2 * 46 + 2 * 2 * 20 + 6 * 20
    # A full sequence of images: 32 patches, two blocks' inputs kept in four bytes, one block at
    # work.
    assert everything.activations == 32 * 2 * (4 * 2 + 68) > 8 * 2 * (4 * 3 + 68) + 8 * 10 * 12
    assert (
        memory(stage(vision=1, projector=1, language=1), SMALL, 2, sharding=RECOMPUTED).states
        == 114 * 16 // 2
    )
    assert (
        memory(stage(vision=1, projector=1), SMALL, 1, sharding=RECOMPUTED).states
        == 14 * 16 + 100 * 4
    )
    assert (
        memory(stage(language=1, lora=Lora(rank=2)), SMALL, 1, sharding=RECOMPUTED).states
        == 114 * 4 + 2 * 20 * 16
    )
    assert (
        memory(stage(vision=1, language=1, lora=Lora(rank=2)), SMALL, 1, sharding=RECOMPUTED).states
        == 104 * 4 + (10 + 2 * 20) * 16
    )


def test_memory_without_recomputing_or_on_the_cpu() -> None:
    everything = stage(vision=1, projector=1, language=1)
    kept = memory(everything, SMALL, 1, sharding=Sharding())
    # Two blocks' inner states of 32 patches each, and those of the block at work.
    assert (
        kept.activations == 32 * 2 * 68 * (2 + 1)
        and kept.gathered == 2 * 46 + 2 * 2 * 20 + 6 * 20 > 2 * 114
    )
    assert memory(everything, SMALL, 8, sharding=Sharding(cpu_offload=True)).states == 0
    assert flops(everything, SMALL, SAMPLE, recompute=False) == Flops(2760, 2 * 2760, 0)


def planned(config: TrainConfig, assumed: Assumed | None = None, *, gpus: int = 1) -> RunCheck:
    return check(config, assumed, gpu=CARD, gpus=gpus)


def test_hours_are_operations_over_speed() -> None:
    config = replace(lora_7b.recipe(), expected={"train": 65_536})
    first = planned(config, Assumed(mfu=0.5)).stages[0]
    assert first.on is not None and first.flops is not None and first.on.hours is not None
    assert first.on.hours == pytest.approx(first.flops.model / 0.5e12 / 3600)
    assert first.on.hours_per_thousand == pytest.approx(
        1000 * first.flops_per_sample.model / 0.5e12 / 3600
    )
    more = planned(config, Assumed(mfu=0.5), gpus=64).stages[0].on
    # A batch of 16 sequences, one at a time, gives work to 16.
    assert more is not None and more.busy == 16 and more.hours == pytest.approx(first.on.hours / 16)


def test_packing_makes_steps_fewer_by_the_samples_that_a_sequence_takes() -> None:
    instruct = check(lingshu_7b.recipe(), Assumed(text_tokens=300, image_tokens=211)).stages[2]
    assert instruct.per_sequence == pytest.approx(0.99 * 8192 / 511)
    # 7.1 M samples of 511 tokens fill 447,363 sequences, 1,747 batches of 256; two epochs.
    assert instruct.steps == 2 * 1747 and instruct.unpacked_steps == 55_468
    assert instruct.tokens_per_epoch == 7_100_000 * 511


def test_a_stage_without_rows_has_no_hours_and_a_rate_all_the_same() -> None:
    found = planned(lora_7b.recipe()).stages[0]
    assert found.steps is found.tokens is found.flops is None
    assert found.on is not None and found.on.hours is None and found.on.hours_per_thousand > 0


@pytest.mark.parametrize(
    ("budget", "tokens"), [(PixelBudget(), 384), (PixelBudget(max_pixels=100 * 784), 100)]
)
def test_the_assumed_image_keeps_to_the_pixel_budget(budget: PixelBudget, tokens: float) -> None:
    found = check(replace(lora_7b.recipe(), pixels=budget)).stages[0].mean
    assert (found.text, found.image, found.supervised) == (200, tokens, 100)
    assert found.patch_squares == (4 * tokens) ** 2


def test_a_tile_has_its_own_number_of_tokens_and_attends_to_itself() -> None:
    whole = lingshu_i_8b.recipe()
    assert check(whole).stages[0].mean.image == 256
    cut = check(replace(whole, pixels=PixelBudget(max_tiles=12))).stages[0].mean
    assert cut.image == 13 * 256 and cut.patch_squares == 13 * 1024**2


def test_data_at_hand_are_measured_and_the_steps_are_those_of_the_run(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config = replace(
        config,
        stages=tuple(
            replace(each, steps=None, epochs=2.0, batch=2, micro_batch=1) for each in config.stages
        ),
    )
    found = check(config)
    assert [group.measured for group in found.groups] == [24, 24]
    assert all(group.mean.image == 4 and group.mean.patch_squares == 256 for group in found.groups)
    train(config, tmp_path / "run")
    stages = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]
    assert [each.steps for each in found.stages] == [each["steps"] for each in stages]
    # The run's tokenizer saw the text of both groups just as the plan's did.
    assert [round(each.tokens_per_epoch or 0) for each in found.stages] == [
        each["tokens"] for each in stages
    ]


def test_rows_that_cannot_be_used_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
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
    told = capsys.readouterr().out
    assert (
        "of all rows a mean of" in told
        and "bad_image 1 dropped" in told
        and "Assumed for" not in told
    )


def test_cards_are_found_by_name_and_unknown_ones_suggest_the_nearest() -> None:
    assert gpu("a100 80gb") is GPUS["A100-80GB"] and gpu("rtx-4090") is GPUS["RTX4090"]
    with pytest.raises(UnknownName, match="did you mean 'H100'"):
        gpu("h1000")
    assert GPUS["H100"].holds(72e9) and not GPUS["H100"].holds(72.1e9)


@pytest.mark.parametrize(
    "assumed", [{"text_tokens": 0}, {"image_tokens": -1}, {"mfu": 0}, {"mfu": 40}]
)
def test_numbers_that_cannot_be_planned_with_are_refused(assumed: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Assumed(**assumed)


def test_the_plan_names_its_assumptions_and_says_what_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "lora_7b", "--check", "--gpu", "H100"]) == 0
    told = capsys.readouterr().out
    assert (
        "1 x H100" in told
        and "fits: at most" in told
        and "200 text and 384 image tokens" in told
        and "MFU of 0.4" in told
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
    told = capsys.readouterr().out
    assert (
        "does NOT fit" in told
        and "at an MFU of 0.3" in told
        and "90 text" in told
        and "in all" in told
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--check", "--gpu", "H1000"], "did you mean 'H100'?"),
        (["--check", "--gpus", "8"], "needs --gpu"),
        (["--gpu", "H100"], "pass --check"),
        (["--check", "--mfu", "2"], "between 0 and 1"),
    ],
)
def test_planning_options_that_make_no_sense_are_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "lora_7b", *options]) == 2
    assert said in capsys.readouterr().err
