"""What the tests of distributed training run in each process: torchrun ... -m tests.train.ranks
CHECK FOLDER.
"""

from __future__ import annotations

import copy
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from lingshu.core import config as configuration
from lingshu.core.errors import ArtefactError, StorageError
from lingshu.core.nouns import Message
from lingshu.models.processor import Encoded, Processor
from lingshu.models.spec import FamilyName
from lingshu.train.config import Objective, Rates, Sharding, Stage, TrainConfig
from lingshu.train.loop import train
from lingshu.train.shard import whole_state
from lingshu.train.stage import Stopped
from lingshu.train.state import states
from lingshu.train.step import Trainer, set_up
from lingshu.train.world import World, open_world
from tests.tiny import FAMILIES, picture, tiny

STAGE = Stage(
    "x", ("x",), Rates(1e-3, 1e-3, 1e-3), batch=4, micro_batch=1, warmup_steps=0, weight_decay=0.1
)

WEIGHTS = Objective(normaliser="weights")


def sample(processor: Processor, number: int, *, pictured: bool) -> Encoded:
    tiles = processor.tiles([picture(number)]) if pictured else ()
    question = (0, "Is there a lesion?") if pictured else ("Is there a lesion?",)
    made = processor.encode(
        [Message("user", question), Message("assistant", ("yes " * (1 + number % 3),))], tiles
    )
    # Some tokens of some samples are heavier; the batch is divided by the weights, or the tokens,
    # of all processes.
    weights = np.where(np.arange(made.supervised) % 2, 1.0, 2.5).astype(np.float32)
    return replace(made, facts={"weight": weights}) if number % 3 else made


def batches(processor: Processor) -> list[list[list[Encoded]]]:
    """Images in all, some, one process's and none of the micro-batches."""
    kinds = [(1, 1, 1, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1)]
    return [
        [[sample(processor, 10 * step + i, pictured=bool(p))] for i, p in enumerate(kind)]
        for step, kind in enumerate(kinds)
    ]


def pair(
    family: FamilyName,
    stage: Stage,
    world: World,
    *,
    recomputed: bool = False,
    bfloat16: bool = False,
) -> tuple[Trainer, Trainer]:
    """The same model set up alone and sharded."""
    model, processor = tiny(family)
    alone = set_up(copy.deepcopy(model), processor, stage, device=world.device, bfloat16=bfloat16)
    sharding = Sharding(activation_checkpointing=recomputed)
    mine = copy.deepcopy(model)
    sharded = set_up(
        mine,
        processor,
        stage,
        device=world.device,
        bfloat16=bfloat16,
        world=world,
        sharding=sharding,
    )
    return alone, sharded


def vision(trainer: Trainer, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: tensor.clone()
        for name, tensor in state.items()
        if trainer.processor.family.part_of(name) == "vision"
    }


def steps(world: World, folder: Path) -> None:
    """Losses do not depend on the number of processes, whoever has the images, packed or padded,
    recomputed or kept.
    """
    del folder
    for family in FAMILIES:
        for stage, recomputed in (
            (STAGE, False),
            (replace(STAGE, packing=True, objective=WEIGHTS), True),
            (replace(STAGE, rates=Rates(vision=1e-3)), False),
        ):
            alone, sharded = pair(family, stage, world, recomputed=recomputed)
            towers = []
            for step, batch in enumerate(batches(alone.processor)):
                expected = alone.step(batch, step, 10)
                found = sharded.step(world.share(batch, 1), step, 10)
                assert found.loss == pytest.approx(expected.loss, rel=1e-6), (family, step)
                assert found.norm == pytest.approx(expected.norm, rel=1e-5), (family, step)
                if step >= 2:
                    towers.append(vision(sharded, whole_state(sharded.model)))
            if world.first:
                # Without an image nothing of the tower moves, by decay or momentum either.
                assert all(
                    torch.equal(tensor, towers[1][name]) for name, tensor in towers[0].items()
                ), family
                assert not any(
                    torch.equal(tensor, towers[2][name])
                    for name, tensor in towers[1].items()
                    if tensor.ndim > 1
                ), family


