"""The three released models at full size, on the meta device: freeze tables by stage, and shards
that hold every parameter once.
"""

from __future__ import annotations

from functools import cache

import pytest
from torch import nn

from lingshu.models.model_spec import PARTS
from lingshu.models.specs import build_on_meta, load_shapes
from lingshu.recipes import lingshu_7b, lingshu_32b, lingshu_i_8b
from lingshu.train.config import TrainConfig
from lingshu.train.distributed import fsdp_units
from lingshu.train.estimate import trained_parameters

RECIPES = [lingshu_7b.recipe(), lingshu_32b.recipe(), lingshu_i_8b.recipe()]
# Vision blocks and language layers of each.
BLOCKS = {"lingshu_7b": (32, 28), "lingshu_32b": (32, 64), "lingshu_i_8b": (24, 28)}
MASTER = 4  # bytes of a float32 weight
built = cache(build_on_meta)


@pytest.fixture(params=RECIPES, ids=[config.name for config in RECIPES])
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return request.param


def name_of(config: TrainConfig) -> str:
    assert isinstance(config.model, str)
    return config.model


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_shards_hold_every_parameter_once(config: TrainConfig) -> None:
    family, model = built(name_of(config))
    blocks = fsdp_units(model, family)
    assert len(blocks) == sum(BLOCKS[config.name])
    held = [id(parameter) for block in blocks for parameter in block.parameters()]
    assert len(set(held)) == len(held)
    everything = {id(parameter): name for name, parameter in model.named_parameters()}
    assert set(held) < everything.keys()
    # What is left for the root: embeddings, output head, projector, and what comes before and
    # behind the blocks.
    left = {name for parameter, name in everything.items() if parameter not in set(held)}
    assert {
        "lm_head.weight",
        "model.language_model.embed_tokens.weight",
        "model.language_model.norm.weight",
    } < left
    assert not any(
        ".layers." in name or ".blocks." in name or ".encoder.layer." in name for name in left
    )


def test_vision_blocks_come_first_and_all_blocks_of_a_kind_are_equal(config: TrainConfig) -> None:
    family, model = built(name_of(config))
    vision, language = BLOCKS[config.name]
    names = {id(module): name for name, module in model.named_modules()}
    blocks = fsdp_units(model, family)
    parts = [family.part_of(names[id(block)] + ".") for block in blocks]
    assert parts == ["vision"] * vision + ["language"] * language
    assert (
        len({size(block) for block in blocks[:vision]})
        == len({size(block) for block in blocks[vision:]})
        == 1
    )


@pytest.mark.parametrize("gpus", [8, 32])
def test_a_gpu_s_share_is_even(config: TrainConfig, gpus: int) -> None:
    """Shards cut the first dimension into equal rows, the last of them shorter: the largest share
    is close to the mean.
    """
    family, model = built(name_of(config))
    held = [parameter for block in fsdp_units(model, family) for parameter in block.parameters()]
    root = [
        parameter
        for parameter in model.parameters()
        if id(parameter) not in {id(each) for each in held}
    ]
    largest = MASTER * sum(
        -(-p.shape[0] // gpus) * (p.numel() // p.shape[0]) for p in [*held, *root]
    )
    mean = MASTER * load_shapes(name_of(config)).total / gpus
    assert mean <= largest < 1.02 * mean


def test_the_sizes_on_file_are_those_of_the_blocks(config: TrainConfig) -> None:
    found = load_shapes(name_of(config))
    family, model = built(name_of(config))
    assert found.blocks == tuple(size(block) for block in fsdp_units(model, family))
    assert found.outside_blocks == size(model) - sum(found.blocks) and found.total == size(model)


def test_the_freeze_table_of_each_stage(config: TrainConfig) -> None:
    family, model = built(name_of(config))
    by_part = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        by_part[family.part_of(name)] += parameter.numel()
    shallow, deep, instruct = (
        trained_parameters(stage, load_shapes(name_of(config))) for stage in config.stages
    )
    assert shallow == {**by_part, "language": 0}
    assert deep == instruct == by_part
