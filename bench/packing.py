"""Training tokens a second: packed, padded in groups of similar length, and padded at random, on the same samples.

CPU-seconds of one thread; the median of five rounds, the three ways in turn within each round. Useful tokens are those of samples.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from _record import record, table

from lingshu.core.nouns import Message
from lingshu.models.processor import Encoded
from lingshu.models.spec import PixelBudget, TinyModel
from lingshu.models.tiny import build_tiny
from lingshu.train.config import Rates, Stage
from lingshu.train.plan import best_fit
from lingshu.train.step import Trainer, set_up

SAMPLES, ROUNDS, BATCH, CAPACITY = 128, 5, 16, 1024


def samples(processor: object, rng: np.random.Generator) -> list[Encoded]:
    """Lognormal lengths (median about 90 tokens), six in ten with a 112-pixel image of 16 tokens."""
    from PIL import Image

    made = []
    for words in np.clip(rng.lognormal(np.log(40), 0.9, SAMPLES), 4, 480).astype(int):
        images = []
        if rng.random() < 0.6:
            images = [Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8))]
        question = Message("user", (*range(len(images)), "a " * int(words // 2)))
        tiles = processor.tiles(images)  # pyright: ignore[reportAttributeAccessIssue]
        made.append(processor.encode([question, Message("assistant", ("a " * int(words - words // 2),))], tiles))  # pyright: ignore
    return made


def ways(made: list[Encoded], rng: np.random.Generator) -> dict[str, tuple[bool, Callable[[], Iterator[list[Encoded]]]]]:
    """Name -> (packing, batches of one pass)."""
    order = rng.permutation(len(made)).tolist()
    by_length = sorted(range(len(made)), key=lambda i: len(made[i]))

    def padded(indices: list[int]) -> Iterator[list[Encoded]]:
        for start in range(0, len(indices), BATCH):
            yield [made[i] for i in indices[start : start + BATCH]]

    def packed() -> Iterator[list[Encoded]]:
        for pack in best_fit([len(sample) for sample in made], CAPACITY):
            yield [made[i] for i in pack]

    return {
        "padded, random order": (False, lambda: padded(order)),
        "padded, similar lengths": (False, lambda: padded(by_length)),
        f"packed to {CAPACITY}": (True, packed),
    }


def one_pass(trainer: Trainer, batches: Iterator[list[Encoded]]) -> float:
    begun = time.process_time()
    for batch in batches:
        (trainer.summed_loss(batch).loss / sum(e.supervised for e in batch)).backward()
        trainer.model.zero_grad(set_to_none=True)
    return time.process_time() - begun


def main() -> None:
    torch.set_num_threads(1)
    spec = TinyModel(hidden=256, layers=4, ffn=768, vocabulary=512, side=112)
    model, processor = build_tiny(spec, ["a user assistant"] * 9, budget=PixelBudget(max_pixels=112 * 112), seed=0)
    rng = np.random.default_rng(0)
    made = samples(processor, rng)
    useful = sum(map(len, made))
    stage = Stage("bench", ("x",), Rates(vision=1e-4, projector=1e-4, language=1e-4), batch=BATCH, micro_batch=BATCH)
    found = ways(made, rng)
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS):
        for name, (packing, batches) in found.items():
            trainer = set_up(model, processor, replace(stage, packing=packing), device=torch.device("cpu"), bfloat16=False)
            times[name].append(one_pass(trainer, batches()))
    base = list(found)[-1]
    rows = []
    for name, seconds in times.items():
        ratios = [other / mine for other, mine in zip(seconds, times[base], strict=True)]
        rows.append([name, f"{useful / statistics.median(seconds):,.0f}", f"{statistics.median(ratios):.2f}x"])
    told = (
        f"{SAMPLES} samples, {useful:,} useful tokens, Qwen2.5-VL of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
        f"batches of {BATCH}, forward and backward pass, one thread, median of {ROUNDS} rounds."
    )
    record("packing", "Packing", told + "\n\n" + table(["way", "useful tokens per CPU-second", f"time, against {base}"], rows))
    print(rows)


if __name__ == "__main__":
    main()
