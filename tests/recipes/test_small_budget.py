"""The recipes for small budgets: their data, their order, and the cards they fit on."""

from __future__ import annotations

from lingshu.recipes import lora_7b, stage3_first
from lingshu.train.estimate import GPUS, estimate_run


def test_lora_fits_one_gpu_of_80_gb_and_full_training_does_not() -> None:
    plan = estimate_run(lora_7b.recipe(), gpu=GPUS["A100-80GB"]).stages[0]
    assert (
        plan.gpu_estimate is not None and plan.gpu_estimate.fits and plan.gpu_estimate.bytes < 72e9
    )
    assert (
        plan.trained["vision"] == plan.trained["projector"] == 0 and plan.trained["language"] < 2e8
    )
    full = estimate_run(stage3_first.recipe(), gpu=GPUS["A100-80GB"]).stages[1].gpu_estimate
    assert full is not None and not full.fits and full.min_gpus == 4


def test_stage3_first_starts_with_text_and_shows_it_twice() -> None:
    config = stage3_first.recipe()
    text, instruct = config.stages
    assert (
        text.data == ("medical_text",)
        and text.learning_rates.vision is text.learning_rates.projector is None
    )
    assert instruct.data == ("medical_text", "medical_multimodal") and all(
        stage.packing for stage in config.stages
    )
    assert config.expected["medical_multimodal"] == 2_700_000 // 4
