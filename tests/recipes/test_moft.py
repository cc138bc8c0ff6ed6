"""The MOFT recipe holds the card's values, trains all three parts, and its runs differ by one thing
each.
"""

from __future__ import annotations

from lingshu.core import config as configuration
from lingshu.models.model_spec import PARTS
from lingshu.models.specs import build_on_meta
from lingshu.recipes import phantom_moft, quickstart, synthesis_entities
from lingshu.recipes.moft_7b import LEARNING_RATE, VARIANTS, recipe
from lingshu.train.config import Objective
from lingshu.train.estimate import estimate_run, find_gpu


def test_the_card_s_values() -> None:
    config = recipe()
    (stage,) = config.stages
    assert (
        stage.learning_rates.vision,
        stage.learning_rates.projector,
        stage.learning_rates.language,
    ) == (5e-6, 5e-6, 5e-6)
    assert (stage.batch, stage.micro_batch, stage.epochs, stage.max_tokens, stage.packing) == (
        64,
        4,
        3.0,
        4096,
        False,
    )
    assert stage.objective == Objective() and config.pixels.max_pixels == 2048 * 28 * 28
    steps = 52_251 * 3 / 64
    assert config.expected == {"train": 52_251} and stage.warmup_steps == round(0.05 * steps)


def test_everything_is_trained_for_the_steps_of_the_card_and_fits_its_gpus() -> None:
    plan = estimate_run(recipe(), gpu=find_gpu("H20"), gpus=4)
    (stage,) = plan.stages
    family, model = build_on_meta("lingshu-medical-mllm/Lingshu-7B")
    by_part = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        by_part[family.part_of(name)] += parameter.numel()
    assert stage.trained == by_part and sum(by_part.values()) == plan.shapes.total
    assert stage.steps == 3 * (52_251 // 64) == 2448  # what is left over of an epoch is left out
    assert stage.gpu_estimate is not None and stage.gpu_estimate.fits


def test_runs_differ_from_the_first_by_their_overrides_alone() -> None:
    made = {name: configuration.override(recipe(), changes) for name, changes in VARIANTS.items()}
    objectives = {name: config.stages[0].objective for name, config in made.items()}
    assert made["fluency"] == recipe() and len({repr(config) for config in made.values()}) == len(
        VARIANTS
    )
    assert objectives["entities"] == Objective(entity_weight=2.5) and objectives[
        "dft"
    ] == Objective(loss="dft")
    assert objectives["normalized"] == Objective(entity_weight=2.5, normalizer="weights")
    assert objectives["random_tokens"] == Objective(entity_weight=2.5, entities="random")
    assert made["second_seed"].seed == 1 and made["twice_as_long"].stages[0].epochs == 6
    assert (
        made["larger_rate"].stages[0].learning_rates.language == 5.873e-6 and LEARNING_RATE == 5e-6
    )


def test_the_small_one_is_the_quickstarts_instruction_stage() -> None:
    config = phantom_moft.recipe()
    (stage,) = config.stages
    expected = quickstart.recipe().stages[-1]
    assert (stage.steps, stage.learning_rates, stage.batch) == (
        expected.steps,
        expected.learning_rates,
        expected.batch,
    )
    made = {
        name: configuration.override(config, changes).stages[0].objective
        for name, changes in phantom_moft.VARIANTS.items()
    }
    assert made["fluency"] == made["second_seed"] == Objective() and made["entities"] == Objective(
        entity_weight=2.5
    )
    short = phantom_moft.short_trajectory("start")
    assert short.model == "start" and short.stages[0].steps == phantom_moft.SHORT_STEPS
    marks = phantom_moft.curation(images=4, first=0, seed=0).steps[-1]
    assert marks.op == "mark_entities" and "left" in marks.params["words"]  # type: ignore[operator]
    assert [step.op for step in synthesis_entities.recipe().steps] == ["label_entities"]
