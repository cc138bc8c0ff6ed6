"""One supervised optimizer step compared with TRL's SFTTrainer: CPU time, peak memory, and that both
compute the same.

PYTHON bench/sft_step.py [--rounds N]       PYTHON is of an environment with lingshu and trl

Every side runs in a separate process, in turn, on one thread: the same tiny Qwen2.5-VL, the same
batch of 32 phantoms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from _record import record, table
from _trl import (
    image,
    peak_mb,
    quiet_arguments,
    ready,
    run_in_subprocess,
    step_clock,
    stock_processor,
    tiny,
    versions,
)

from lingshu.core.types import Sample
from lingshu.models.processor import Processor
from lingshu.sources import phantom
from lingshu.train.batching import supervised_batches
from lingshu.train.config import LearningRates, Stage
from lingshu.train.data import encode_training_samples
from lingshu.train.step import build_trainer

BATCH, WARM, STEPS, ROUNDS = 32, 5, 30, 5
BAR = 1.5
SIDES = {
    "ours": "lingshu, padded rows; scaled images kept as bytes, normalized in each step",
    "ours_packed": "lingshu, packed into one row; images as above",
    "trl_ready": (
        "TRL, pixel values and token ids ready in memory, padding and stacking in each step"
    ),
    "trl": "TRL by default: images decoded, scaled and text tokenized in each step",
}


def stage(*, packing: bool) -> Stage:
    learning_rates = LearningRates(vision=1e-4, projector=1e-4, language=1e-4)
    same = {"warmup_steps": 0, "min_lr_ratio": 1.0, "weight_decay": 0.0, "steps": WARM + STEPS}
    if packing:
        return Stage(
            "bench",
            ("x",),
            learning_rates,
            batch=1,
            micro_batch=1,
            packing=True,
            max_tokens=1 << 14,
            **same,
        )
    return Stage("bench", ("x",), learning_rates, batch=BATCH, micro_batch=BATCH, **same)


def lingshu_run(
    model: Any, processor: Processor, samples: Sequence[Sample], *, packing: bool
) -> dict[str, Any]:
    stage_config = stage(packing=packing)
    data = encode_training_samples(
        samples, processor, max_tokens=stage_config.max_tokens, cache_mb=64
    )
    batches = supervised_batches(data, stage_config, 0)(0)
    trainer = build_trainer(
        model, processor, stage_config, device=torch.device("cpu"), bfloat16=False
    )
    before, at, losses = peak_mb(), [], []
    for number in range(WARM + STEPS):
        losses.append(trainer.step(next(batches), number, WARM + STEPS).loss)
        at.append(time.process_time())
    found = step_summary(at, before)
    samples_used = [sample for sequence in next(batches) for sample in sequence]
    with torch.no_grad():
        last = float(trainer.compute_loss_sum(samples_used).loss) / sum(
            sample.supervised for sample in samples_used
        )
    return found | {"first": losses[0], "last": last}


def peer_run(
    model: Any, processor: Processor, samples: Sequence[Sample], *, prepared: bool
) -> dict[str, Any]:
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    rows = [{"messages": messages(sample), "images": [image(sample)]} for sample in samples]
    clock = step_clock()
    with tempfile.TemporaryDirectory() as folder:
        length = {
            "max_length": None,
            "assistant_only_loss": True,
            "per_device_train_batch_size": BATCH,
        }
        config = SFTConfig(**quiet_arguments(folder, max_steps=WARM + STEPS, **length))
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=stock_processor(processor),
            callbacks=[clock],
        )
        if prepared:
            trainer.data_collator = from_memory(trainer.data_collator, rows)
        model.train()
        first = loss_of(trainer, rows)
        before = peak_mb()
        trainer.train()
        found = step_summary(clock.at, before)
        return found | {"first": first, "last": loss_of(trainer, rows)}


def messages(sample: Sample) -> list[dict[str, str]]:
    return [
        {"role": m.role, "content": "".join(p for p in m.parts if isinstance(p, str))}
        for m in sample.messages
    ]


def from_memory(collate: Callable[..., Any], rows: list[dict[str, Any]]) -> Callable[..., Any]:
    """A collator that has encoded every sample beforehand, by TRL's own, and only pads and stacks."""
    ready_made = {json.dumps(row["messages"]): dict(collate([dict(row)])) for row in rows}
    fill = {"input_ids": 0, "attention_mask": 0, "mm_token_type_ids": 0, "labels": -100}

    def stack(examples: list[dict[str, Any]]) -> dict[str, Any]:
        made = [ready_made[json.dumps(example["messages"])] for example in examples]
        return {
            name: (
                torch.nn.utils.rnn.pad_sequence(
                    [m[name][0] for m in made], batch_first=True, padding_value=fill[name]
                )
                if name in fill
                else torch.cat([m[name] for m in made])
            )
            for name in made[0]
        }

    return stack


