"""A round of reinforcement learning compared with TRL's GRPOTrainer: replies sampled, rewarded,
compared, one update made of them.

PYTHON bench/grpo_round.py [--rounds N]     PYTHON is of an environment with lingshu and trl

8 questions with an image, 8 replies each, on the same untrained tiny Qwen2.5-VL; each side in
a separate process, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
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
from lingshu.models.load import LoadedModel
from lingshu.models.processor import Processor
from lingshu.sources import phantom
from lingshu.train.config import Grpo, LearningRates, Sampler, Stage
from lingshu.train.grpo import GrpoBatches, RewardResult, encode_questions, load_scorer
from lingshu.train.rollout import Rollout, open_rollout_engine
from lingshu.train.step import build_trainer

PROMPTS, NUM_GENERATIONS, WARM, STEPS, ROUNDS = 8, 8, 2, 10, 5
LENGTHS = (8, 16)
KL, LOW, HIGH = 1e-3, 0.2, 0.3
BAR = 2.0
SIDES = [f"{library}-{length}" for length in LENGTHS for library in ("lingshu", "trl")]


def length_reward(text: str) -> float:
    """A reward that differs from reply to reply, so that every group teaches something on either
    side.
    """
    return zlib.crc32(text.encode()) / 2**32


class LengthRewardFeed(GrpoBatches):
    def score_reply(self, sample: Sample, reply: Rollout) -> RewardResult:
        del sample
        return RewardResult(length_reward(reply.text), 1.0, 0.0, reply.finish != "stop", False)


def lingshu_run(
    model: Any, processor: Processor, samples: Sequence[Sample], length: int
) -> dict[str, Any]:
    grpo = Grpo(
        NUM_GENERATIONS, PROMPTS, 1.0, length, KL, LOW, HIGH, sampler=Sampler(batch=PROMPTS)
    )
    learning_rates = LearningRates(vision=1e-5, projector=1e-5, language=1e-5)
    same = {"warmup_steps": 0, "min_lr_ratio": 1.0, "weight_decay": 0.0}
    stage = Stage(
        "bench",
        ("x",),
        learning_rates,
        batch=PROMPTS,
        micro_batch=PROMPTS,
        max_tokens=512,
        grpo=grpo,
        **same,
    )
    trainer = build_trainer(model, processor, stage, device=torch.device("cpu"), bfloat16=False)
    questions = encode_questions(
        samples, processor, instruction="", max_prompt_tokens=256, cache_mb=16
    )

    def encode(sample: Sample) -> Any:
        return processor.encode(sample.messages, questions.cache.tiles(sample.images))

    with tempfile.TemporaryDirectory() as folder:
        rollouts = open_rollout_engine(
            grpo.sampler, trainer, LoadedModel(model, processor, "tiny", ""), encode, Path(folder)
        )
        feed = LengthRewardFeed(
            questions, trainer, rollouts, load_scorer(grpo.reward), seed=0, save=lambda _: None
        )
        batches, total = feed(0), WARM + STEPS
        before, at, tokens = peak_mb(), [], []
        for number in range(total):
            trainer.step(next(batches), number, total)
            at.append(time.process_time())
            tokens.append(feed.metrics["reply_tokens"])
    return step_summary(at, before, tokens)


def peer_run(
    model: Any, processor: Processor, samples: Sequence[Sample], length: int
) -> dict[str, Any]:
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForImageTextToText
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    rows = [
        {"prompt": [{"role": "user", "content": s.messages[0].text}], "images": [image(s)]}
        for s in samples
    ]
    tokens: list[float] = []

    def reward(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        tokens.append(statistics.mean(map(len, completion_ids)))
        return [length_reward(completion[0]["content"]) for completion in completions]

    clock = step_clock()
    with tempfile.TemporaryDirectory() as folder:
        # the reference model is loaded again from where the trained one came from
        model.save_pretrained(folder)
        drawing = {
            "max_completion_length": length,
            "generation_kwargs": {"suppress_tokens": processor.never_sampled},
        }
        rounds = {
            "num_generations": NUM_GENERATIONS,
            "per_device_train_batch_size": PROMPTS * NUM_GENERATIONS,
            "steps_per_generation": 1,
        }
        clipped = {
            "beta": KL,
            "epsilon": LOW,
            "epsilon_high": HIGH,
            "loss_type": "dapo",
            "use_bias_correction_kl": False,
        }
        config = GRPOConfig(
            **quiet_arguments(folder, max_steps=WARM + STEPS, learning_rate=1e-5),
            **drawing,
            **rounds,
            **clipped,
        )
        trainer = GRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(folder),
            args=config,
            reward_funcs=reward,
            train_dataset=Dataset.from_list(rows),
            processing_class=stock_processor(processor),
            callbacks=[clock],
        )
        before = peak_mb()
        trainer.train()
    return step_summary(clock.at, before, tokens)


def step_summary(at: Sequence[float], before: float, tokens: Sequence[float]) -> dict[str, Any]:
    rounds = [end - start for start, end in pairwise(at)]
    return {
        "round_s": statistics.mean(rounds[WARM - 1 :]),
        "tokens": statistics.mean(tokens),
        "before_mb": before,
        "peak_mb": peak_mb(),
    }


def run_side(side: str) -> None:
    library, length = side.split("-")
    # One question about each of eight images; the kinds take turns, so prompts differ in length.
    prompts = list(
        phantom.question_samples(
            0, "train", PROMPTS, kinds=("modality", "lesion", "count", "choice", "open", "report")
        )
    )
    samples = [prompts[6 * image + image % 6] for image in range(PROMPTS)]
    model, processor = tiny(samples)
    print(
        json.dumps(
            (lingshu_run if library == "lingshu" else peer_run)(
                model, processor, samples, int(length)
            )
        )
    )


def main(rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, runs in found.items():
            runs.append(run_in_subprocess(__file__, side, python=sys.executable))
    rows = []
    for length in LENGTHS:
        base = [run["round_s"] for run in found[f"lingshu-{length}"]]
        for library in ("lingshu", "trl"):
            runs = found[f"{library}-{length}"]
            ratio = statistics.median(
                run["round_s"] / mine for run, mine in zip(runs, base, strict=True)
            )
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            memory = [f"{middle['peak_mb']:.0f}", f"{middle['peak_mb'] - middle['before_mb']:.0f}"]
            rows.append(
                [
                    str(length),
                    library,
                    f"{middle['tokens']:.1f}",
                    f"{1000 * middle['round_s']:.0f}",
                    f"{ratio:.2f}x",
                    *memory,
                ]
            )
    words = (
        f"{PROMPTS} questions about one image of 56 x 56 pixels each, {NUM_GENERATIONS} replies to each, one"
        f" update per round over all {PROMPTS * NUM_GENERATIONS}, every part trained in float32"
        " on one thread,"
        f" one forward pass per update. Temperature 1, a reference model with KL {KL:g}, clipping"
        " at"
        f" {LOW} and {HIGH}, the mean over all tokens (TRL's loss_type dapo); rewards are"
        " pseudo-random functions of the reply's text, so every group has an advantage. TRL"
        " generates with transformers and prepares images in each round, its default; lingshu"
        " keeps scaled images"
        f" and computes each prompt once for its {NUM_GENERATIONS} replies. Mean of {STEPS} rounds after"
        f" {WARM} to warm up, each side in a separate process, {rounds} runs in turn, medians."
        f" The target is {BAR}x. {versions()}."
    )
    header = [
        "max tokens",
        "side",
        "tokens per reply",
        "CPU-ms per round",
        "time, against lingshu",
        "peak (MB)",
        "growth while training (MB)",
    ]
    record("grpo_round", "A round of GRPO compared with TRL", words + "\n\n" + table(header, rows))
    print(table(header, rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    if ready():
        run_side(given.side) if given.side else main(given.rounds)
