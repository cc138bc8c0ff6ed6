"""Blocks that are sharded and recomputed one by one, and what recomputing must not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from lingshu.core.types import Message
from lingshu.models.load import empty_meta_copy
from lingshu.models.processor import EncodedSample, Processor
from lingshu.train.config import LearningRates, Sharding, Stage
from lingshu.train.distributed import fsdp_units
from lingshu.train.step import build_trainer
from tests.support.tiny import FAMILIES, make_image, tiny


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads than on one, even more so next to other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(processor: Processor) -> list[list[EncodedSample]]:
    sequences = []
    for number, answer in enumerate(("yes", "no", "left side", "a large lesion")):
        tiles = processor.tiles([make_image(number)]) if number % 2 else ()
        question = (0, "Is there a lesion?") if tiles else ("Is there a lesion?",)
        sequences.append(
            [processor.encode([Message("user", question), Message("assistant", (answer,))], tiles)]
        )
    return sequences


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_give_the_same_bits(family: str, packing: bool) -> None:
    model, processor = tiny(family)
    stage = Stage(
        "x",
        ("x",),
        LearningRates(1e-3, 1e-3, 1e-3),
        batch=4,
        micro_batch=2,
        warmup_steps=0,
        packing=packing,
    )
    runs = []
    for recomputed in (False, True):
        trainer = build_trainer(
            copy.deepcopy(model), processor, stage,
            device=torch.device("cpu"), bfloat16=False, sharding=Sharding(activation_checkpointing=recomputed),
        )  # fmt: skip
        results = [trainer.step(batch(processor), step, 4).values.tolist() for step in range(3)]
        runs.append((results, dict(trainer.model.named_parameters())))
    (kept, weights), (recomputed, others) = runs
    assert kept == recomputed
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_stage_that_keeps_its_activations_again_wraps_nothing() -> None:
    model, processor = tiny("qwen2_5_vl")
    model = copy.deepcopy(model)
    stage = Stage("x", ("x",), LearningRates(language=1e-3), batch=4, micro_batch=2)
    for recomputed in (True, True, False):
        build_trainer(
            model,
            processor,
            stage,
            device=torch.device("cpu"),
            bfloat16=False,
            sharding=Sharding(activation_checkpointing=recomputed),
        )
        assert all(
            ("forward" in block.__dict__) == recomputed
            for block in fsdp_units(model, processor.family)
        )
        copied = fsdp_units(copy.deepcopy(model), processor.family)
        assert all(block.forward.__self__ is block for block in copied)  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize("family", FAMILIES)
def test_units_are_all_blocks_vision_first(family: str) -> None:
    model, processor = tiny(family)
    names = {id(module): name for name, module in model.named_modules()}
    found = [names[id(unit)] for unit in fsdp_units(model, processor.family)]
    parts = [processor.family.part_of(name + ".") for name in found]
    assert parts == ["vision", "vision", "language", "language"]
    empty = empty_meta_copy(model)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert [unit.__class__ for unit in fsdp_units(empty, processor.family)] == [
        unit.__class__ for unit in fsdp_units(model, processor.family)
    ]


def test_text_only_micro_batches_give_the_vision_tower_no_gradient() -> None:
    model, processor = tiny("internvl")
    stage = replace(
        Stage("x", ("x",), LearningRates(vision=1e-3), batch=2, micro_batch=2, warmup_steps=0)
    )
    trainer = build_trainer(
        copy.deepcopy(model), processor, stage, device=torch.device("cpu"), bfloat16=False
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    result = trainer.step(batch(processor)[::2], 0, 4)
    assert result.loss > 0 and result.norm == 0
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())
