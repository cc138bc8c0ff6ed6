"""Our numbers compared with TRL's: loss and gradients of supervised tokens, advantages, log-probabilities
and the clipped objective.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lingshu.core.messages import message_to_json, user_turn
from lingshu.core.types import Message, Sample
from lingshu.models.processor import EncodedSample
from lingshu.train.config import Grpo, LearningRates, Stage
from lingshu.train.grpo import advantages, append_replies, log_probabilities
from lingshu.train.step import Trainer, build_trainer
from tests.support.tiny import make_image, tiny

pytestmark = pytest.mark.peers
trl = pytest.importorskip("trl", reason="trl is not installed; bench/_trl.py says how")
datasets = pytest.importorskip("datasets", reason="trl comes with datasets")

RATES = LearningRates(vision=1e-3, projector=1e-3, language=1e-3)
PROMPTS, NUM_GENERATIONS, MAX_REPLY_TOKENS = 3, 4, 7
GRPO = Grpo(
    num_generations=NUM_GENERATIONS,
    rollout_batch_size=PROMPTS,
    temperature=0.9,
    max_reply_tokens=MAX_REPLY_TOKENS,
    kl=1e-3,
    clip_low=0.2,
    clip_high=0.3,
)
TOLERANCE = 1e-5
Gradients = dict[str, torch.Tensor]


def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "_trl", Path(__file__).parents[2] / "bench" / "_trl.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_model() -> Any:
    return copy.deepcopy(tiny("qwen2_5_vl")[0])


def trainer_of(model: Any, *, packing: bool = False, grpo: Grpo | None = None) -> Trainer:
    stage = Stage(
        "x",
        ("x",),
        RATES,
        batch=PROMPTS,
        micro_batch=PROMPTS,
        max_tokens=512,
        packing=packing,
        grpo=grpo,
    )
    return build_trainer(
        model, tiny("qwen2_5_vl")[1], stage, device=torch.device("cpu"), bfloat16=False
    )


def loss_and_gradients(model: Any, loss: torch.Tensor) -> tuple[float, Gradients]:
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def assert_close(one: tuple[float, Gradients], other: tuple[float, Gradients]) -> None:
    assert one[0] == pytest.approx(other[0], abs=TOLERANCE)
    assert one[1].keys() == other[1].keys()
    max_difference = max(float((one[1][name] - other[1][name]).abs().max()) for name in one[1])
    assert max_difference < TOLERANCE < max(float(g.abs().max()) for g in one[1].values())


# --- supervised
# ------------------------------------------------------------------------------------------------------


def dialogues() -> list[tuple[list[Message], Any]]:
    """One turn, three turns and a longer answer, each about a picture of its own size."""
    yes = [user_turn("Is there a lesion?", 1), Message("assistant", ("yes",))]
    several = [
        *yes,
        Message("user", ("left right?",)),
        Message("assistant", ("right",)),
        Message("user", ("ct?",)),
    ]
    several.append(Message("assistant", ("no, an x-ray",)))
    longer = [
        user_turn("You are a helpful assistant.", 1),
        Message("assistant", ("there is a large lesion left and a small lesion right",)),
    ]
    return [
        (messages, make_image(n, 60 + 40 * n, 90))
        for n, messages in enumerate((yes, several, longer))
    ]


def their_batch(trainer: Any) -> dict[str, torch.Tensor]:
    rows = [
        {"messages": [{"role": m.role, "content": m.text} for m in messages], "images": [image]}
        for messages, image in dialogues()
    ]
    return dict(trainer.data_collator(rows))


def sft_trainer(model: Any, folder: Path) -> Any:
    trl_helpers = bench()
    rows = datasets.Dataset.from_list(
        [{"messages": [{"role": "user", "content": "a"}], "images": [make_image(0)]}]
    )
    config = trl.SFTConfig(
        **trl_helpers.quiet_arguments(str(folder)), max_length=None, assistant_only_loss=True
    )
    return trl.SFTTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=trl_helpers.stock_processor(tiny("qwen2_5_vl")[1]),
    )


@pytest.mark.parametrize("packing", [False, True])
def test_supervised_loss_and_gradients_equal_trl_and_stock_transformers(
    packing: bool, tmp_path: Path
) -> None:
    processor = tiny("qwen2_5_vl")[1]
    encoded = [
        processor.encode(messages, processor.tiles([image])) for messages, image in dialogues()
    ]
    theirs = sft_trainer(own_model(), tmp_path)
    batch = their_batch(theirs)
    for row, sample in enumerate(encoded):
        kept = batch["labels"][row][batch["attention_mask"][row] == 1][: len(sample)]
        assert kept.tolist() == sample.labels.tolist()
        assert batch["input_ids"][row][: len(sample)].tolist() == sample.ids.tolist()
    stock = own_model().train()
    expected = loss_and_gradients(stock, stock(**batch).loss)
    count = (batch["labels"][:, 1:] != -100).sum()
    assert_close(
        loss_and_gradients(
            theirs.model, theirs.compute_loss(theirs.model, dict(batch), num_items_in_batch=count)
        ),
        expected,
    )
    ours = trainer_of(own_model(), packing=packing)
    assert_close(
        loss_and_gradients(
            ours.model, ours.compute_loss_sum(encoded).loss / ours.loss.denominator(encoded)
        ),
        expected,
    )


# --- reinforcement
# ---------------------------------------------------------------------------------------------------


# the second group teaches nothing
REWARDS = np.array([[0.0, 1.5, 0.5, 0.5], [1.5, 1.5, 1.5, 1.5], [0.0, 0.0, 0.0, 0.5]])


def questions() -> list[Sample]:
    return [
        Sample(f"q{n}", (user_turn(text, 1),))
        for n, text in enumerate(("Is there a lesion?", "ct?", "left right small large?"))
    ]


def grpo_trainer(folder: Path, **overrides: Any) -> Any:
    """TRL's trainer on a policy and a reference that both start as the tiny model."""
    from transformers import AutoModelForImageTextToText

    trl_helpers, processor = bench(), tiny("qwen2_5_vl")[1]
    tiny("qwen2_5_vl")[0].save_pretrained(folder)
    generation_args = {
        "max_completion_length": MAX_REPLY_TOKENS,
        "temperature": GRPO.temperature,
        "num_generations": NUM_GENERATIONS,
    }
    generation_args["generation_kwargs"] = {"suppress_tokens": processor.never_sampled}
    # The penalty is the plain k3 estimate; two iterations let TRL keep the log-probabilities of the
    # round's start.
    loss_args = {
        "beta": GRPO.kl,
        "epsilon": GRPO.clip_low,
        "epsilon_high": GRPO.clip_high,
        "use_bias_correction_kl": False,
    }
    size_args = {"per_device_train_batch_size": PROMPTS * NUM_GENERATIONS, "num_iterations": 2}
    config = trl.GRPOConfig(
        **(
            trl_helpers.quiet_arguments(str(folder))
            | generation_args
            | loss_args
            | size_args
            | overrides
        )
    )
    return trl.GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(folder),
        args=config,
        reward_funcs=lambda completions, **_: REWARDS.ravel().tolist(),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "a"}], "images": [make_image(0)]}]
        ),
        processing_class=trl_helpers.stock_processor(processor),
    )


