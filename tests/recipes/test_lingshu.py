"""The full-size recipes hold the paper's values, and their freeze tables are those of the real
configurations.
"""

from __future__ import annotations

import pytest

from lingshu.recipes import lingshu_7b, lingshu_32b, lingshu_i_8b
from lingshu.train.config import TrainConfig
from lingshu.train.estimate import estimate_run

RECIPES = {"7b": lingshu_7b.recipe(), "32b": lingshu_32b.recipe(), "i_8b": lingshu_i_8b.recipe()}


@pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES)
def test_the_paper_s_values(config: TrainConfig) -> None:
    shallow, deep, instruct = config.stages
    assert (
        shallow.learning_rates.vision,
        shallow.learning_rates.projector,
        shallow.learning_rates.language,
    ) == (
        2e-6,
        1e-5,
        None,
    )
    assert all(
        (s.learning_rates.vision, s.learning_rates.projector, s.learning_rates.language)
        == (2e-6, 1e-5, 1e-5)
        for s in (deep, instruct)
    )
    assert [
        (s.epochs, s.packing, s.warmup_steps, s.max_tokens, s.batch) for s in config.stages
    ] == [
        (1.0, False, 100, 8192, 256),
        (1.0, False, 100, 8192, 256),
        (2.0, True, 100, 8192, 256),
    ]
    assert config.expected == {"alignment": 927_000, "captions": 4_100_000, "instruct": 7_100_000}


@pytest.mark.parametrize(("name", "billions"), [("7b", 8.29), ("32b", 33.45), ("i_8b", 7.94)])
def test_the_freeze_table_of_the_real_configuration(name: str, billions: float) -> None:
    plan = estimate_run(RECIPES[name])
    assert round(plan.shapes.total / 1e9, 2) == billions
    shallow, deep, instruct = plan.stages
    assert (
        shallow.trained["language"] == 0
        and shallow.trained["vision"] > 3e8
        and shallow.trained["projector"] > 2e7
    )
    assert sum(deep.trained.values()) == sum(instruct.trained.values()) == plan.shapes.total
    assert [stage.unpacked_steps or stage.steps for stage in plan.stages] == [3621, 16015, 55468]
    # 8,192 tokens take 14 samples of 584, or 18 of 456 where an image is one tile of 256.
    assert instruct.steps == (3118 if name == "i_8b" else 3994)
    assert plan.shapes.verified is (name != "32b")
    assert [group.name for group in plan.groups if group.folder is None] == [
        "alignment",
        "captions",
        "instruct",
    ]
