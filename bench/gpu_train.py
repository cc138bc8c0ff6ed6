"""Training speed of Lingshu-7B with random weights on a GPU: stage 2 (captions) and packed stage 3,
in bfloat16.

python bench/gpu_train.py on one GPU: weights, gradients and moments in bfloat16, since float32 ones
of all parameters exceed 80 GB; the products, which take the time, are the same. Under torchrun on
several GPUs: the recipe's own float32 states, sharded. Prints tokens per second, model FLOPs
utilization and peak memory. --tiny runs the same code on a tiny model and a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from _record import record, table
from PIL import Image

from lingshu.core.types import Message
from lingshu.models.base import VisionLanguageFamily
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import EncodedSample, Processor, build_processor
from lingshu.models.specs import build_on_meta, load_shapes
from lingshu.models.tiny import train_tokenizer
from lingshu.recipes.lingshu_7b import recipe
from lingshu.train.batching import best_fit
from lingshu.train.config import Sharding, Stage
from lingshu.train.distributed import DistributedContext, init_distributed
from lingshu.train.estimate import GPUS, estimate_flops, mean_lengths
from lingshu.train.step import Trainer, build_trainer

MODEL = "lingshu-medical-mllm/Lingshu-7B"
TINY = TinyModel(
    hidden=64,
    layers=2,
    heads=2,
    kv_heads=1,
    ffn=128,
    vision_hidden=64,
    vision_layers=2,
    vision_heads=2,
)
WARM_UP, STEPS = 2, 5
META = torch.device("meta")


@dataclass(frozen=True)
class Case:
    """What is measured: a stage, the images' side in pixels, and the median words of a sample."""

    title: str
    stage: Stage
    side: int
    words: int


def cases(*, tiny: bool, processes: int) -> list[Case]:
    """Stage 2 with a caption of some 60 words, stage 3 with dialogues of some 200; images of about
    550 x 550 pixels.
    """
    deep, instruct = recipe().stages[1:]
    longest, side = (512, 112) if tiny else (8192, 560)
    return [
        Case(
            "stage 2, captions",
            replace(deep, batch=8 * processes, micro_batch=8, max_tokens=longest),
            side,
            60,
        ),
        Case(
            f"stage 3, packed to {longest:,}",
            replace(instruct, batch=processes, micro_batch=1, max_tokens=longest),
            side,
            40 if tiny else 200,
        ),
    ]


def random_model(
    name: str | TinyModel, device: torch.device, dtype: torch.dtype
) -> tuple[torch.nn.Module, Processor]:
    """The stock model with random weights and, since a real vocabulary is not at hand, a tokenizer
    of a few words.
    """
    family, empty = build_on_meta(name)
    processor = small_processor(family)
    for key, value in family.token_ids(processor.tokenizer.convert_tokens_to_ids).items():
        setattr(empty.config, key, value)
    torch.manual_seed(0)
    with torch.device(device):
        return type(empty)._from_config(empty.config, dtype=dtype), processor


def small_processor(family: VisionLanguageFamily) -> Processor:
    budget = PixelBudget()
    tokenizer = train_tokenizer(
        family, ["user assistant system You are a helpful assistant. a"] * 9, 512
    )
    return build_processor(family, tokenizer, family.image_processor(budget, 448), budget)


def sequences(processor: Processor, case: Case, number: int) -> list[list[EncodedSample]]:
    """`number` sequences of samples with lognormal numbers of words, an image in each, packed where
    the stage packs.
    """
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (case.side, case.side, 3), dtype=np.uint8))
    tiles = processor.tiles([image])

    def random_sequence() -> EncodedSample:
        words = int(np.clip(rng.lognormal(np.log(case.words), 0.7), 8, case.stage.max_tokens // 4))
        question = Message("user", (0, "a " * (words // 4)))
        return processor.encode(
            [question, Message("assistant", ("a " * (words - words // 4),))], tiles
        )

    if not case.stage.packing:
        return [[random_sequence()] for _ in range(number)]
    sequences_made = [random_sequence()]
    while sum(map(len, sequences_made)) < (number + 1) * case.stage.max_tokens:
        sequences_made.append(random_sequence())
    packs = best_fit(list(map(len, sequences_made)), case.stage.max_tokens)
    return [[sequences_made[i] for i in pack] for pack in packs[:number]]


def measure(
    trainer: Trainer, case: Case, world: DistributedContext, *, steps: int
) -> tuple[float, list[EncodedSample]]:
    """Seconds of one step, over several, and the samples of all processes that a step takes."""
    batch = sequences(trainer.processor, case, case.stage.batch)
    mine = world.shard_batch(batch, case.stage.micro_batch)
    started = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronize(world.device)
            if world.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.monotonic()
        trainer.step(mine, step, WARM_UP + steps)
    synchronize(world.device)
    return (time.monotonic() - started) / steps, [
        sample for sequence in batch for sample in sequence
    ]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_of(device: torch.device) -> float | None:
    """The card's peak in dense bfloat16 FLOP/s, None where it is not on file."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).replace(" ", "-")
    matching = [card for known, card in GPUS.items() if known in name]
    return max(matching, key=lambda card: len(card.name)).peak_flops if matching else None


def rows(world: DistributedContext, *, tiny: bool) -> Iterator[list[str]]:
    name = TINY if tiny else MODEL
    found, peak = load_shapes(name), peak_of(world.device)
    dtype = torch.float32 if world.is_distributed or tiny else torch.bfloat16
    for case in cases(tiny=tiny, processes=world.size):
        # Sharding spreads what the first process holds on its CPU.
        device = (
            world.device
            if not world.is_distributed
            else torch.device("cpu")
            if world.is_main
            else META
        )
        model, processor = random_model(name, device, dtype)
        trainer = build_trainer(
            model, processor, case.stage,
            device=world.device, bfloat16=not tiny, dist_context=world, sharding=Sharding(activation_checkpointing=True),
        )  # fmt: skip
        seconds, samples = measure(trainer, case, world, steps=1 if tiny else STEPS)
        mean = mean_lengths(samples, found.tower.patches_per_token)
        needed = estimate_flops(case.stage, found, mean, recompute=True).model * len(samples)
        utilization = "-" if peak is None else f"{needed / seconds / peak / world.size:.1%}"
        memory = (
            "-"
            if world.device.type != "cuda"
            else f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
        )
        tokens = sum(map(len, samples)) / seconds / world.size
        yield [
            case.title,
            f"{tokens:,.0f}",
            utilization,
            f"{needed / seconds / world.size / 1e12:.3g}",
            memory,
        ]
        del model, trainer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model on the CPU, to see that this script runs"
    )
    tiny = parser.parse_args(arguments).tiny
    if not tiny and not torch.cuda.is_available():
        print("No GPU is at hand; nothing was measured. --tiny runs the same code on a CPU.")
        return
    if tiny:
        torch.set_num_threads(1)
    with init_distributed("cpu" if tiny else "cuda") as world:
        measured = list(rows(world, tiny=tiny))
        if not world.is_main:
            return
        header = [
            "stage",
            "tokens/s a GPU",
            "model FLOPs utilization",
            "TFLOP/s a GPU",
            "peak memory",
        ]
        text = table(header, measured)
        print(text)
        if not tiny:
            card = torch.cuda.get_device_name(world.device)
            states = "float32 states, sharded" if world.is_distributed else "bfloat16 states"
            summary = (
                f"Lingshu-7B with random weights on {world.size} x {card}, {states}, activations"
                f" recomputed, mean of {STEPS} steps."
            )
            record("gpu-training", "Training on a GPU", summary + "\n\n" + text)


if __name__ == "__main__":
    main()
