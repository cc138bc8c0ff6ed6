"""What the tests of distributed training run in each process: torchrun ... -m tests.support.distributed_checks
CHECK FOLDER.
"""

from __future__ import annotations

import copy
import resource
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from lingshu.core import config as configuration
from lingshu.core.errors import ArtifactError, StorageError
from lingshu.core.types import Message
from lingshu.models.model_spec import TinyModel
from lingshu.models.processor import EncodedSample, Processor
from lingshu.models.specs import load_shapes
from lingshu.train.checkpoint import list_states
from lingshu.train.config import LearningRates, Objective, Sharding, Stage, TrainConfig
from lingshu.train.distributed import DistributedContext, full_state_dict, init_distributed
from lingshu.train.estimate import estimate_communication
from lingshu.train.loop import StopRequested, train
from lingshu.train.step import Trainer, build_trainer
from tests.support.tiny import FAMILIES, REPRESENTATIVES, SMALL, make_image, tiny

STAGE = Stage(
    "x",
    ("x",),
    LearningRates(1e-3, 1e-3, 1e-3),
    batch=4,
    micro_batch=1,
    warmup_steps=0,
    weight_decay=0.1,
)

WEIGHTS = Objective(normalizer="weights")


def sample(processor: Processor, number: int, *, has_image: bool) -> EncodedSample:
    tiles = processor.tiles([make_image(number)]) if has_image else ()
    question = (0, "Is there a lesion?") if has_image else ("Is there a lesion?",)
    encoded = processor.encode(
        [Message("user", question), Message("assistant", ("yes " * (1 + number % 3),))], tiles
    )
    # Some tokens of some samples are heavier; the batch is divided by the weights, or the tokens,
    # of all processes.
    weights = np.where(np.arange(encoded.supervised) % 2, 1.0, 2.5).astype(np.float32)
    return replace(encoded, token_values={"weight": weights}) if number % 3 else encoded


def batches(processor: Processor) -> list[list[list[EncodedSample]]]:
    """Images in all, some, one process's and none of the micro-batches."""
    kinds = [(1, 1, 1, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1)]
    return [
        [[sample(processor, 10 * step + i, has_image=bool(p))] for i, p in enumerate(kind)]
        for step, kind in enumerate(kinds)
    ]


def pair(
    family: str,
    stage: Stage,
    dist_context: DistributedContext,
    *,
    recompute: bool = False,
    bfloat16: bool = False,
) -> tuple[Trainer, Trainer]:
    """The same model set up alone and sharded."""
    model, processor = tiny(family)
    single = build_trainer(
        copy.deepcopy(model), processor, stage, device=dist_context.device, bfloat16=bfloat16
    )
    sharding = Sharding(activation_checkpointing=recompute)
    model_copy = copy.deepcopy(model)
    sharded = build_trainer(
        model_copy,
        processor,
        stage,
        device=dist_context.device,
        bfloat16=bfloat16,
        dist_context=dist_context,
        sharding=sharding,
    )
    return single, sharded


def vision(trainer: Trainer, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: tensor.clone()
        for name, tensor in state.items()
        if trainer.processor.family.part_of(name) == "vision"
    }


def steps(dist_context: DistributedContext, folder: Path) -> None:
    """Losses do not depend on the number of processes, whoever has the images, packed or padded,
    recomputed or kept.
    """
    del folder
    variants = (
        (replace(STAGE, packing=True, objective=WEIGHTS), True),
        (STAGE, False),
        (replace(STAGE, learning_rates=LearningRates(vision=1e-3)), False),
    )
    for family in FAMILIES:
        for stage, recompute in variants if family in REPRESENTATIVES[:1] else variants[:1]:
            single, sharded = pair(family, stage, dist_context, recompute=recompute)
            towers = []
            for step, batch in enumerate(batches(single.processor)):
                expected = single.step(batch, step, 10)
                result = sharded.step(dist_context.shard_batch(batch, 1), step, 10)
                assert result.loss == pytest.approx(expected.loss, rel=1e-6), (family, step)
                assert result.norm == pytest.approx(expected.norm, rel=1e-5), (family, step)
                if step >= 2:
                    towers.append(vision(sharded, full_state_dict(sharded.model)))
            if dist_context.is_main:
                # Without an image nothing of the tower moves, by decay or momentum either.
                assert all(
                    torch.equal(tensor, towers[1][name]) for name, tensor in towers[0].items()
                ), family
                assert not any(
                    torch.equal(tensor, towers[2][name])
                    for name, tensor in towers[1].items()
                    if tensor.ndim > 1
                ), family


