"""Weighted tokens, DFT and the clipped surrogate: values that can be worked out by hand, and what
must not change a bit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lingshu.core.types import Message
from lingshu.models.processor import EncodedSample
from lingshu.train import objectives
from lingshu.train.config import Grpo, LearningRates, Objective, Stage
from lingshu.train.objectives import (
    ClippedSurrogateLoss,
    TokenWeightedLoss,
    gather_token_values,
    token_log_probs,
)
from lingshu.train.step import build_trainer
from tests.support.tiny import make_image, tiny

CPU = torch.device("cpu")


def some_logits(tokens: int = 6, words: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(tokens, words, generator=generator)
    return logits.requires_grad_(), torch.randint(0, words, (tokens,), generator=generator)


def target_log_probs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def dialogue(answer: str, number: int) -> EncodedSample:
    processor = tiny("qwen2_5_vl")[1]
    tiles = processor.tiles([make_image(number)])
    return processor.encode(
        [Message("user", (0, "Is there a lesion?")), Message("assistant", (answer,))], tiles
    )


@pytest.mark.parametrize("normalizer", ["tokens", "weights"])
def test_weights_of_one_are_plain_cross_entropy_to_the_last_bit(normalizer: str) -> None:
    batch = [dialogue("yes", 1), dialogue("a large lesion on the left", 2)]
    ones = [
        replace(sample, token_values={"weight": np.ones(sample.supervised, np.float32)})
        for sample in batch
    ]
    gradients = []
    for samples, chosen in (
        (batch, Objective()),
        (ones, Objective(normalizer=normalizer)),  # pyright: ignore[reportArgumentType]
    ):
        model, processor = tiny("qwen2_5_vl")
        stage = Stage(
            "x", ("x",), LearningRates(language=1e-3), batch=2, micro_batch=2, objective=chosen
        )
        trainer = build_trainer(model, processor, stage, device=CPU, bfloat16=False)
        model.zero_grad()
        loss = trainer.compute_loss_sum(samples).loss / trainer.loss.denominator(samples)
        loss.backward()
        gradients.append((loss.detach(), model.lm_head.weight.grad.clone()))
        model.zero_grad()
        model.eval()
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_the_normalizer_divides_by_tokens_or_by_weights() -> None:
    logits, targets = some_logits()
    sample = replace(
        dialogue("yes", 1),
        token_values={"weight": np.full(dialogue("yes", 1).supervised, 2.5, np.float32)},
    )
    weights = torch.tensor([1.0, 1.0, 2.5, 1.0, 2.5, 1.0])
    loss_sum = (
        TokenWeightedLoss(Objective())
        .loss_sum(target_log_probs(logits, targets), {"weight": weights})
        .loss
    )
    expected = (functional.cross_entropy(logits, targets, reduction="none") * weights).sum()
    assert float(loss_sum.detach()) == pytest.approx(float(expected.detach()))
    assert TokenWeightedLoss(Objective()).denominator([sample]) == sample.supervised
    assert TokenWeightedLoss(Objective(normalizer="weights")).denominator(
        [sample]
    ) == pytest.approx(2.5 * sample.supervised)


def test_dft_scales_each_token_by_its_own_probability_without_a_gradient_through_it() -> None:
    logits, targets = some_logits()
    loss_sum = (
        TokenWeightedLoss(Objective(loss="dft"))
        .loss_sum(target_log_probs(logits, targets), {})
        .loss
    )
    (gradient,) = torch.autograd.grad(loss_sum, logits)
    log_p = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    p = log_p.exp().detach()
    (expected,) = torch.autograd.grad(-(p * log_p).sum(), logits)
    assert float(loss_sum.detach()) == pytest.approx(float(-(p * log_p).sum().detach()), rel=1e-6)
    assert torch.allclose(gradient, expected, atol=1e-7)


def test_on_the_rounds_own_policy_the_surrogate_is_the_plain_policy_gradient() -> None:
    logits, targets = some_logits()
    log_p = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    advantage = torch.tensor([1.0, 1.0, 1.0, -0.5, -0.5, -0.5])
    token_values = {"advantage": advantage, "old": log_p.detach(), "reference": log_p.detach()}
    loss_sum = ClippedSurrogateLoss(Grpo()).loss_sum(
        target_log_probs(logits, targets), token_values
    )
    (gradient,) = torch.autograd.grad(loss_sum.loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(log_p * advantage).sum(), logits)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert float(loss_sum.metrics["kl"]) == 0 and float(loss_sum.metrics["clipped"]) == 0


def test_ratios_are_clipped_where_they_leave_the_range_in_the_direction_of_their_advantage() -> (
    None
):
    logits, targets = some_logits(4)
    log_p = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1).detach()
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    token_values = {"advantage": advantage, "old": log_p - ratios.log(), "reference": log_p}
    loss_sum = ClippedSurrogateLoss(Grpo(kl=0.0)).loss_sum(
        target_log_probs(logits, targets), token_values
    )
    # 1.5 with a gain is cut at 1.3, 0.5 with a loss at 0.8; the two others count in full.
    assert float(loss_sum.loss.detach()) == pytest.approx(-(1.3 - 1.5 + 0.5 - 0.8), abs=1e-5)
    assert float(loss_sum.metrics["clipped"]) == 2
    (gradient,) = torch.autograd.grad(loss_sum.loss, logits)
    assert (
        gradient[0].abs().max() == 0
        and gradient[3].abs().max() == 0
        and gradient[1].abs().max() > 0
    )


def test_the_penalty_is_the_k3_estimate() -> None:
    logits, targets = some_logits(3)
    log_p = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1).detach()
    token_values = {
        "advantage": torch.zeros(3),
        "old": log_p,
        "reference": log_p + torch.tensor([0.0, 0.7, -0.4]),
    }
    loss_sum = ClippedSurrogateLoss(Grpo(kl=2.0)).loss_sum(
        target_log_probs(logits, targets), token_values
    )
    by_hand = sum(np.exp(d) - d - 1 for d in (0.0, 0.7, -0.4))
    assert float(loss_sum.metrics["kl"]) == pytest.approx(by_hand, rel=1e-5)
    assert float(loss_sum.loss.detach()) == pytest.approx(2 * by_hand, rel=1e-5)


def test_token_values_are_gathered_in_the_order_of_samples_and_missing_weights_count_one() -> None:
    first, second = dialogue("yes", 1), dialogue("no", 2)
    marked = replace(second, token_values={"weight": np.full(second.supervised, 2.0, np.float32)})
    assert gather_token_values(("weight",), [first, second], CPU) == {}
    gathered = gather_token_values(("weight",), [first, marked], CPU)["weight"]
    assert gathered.tolist() == [1.0] * first.supervised + [2.0] * second.supervised


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_log_probabilities_in_blocks_of_the_vocabulary_equal_plain_ones_with_their_gradients(
    monkeypatch: pytest.MonkeyPatch, temperature: float, is_frozen: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 5, generator=generator).requires_grad_()
    weight = torch.randn(23, 5, generator=generator).requires_grad_(not is_frozen)
    targets = torch.tensor([0, 22, 11, 3, 3, 4, 21])
    weights = torch.rand(7, generator=generator)
    learned = [hidden] if is_frozen else [hidden, weight]
    found = []
    for max_logits in (objectives.MAX_LOGITS, 28, 1):  # whole; blocks of 4; of one word
        monkeypatch.setattr(objectives, "MAX_LOGITS", max_logits)
        log_probs = token_log_probs(hidden, weight, targets, temperature=temperature)
        token_values = {"weight": weights}
        loss = TokenWeightedLoss(Objective(loss="dft")).loss_sum(log_probs, token_values).loss
        found.append([log_probs.detach(), *torch.autograd.grad(loss, learned)])
    for in_blocks in found[1:]:
        for one, other in zip(found[0], in_blocks, strict=True):
            assert torch.allclose(one, other, atol=1e-6, rtol=1e-6)


def test_at_a_vocabulary_of_152064_few_logits_exist_at_the_same_time() -> None:
    vocabulary, tokens = 152_064, 256
    sizes: list[int] = []

    class LargestTensor(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    with LargestTensor():
        hidden = torch.zeros(tokens, 8, requires_grad=True)
        weight = torch.zeros(vocabulary, 8, requires_grad=True)
        targets = torch.zeros(tokens, dtype=torch.int64)
        token_log_probs(hidden, weight, targets).sum().backward()
    # 12 bytes a logit are 0.2 GB at any number of tokens.
    assert max(sizes) <= objectives.MAX_LOGITS < tokens * vocabulary / 2
