"""Blocks that are sharded and recomputed one by one, and what recomputing must not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from lingshu.core.nouns import Message
from lingshu.models.load import hollow
from lingshu.models.processor import Encoded, Processor
from lingshu.models.spec import FamilyName
from lingshu.train.config import Rates, Sharding, Stage
from lingshu.train.shard import units
from lingshu.train.step import set_up
from tests.tiny import FAMILIES, picture, tiny


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads than on one, by far where other work runs beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(processor: Processor) -> list[list[Encoded]]:
    made = []
    for number, answer in enumerate(("yes", "no", "left side", "a large lesion")):
        tiles = processor.tiles([picture(number)]) if number % 2 else ()
        question = (0, "Is there a lesion?") if tiles else ("Is there a lesion?",)
        made.append(
            [processor.encode([Message("user", question), Message("assistant", (answer,))], tiles)]
        )
    return made


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_give_the_same_bits(family: FamilyName, packing: bool) -> None:
    model, processor = tiny(family)
    stage = Stage(
        "x",
        ("x",),
        Rates(1e-3, 1e-3, 1e-3),
        batch=4,
        micro_batch=2,
        warmup_steps=0,
        packing=packing,
    )
    told = []
    for recomputed in (False, True):
        trainer = set_up(
            copy.deepcopy(model), processor, stage,
            device=torch.device("cpu"), bfloat16=False, sharding=Sharding(activation_checkpointing=recomputed),
        )  # fmt: skip
        results = [trainer.step(batch(processor), step, 4) for step in range(3)]
        told.append((results, dict(trainer.model.named_parameters())))
    (kept, weights), (recomputed, others) = told
    assert kept == recomputed
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_stage_that_keeps_its_activations_again_wraps_nothing() -> None:
    model, processor = tiny("qwen2_5_vl")
    model = copy.deepcopy(model)
    stage = Stage("x", ("x",), Rates(language=1e-3), batch=4, micro_batch=2)
    for recomputed in (True, True, False):
        set_up(
            model,
            processor,
            stage,
            device=torch.device("cpu"),
            bfloat16=False,
            sharding=Sharding(activation_checkpointing=recomputed),
        )
        assert all(
            ("forward" in block.__dict__) == recomputed for block in units(model, processor.family)
        )
        copied = units(copy.deepcopy(model), processor.family)
        assert all(block.forward.__self__ is block for block in copied)  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize("family", FAMILIES)
def test_units_are_all_blocks_vision_first(family: FamilyName) -> None:
    model, processor = tiny(family)
    names = {id(module): name for name, module in model.named_modules()}
    found = [names[id(unit)] for unit in units(model, processor.family)]
    parts = [processor.family.part_of(name + ".") for name in found]
    assert parts == ["vision", "vision", "language", "language"]
    empty = hollow(model)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert [unit.__class__ for unit in units(empty, processor.family)] == [
        unit.__class__ for unit in units(model, processor.family)
    ]


def test_only_micro_batches_with_words_teach_a_tower_nothing() -> None:
    model, processor = tiny("internvl")
    stage = replace(Stage("x", ("x",), Rates(vision=1e-3), batch=2, micro_batch=2, warmup_steps=0))
    trainer = set_up(
        copy.deepcopy(model), processor, stage, device=torch.device("cpu"), bfloat16=False
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    result = trainer.step(batch(processor)[::2], 0, 4)
    assert result.loss > 0 and result.norm == 0
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())