def non_finite_steps(dist_context: DistributedContext, folder: Path) -> None:
    """A loss that is no number in one process is skipped by all of them, to the last bit."""
    del folder
    _, sharded = pair("qwen2_5_vl", STAGE, dist_context)
    batch = batches(sharded.processor)[0]
    sharded.step(dist_context.shard_batch(batch, 1), 0, 9)
    before = full_state_dict(sharded.model)
    local_batch = dist_context.shard_batch(batch, 1)
    if dist_context.rank == 1:
        local_batch[0] = [
            replace(
                local_batch[0][0],
                token_values={"weight": np.full(local_batch[0][0].supervised, np.nan, np.float32)},
            )
        ]
    result = sharded.step(local_batch, 1, 9)
    assert not np.isfinite(result.loss)
    after = full_state_dict(sharded.model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert np.isfinite(sharded.step(dist_context.shard_batch(batch, 1), 2, 9).loss)


def half_precision(dist_context: DistributedContext, folder: Path) -> None:
    """bfloat16 through FSDP's mixed precision stays near autocast's."""
    del folder
    for family in REPRESENTATIVES:
        single, sharded = pair(family, STAGE, dist_context, bfloat16=True)
        for step, batch in enumerate(batches(single.processor)):
            expected, result = (
                single.step(batch, step, 10),
                sharded.step(dist_context.shard_batch(batch, 1), step, 10),
            )
            assert result.loss == pytest.approx(expected.loss, rel=0.01), (family, step)
        assert {p.dtype for p in sharded.model.parameters()} == {torch.float32}


def hybrid(dist_context: DistributedContext, folder: Path) -> None:
    """Two copies of the model over two processes each: the losses of one process, and as many bytes
    as the plan computes, whatever the number of micro-batches.
    """
    del folder
    sizes: Counter[str] = Counter()
    for kind in ("all_gather_single", "reduce_scatter_single", "all_reduce"):
        count_bytes(kind, sizes)
    model, processor = tiny("qwen2_5_vl")
    spec = TinyModel(family="qwen2_5_vl", vocab_size=len(processor.tokenizer), **SMALL)
    for micro_batches in (1, 2):
        stage = replace(STAGE, batch=4 * micro_batches)
        single = build_trainer(
            copy.deepcopy(model), processor, stage, device=dist_context.device, bfloat16=True
        )
        sharded = build_trainer(
            copy.deepcopy(model), processor, stage,
            device=dist_context.device, bfloat16=True,
            dist_context=dist_context, sharding=Sharding(shard_size=2),
        )  # fmt: skip
        batch = [[sample(processor, i, has_image=True)] for i in range(stage.batch)]
        expected = single.step(batch, 0, 10)
        mine = dist_context.shard_batch(batch, 1)
        sizes.clear()
        result = sharded.step(mine, 0, 10)
        assert result.loss == pytest.approx(expected.loss, rel=2e-3)
        assert result.norm == pytest.approx(expected.norm, rel=3e-2)
        plan = estimate_communication(
            stage, load_shapes(spec), 4, shards=2, micro_batches=micro_batches, reduces_once=True
        )
        assert sizes["all_gather_single"] == plan.gathered, (sizes, plan)
        assert sizes["reduce_scatter_single"] == plan.scattered, (sizes, plan)
        # In addition to the gradients a few numbers are summed.
        assert 0 <= sizes["all_reduce"] - plan.summed < 200, (sizes, plan)


def count_bytes(kind: str, sizes: Counter[str]) -> None:
    """Count the bytes of the whole tensor of a collective: what is gathered, or is to be scattered."""
    inner = getattr(distributed, kind)

    def counted(*tensors: torch.Tensor, **options: Any) -> Any:
        named = [options[name] for name in ("output", "input", "output_tensor") if name in options]
        largest = max((t for t in (*tensors, *named) if isinstance(t, torch.Tensor)), key=len)
        sizes[kind] += largest.numel() * largest.element_size()
        return inner(*tensors, **options)

    setattr(distributed, kind, counted)


def runs(dist_context: DistributedContext, folder: Path) -> None:
    """Whole runs: unbroken, stopped by one process and resumed, started by one process
    and resumed by several.
    """
    config = read_config(folder)
    train(config, folder / "two", dist_context=dist_context)
    with pytest.raises(StopRequested, match="step 3 of 6"):
        train(
            config,
            folder / "again",
            dist_context=dist_context,
            stop=stop_at(3, lambda: dist_context.rank == 1),
        )
    train(config, folder / "again", resume=True, dist_context=dist_context)
    train(config, folder / "one_then_two", resume=True, dist_context=dist_context)
    with pytest.raises(StopRequested):
        train(
            config,
            folder / "two_then_one",
            dist_context=dist_context,
            stop=stop_at(3, lambda: True),
        )


def faults(dist_context: DistributedContext, folder: Path) -> None:
    """A disk that is full for one process, and a damaged file of another's state."""
    config, out = read_config(folder), folder / "faulty"

    def fill() -> bool:
        if dist_context.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return False

    with pytest.raises(StorageError, match=r"no space left while writing .*00-00000004"):
        train(config, out, dist_context=dist_context, stop=stop_at(3, fill))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert [state.name for state in list_states(out / "state")] == ["00-00000002"]
    assert not list((out / "state").glob(".*"))
    shard = out / "state" / "00-00000002" / "rank-00001.safetensors"
    original_bytes = shard.read_bytes()
    distributed.barrier()
    if dist_context.rank == 1:
        shard.write_bytes(original_bytes[:-1] + bytes([original_bytes[-1] ^ 1]))
    distributed.barrier()
    with pytest.raises(ArtifactError, match=r"rank-00001.safetensors does not match its sha256"):
        train(config, out, resume=True, dist_context=dist_context)
    distributed.barrier()
    if dist_context.rank == 1:
        shard.write_bytes(original_bytes)
    distributed.barrier()
    train(config, out, resume=True, dist_context=dist_context)


def adapters(dist_context: DistributedContext, folder: Path) -> None:
    """LoRA stages, sharded; the adapters are merged in the first process."""
    train(read_config(folder), folder / "two", dist_context=dist_context)


def validation(dist_context: DistributedContext, folder: Path) -> None:
    """A whole run that is measured on held-out rows and results in its best checkpoint."""
    plain = configuration.read_plain(folder / "validated.yaml")
    config = configuration.from_plain(TrainConfig, plain)
    train(config, folder / "validated_two", dist_context=dist_context)


def stop_at(step: int, callback: Callable[[], bool]) -> Callable[[], bool]:
    """A `stop` that returns what `callback` returns after step `step`, else False."""
    n_calls = 0

    def stop() -> bool:
        nonlocal n_calls
        n_calls += 1
        return n_calls == step and callback()

    return stop


def read_config(folder: Path) -> TrainConfig:
    return configuration.from_plain(TrainConfig, configuration.read_plain(folder / "config.yaml"))


CHECKS = {
    check.__name__: check
    for check in (
        steps,
        non_finite_steps,
        half_precision,
        hybrid,
        runs,
        faults,
        adapters,
        validation,
    )
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    names, run_folder = sys.argv[1].split(","), Path(sys.argv[2])
    with init_distributed("cpu") as context:
        for name in names:
            CHECKS[name](context, run_folder)
