"""docs/recipes.md says what the recipes and the plan say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lingshu.recipes import lingshu_7b, lingshu_32b, lingshu_i_8b, lora_7b, stage3_first
from lingshu.recipes.ablations import VARIANTS
from lingshu.train.config import TrainConfig
from lingshu.train.estimate import GPUS, RunEstimate, estimate_run

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def hours(plan: RunEstimate) -> str:
    found = [stage.gpu_estimate for stage in plan.stages if stage.gpu_estimate]
    if not all(on.fits for on in found):
        return f"does not fit; needs {max(on.min_gpus or 0 for on in found)}"
    total = sum(on.hours or 0.0 for on in found)
    return f"{total:.0f} h" if total >= 10 else f"{total:.1f} h"


@pytest.mark.parametrize(
    "config",
    [r.recipe() for r in (lingshu_7b, lingshu_32b, lingshu_i_8b, stage3_first)],
    ids=lambda c: c.name,
)
def test_the_table_of_costs_is_what_the_plan_shows(config: TrainConfig) -> None:
    few, many = (
        estimate_run(config, gpu=GPUS["H100"], gpus=8),
        estimate_run(config, gpu=GPUS["H200"], gpus=32),
    )
    tokens = sum(stage.tokens or 0 for stage in few.stages) / 1e9
    operations = sum(stage.flops.model for stage in few.stages if stage.flops)
    memory = " / ".join(
        f"{max(stage.bytes_per_gpu[number] for stage in few.stages) / 1e9:.1f}"
        for number in (8, 32)
    )
    assert (
        f"| `{config.name}` | {tokens:.1f} B | {operations:.1e} | {hours(few)} | {hours(many)} |"
        f" {memory} GB |" in PAGE
    )


def test_the_adapter_s_row() -> None:
    on = estimate_run(lora_7b.recipe(), gpu=GPUS["A100-80GB"]).stages[0]
    assert on.gpu_estimate is not None
    assert (
        f"{60 * on.gpu_estimate.hours_per_thousand:.1f} minutes per thousand samples" in PAGE
        and f"{on.gpu_estimate.bytes / 1e9:.1f} GB on one" in PAGE
    )
    assert f"{on.flops_per_sample.model:.1e}".replace("+", "") + " per sample" in PAGE


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_listed_with_its_overrides(variant: str) -> None:
    assert (
        f"| `{variant}` | {', '.join(f'`{change}`' for change in VARIANTS[variant]) or 'none'} |"
        in PAGE
    )