def no_numbers(world: World, folder: Path) -> None:
    """A loss that is no number in one process is skipped by all of them, to the last bit."""
    del folder
    _, sharded = pair("qwen2_5_vl", STAGE, world)
    batch = batches(sharded.processor)[0]
    sharded.step(world.share(batch, 1), 0, 9)
    before = whole_state(sharded.model)
    mine = world.share(batch, 1)
    if world.rank == 1:
        mine[0] = [
            replace(
                mine[0][0], facts={"weight": np.full(mine[0][0].supervised, np.nan, np.float32)}
            )
        ]
    result = sharded.step(mine, 1, 9)
    assert not np.isfinite(result.loss)
    after = whole_state(sharded.model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert np.isfinite(sharded.step(world.share(batch, 1), 2, 9).loss)


def half(world: World, folder: Path) -> None:
    """bfloat16 through FSDP's mixed precision stays near autocast's."""
    del folder
    for family in FAMILIES:
        alone, sharded = pair(family, STAGE, world, bfloat16=True)
        for step, batch in enumerate(batches(alone.processor)):
            expected, found = (
                alone.step(batch, step, 10),
                sharded.step(world.share(batch, 1), step, 10),
            )
            assert found.loss == pytest.approx(expected.loss, rel=0.01), (family, step)
        assert {p.dtype for p in sharded.model.parameters()} == {torch.float32}


def runs(world: World, folder: Path) -> None:
    """Whole runs: unbroken, stopped by one process and resumed, begun alone and gone on with
    together.
    """
    config = read(folder)
    train(config, folder / "two", world=world)
    with pytest.raises(Stopped, match="step 3 of 6"):
        train(config, folder / "again", world=world, stop=at(3, lambda: world.rank == 1))
    train(config, folder / "again", resume=True, world=world)
    train(config, folder / "one_then_two", resume=True, world=world)
    with pytest.raises(Stopped):
        train(config, folder / "two_then_one", world=world, stop=at(3, lambda: True))


def faults(world: World, folder: Path) -> None:
    """A disk that is full for one process, and a damaged file of another's state."""
    config, out = read(folder), folder / "faulty"

    def fill() -> bool:
        if world.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return False

    with pytest.raises(StorageError, match=r"no space left while writing .*00-00000004"):
        train(config, out, world=world, stop=at(3, fill))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert [state.name for state in states(out / "state")] == ["00-00000002"]
    assert not list((out / "state").glob(".*"))
    shard = out / "state" / "00-00000002" / "rank-00001.safetensors"
    good = shard.read_bytes()
    distributed.barrier()
    if world.rank == 1:
        shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    distributed.barrier()
    with pytest.raises(ArtefactError, match=r"rank-00001.safetensors does not match its sha256"):
        train(config, out, resume=True, world=world)
    distributed.barrier()
    if world.rank == 1:
        shard.write_bytes(good)
    distributed.barrier()
    train(config, out, resume=True, world=world)


def adapters(world: World, folder: Path) -> None:
    """LoRA stages, sharded; the adapters are merged in the first process."""
    train(read(folder), folder / "two", world=world)


def at(step: int, work: Callable[[], bool]) -> Callable[[], bool]:
    """A question asked after each step: what `work` says after step `step`, no otherwise."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == step and work()

    return stop


def read(folder: Path) -> TrainConfig:
    return configuration.from_plain(TrainConfig, configuration.read_plain(folder / "config.yaml"))


CHECKS = {check.__name__: check for check in (steps, no_numbers, half, runs, faults, adapters)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    names, place = sys.argv[1].split(","), Path(sys.argv[2])
    with open_world("cpu") as joined:
        for name in names:
            CHECKS[name](joined, place)