def loss_of(trainer: Any, rows: list[dict[str, Any]]) -> float:
    """The loss of the whole batch under the present weights; TRL divides by the batch's supervised
    tokens.
    """
    batch = dict(trainer.data_collator([dict(row) for row in rows]))
    with torch.no_grad():
        return float(
            trainer.compute_loss(
                trainer.model, batch, num_items_in_batch=(batch["labels"][:, 1:] != -100).sum()
            )
        )


def step_summary(at: Sequence[float], before: float) -> dict[str, Any]:
    steps = [end - start for start, end in pairwise(at)]
    return {"step_s": statistics.mean(steps[WARM - 1 :]), "before_mb": before, "peak_mb": peak_mb()}


def run_side(side: str) -> None:
    samples = list(phantom.training_samples(0, BATCH, "instruct"))
    model, processor = tiny(samples)
    if side.startswith("ours"):
        found = lingshu_run(model, processor, samples, packing=side == "ours_packed")
    else:
        found = peer_run(model, processor, samples, prepared=side == "trl_ready")
    print(json.dumps(found))


def main(rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, runs in found.items():
            runs.append(run_in_subprocess(__file__, side, python=sys.executable))
    off = {
        at: spread([run[at] for runs in found.values() for run in runs]) for at in ("first", "last")
    }
    assert off["first"] < 1e-5 and off["last"] < 1e-3, f"the sides disagree about the loss: {found}"
    rows = []
    for side, what in SIDES.items():
        seconds = [run["step_s"] for run in found[side]]
        against = [
            statistics.median(
                s / run["step_s"] for s, run in zip(seconds, found[base], strict=True)
            )
            for base in ("ours", "ours_packed")
        ]
        memory = statistics.median(run["peak_mb"] for run in found[side])
        memory_growth_mb = statistics.median(
            run["peak_mb"] - run["before_mb"] for run in found[side]
        )
        cells = [
            f"{1000 * statistics.median(seconds):.0f}",
            *(f"{ratio:.2f}x" for ratio in against),
            f"{memory:.0f}",
            f"{memory_growth_mb:.0f}",
        ]
        rows.append([what, *cells])
    words = (
        f"A batch of {BATCH} phantom dialogues with one image of 56 x 56 pixels each, Qwen2.5-VL of"
        " the quickstart's size, every part trained by AdamW in float32 on one thread, one forward"
        f" pass per step, no activation recomputation. Mean of {STEPS} steps after {WARM} to warm"
        f" up, each side in a separate process, {rounds} rounds in turn, medians; memory is the"
        " process's peak, imports included. Both sides compute the same loss before the first step"
        f" (within {off['first']:.0e}) and after the last (within {off['last']:.0e}). The target is"
        f" {BAR}x. {versions()}."
    )
    header = [
        "side",
        "CPU-ms per step",
        "time, against padded lingshu",
        "against packed lingshu",
        "peak (MB)",
        "growth while training (MB)",
    ]
    record("sft_step", "A supervised step compared with TRL", words + "\n\n" + table(header, rows))
    print(table(header, rows))


def spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    if ready():
        run_side(given.side) if given.side else main(given.rounds)