def trl_rollouts(trainer: Any) -> dict[str, Any]:
    """What TRL makes of a round: replies, advantages, log-probabilities of the start and of the
    reference.
    """
    torch.manual_seed(0)
    trainer.model.train()
    rows = [
        {
            "prompt": [{"role": "user", "content": sample.messages[0].text}],
            "images": [make_image(n)],
        }
        for n, sample in enumerate(questions())
        for _ in range(NUM_GENERATIONS)
    ]
    return trainer._generate_and_score_completions(rows)


def encode_rollouts(rollouts: dict[str, Any], ours: Trainer) -> list[EncodedSample]:
    """The same replies as samples, with our own advantages."""
    encoded = []
    values = advantages(REWARDS).ravel()
    for row in range(PROMPTS * NUM_GENERATIONS):
        sample = questions()[row // NUM_GENERATIONS]
        tiles = ours.processor.tiles([make_image(row // NUM_GENERATIONS)])
        prompt = ours.processor.encode(sample.messages, tiles)
        assert (
            rollouts["prompt_ids"][row][rollouts["prompt_mask"][row] == 1].tolist()
            == prompt.ids.tolist()
        ), message_to_json(sample.messages[0])
        reply = rollouts["completion_ids"][row][rollouts["completion_mask"][row] == 1].tolist()
        encoded.append(append_replies(prompt, [(reply, float(values[row]))]))
    return encoded


def perturbed(model: Any, seed: int) -> Any:
    """The same model elsewhere: far enough that ratios are clipped on both sides and the penalty
    counts.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return model


def flat(rollouts: dict[str, Any], name: str) -> torch.Tensor:
    return rollouts[name][rollouts["completion_mask"] == 1]


def concat_values(samples: Sequence[EncodedSample], name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([sample.token_values[name] for sample in samples]))


def test_advantages_log_probabilities_loss_and_gradients_of_a_round_equal_trl(
    tmp_path: Path,
) -> None:
    theirs = grpo_trainer(
        tmp_path, loss_type="bnpo", gradient_accumulation_steps=1, steps_per_generation=1
    )
    perturbed(theirs.model, 1)
    rollouts = trl_rollouts(theirs)
    start, reference = own_model(), own_model()
    perturbed(start, 1)
    encoded = encode_rollouts(rollouts, trainer_of(start, grpo=GRPO))
    assert np.abs(rollouts["advantages"].numpy() - advantages(REWARDS).ravel()).max() < TOLERANCE
    encoded = log_probabilities(trainer_of(start, grpo=GRPO), encoded, "old")
    encoded = log_probabilities(trainer_of(reference, grpo=GRPO), encoded, "reference")
    assert (
        float((concat_values(encoded, "old") - flat(rollouts, "old_per_token_logps")).abs().max())
        < TOLERANCE
    )
    assert (
        float(
            (concat_values(encoded, "reference") - flat(rollouts, "ref_per_token_logps"))
            .abs()
            .max()
        )
        < TOLERANCE
    )

    perturbed(theirs.model, 2)
    theirs.current_gradient_accumulation_steps = 1
    expected = loss_and_gradients(theirs.model, theirs.compute_loss(theirs.model, rollouts))
    ours = trainer_of(perturbed(start, 2), grpo=GRPO)
    loss_sum = ours.compute_loss_sum(encoded)
    assert_close(
        loss_and_gradients(ours.model, loss_sum.loss / ours.loss.denominator(encoded)), expected
    )
    metrics = theirs._metrics["train"]
    clipped = metrics["clip_ratio/region_mean"][-1]
    assert 0.05 < clipped < 0.95  # the batch is one on which the clipping matters, on both sides
    assert metrics["clip_ratio/low_mean"][-1] > 0 and metrics["clip_ratio/high_mean"][-1] > 0
    assert float(loss_sum.metrics["kl"]) / ours.loss.denominator(encoded) == pytest.approx(
        metrics["kl"][-1], abs=1e-4
    )
    assert float(loss_sum.metrics["clipped"]) / ours.loss.denominator(encoded) == pytest.approx(
        clipped, abs=TOLERANCE
    )


def test_the_mean_over_a_batch_in_parts_equals_that_of_dapo(tmp_path: Path) -> None:
    theirs = grpo_trainer(
        tmp_path, loss_type="dapo", gradient_accumulation_steps=2, steps_per_generation=2
    )
    rollouts = trl_rollouts(theirs)
    # halves of unlike numbers of tokens
    rollouts["completion_mask"][0, 2:] = rollouts["completion_mask"][5, 4:] = 0
    rollouts["num_items_in_batch"] = rollouts["completion_mask"].sum()
    encoded = encode_rollouts(rollouts, trainer_of(own_model(), grpo=GRPO))
    encoded = log_probabilities(trainer_of(own_model(), grpo=GRPO), encoded, "reference")
    perturbed(theirs.model, 3)
    theirs.current_gradient_accumulation_steps = 2
    half, total, ours_total = PROMPTS * NUM_GENERATIONS // 2, torch.zeros(()), torch.zeros(())
    patches = rollouts["image_grid_thw"].prod(-1)
    cut = int(patches[:half].sum())
    for part in (slice(0, half), slice(half, None)):
        names = (
            "prompt_ids",
            "prompt_mask",
            "completion_ids",
            "completion_mask",
            "advantages",
            "ref_per_token_logps",
            "mm_token_type_ids",
        )
        inputs = {name: rollouts[name][part] for name in (*names, "image_grid_thw")}
        inputs["pixel_values"] = (
            rollouts["pixel_values"][:cut] if part.start == 0 else rollouts["pixel_values"][cut:]
        )
        total = total + theirs.compute_loss(
            theirs.model,
            inputs
            | {"num_images": [1] * half, "num_items_in_batch": rollouts["num_items_in_batch"]},
        )
    ours = trainer_of(perturbed(own_model(), 3), grpo=replace(GRPO))
    for part in (encoded[:half], encoded[half:]):
        ours_total = ours_total + ours.compute_loss_sum(part).loss / ours.loss.denominator(encoded)
    assert_close(
        loss_and_gradients(ours.model, ours_total), loss_and_gradients(theirs.model, total)
    )
