"""The objective of an optimizer step: log-probabilities of the supervised tokens, and one interface
for cross-entropy, weighted tokens, DFT and GRPO, all of which are functions of these.

Shapes: N supervised tokens of a micro-batch, D width of the model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from lingshu.models.processor import EncodedSample
from lingshu.train.config import Grpo, Objective, Stage

TokenValues = Mapping[str, torch.Tensor]
# Logits that exist at the same time: 12 bytes each, with their softmax and its gradient.
MAX_LOGITS = 1 << 24


def token_log_probs(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The log-probability (N, float32) of each target under the logits of an output head.

    Memory does not grow with N x V: beyond MAX_LOGITS the vocabulary is taken in blocks, forward
    and again in the backward pass. The gradient of the head is a single product for each block, so
    that nothing is rounded between blocks. Under autocast the products are in its type.
    """
    device_type = hidden_ND.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
    with torch.autocast(device_type, enabled=False):
        if len(hidden_ND) * len(weight_VD) <= MAX_LOGITS:
            logits_NV = functional.linear(hidden_ND, weight_VD).float() / temperature
            return -functional.cross_entropy(logits_NV, targets_N, reduction="none")
        log_probs_N: Any = _BlockedLogProbs.apply(hidden_ND, weight_VD, targets_N, temperature)
    return log_probs_N


class _BlockedLogProbs(torch.autograd.Function):
    """`token_log_probs` over blocks of the vocabulary."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        temperature: float,
    ) -> torch.Tensor:
        target_logits_N = hidden_ND.new_zeros(len(hidden_ND), dtype=torch.float32)
        normalizer_N = torch.full_like(target_logits_N, -torch.inf)
        for start in range(0, len(weight_VD), block := _block_size(hidden_ND)):
            rows_KD = weight_VD[start : start + block]
            logits_NK = functional.linear(hidden_ND, rows_KD).float().div_(temperature)
            index_N1, is_here_N1 = _index_in_block(targets_N, start, len(rows_KD))
            here_N = logits_NK.gather(1, index_N1).squeeze(1)
            target_logits_N = torch.where(is_here_N1.squeeze(1), here_N, target_logits_N)
            normalizer_N = torch.logaddexp(normalizer_N, logits_NK.logsumexp(1))
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, normalizer_N)
        ctx.temperature = temperature
        return target_logits_N - normalizer_N

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, normalizer_N = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        scale_N1 = (gradients[0] / ctx.temperature)[:, None]
        grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=torch.float32) if needs_hidden else None
        grad_weight_VD = torch.empty_like(weight_VD) if needs_weight else None
        for start in range(0, len(weight_VD), block := _block_size(hidden_ND)):
            rows_KD = weight_VD[start : start + block]
            logits_NK = functional.linear(hidden_ND, rows_KD).float().div_(ctx.temperature)
            grad_NK = logits_NK.sub_(normalizer_N[:, None]).exp_().mul_(-scale_N1)
            index_N1, is_here_N1 = _index_in_block(targets_N, start, len(rows_KD))
            grad_NK = grad_NK.scatter_add_(1, index_N1, scale_N1 * is_here_N1)
            grad_NK = grad_NK.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND += grad_NK @ rows_KD
            if grad_weight_VD is not None:
                torch.mm(grad_NK.T, hidden_ND, out=grad_weight_VD[start : start + block])
        if grad_hidden_ND is not None:
            grad_hidden_ND = grad_hidden_ND.to(hidden_ND.dtype)
        return grad_hidden_ND, grad_weight_VD, None, None


def _block_size(hidden_ND: torch.Tensor) -> int:
    return max(1, MAX_LOGITS // len(hidden_ND))


def _index_in_block(
    targets_N: torch.Tensor, start: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The index of each target in a block of the vocabulary, and whether it is in there (N x 1)."""
    index_N1 = targets_N[:, None] - start
    return index_N1.clamp(0, size - 1), (index_N1 >= 0) & (index_N1 < size)


class SummedLoss(NamedTuple):
    """A loss summed over tokens, and sums over the same tokens that the log shows as means."""

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TokenWeightedLoss:
    """Cross-entropy or DFT, each token times its weight, 1 if it has none."""

    config: Objective
    required_values: ClassVar = ("weight",)
    temperature: ClassVar = 1.0

    def loss_sum(self, log_probs_N: torch.Tensor, token_values: TokenValues) -> SummedLoss:
        losses_N = -log_probs_N
        if self.config.loss == "dft":
            losses_N = losses_N * (-losses_N.detach()).exp()
        if "weight" in token_values:
            losses_N = losses_N * token_values["weight"]
        return SummedLoss(losses_N.sum(), {})

    def denominator(self, samples: Sequence[EncodedSample]) -> float:
        total = 0.0
        for sample in samples:
            weight = sample.token_values.get("weight")
            if self.config.normalizer == "tokens" or weight is None:
                total += sample.supervised
            else:
                total += weight.sum(dtype=np.float64)
        return float(total)


@dataclass(frozen=True)
class ClippedSurrogateLoss:
    """GRPO: the clipped surrogate with its k3 penalty, a mean over the reply tokens of the batch.

    `old` and `reference` are log-probabilities at the start of the round and of the stage; without
    `old` the learner's own are taken. Source: arXiv 2402.03300, equation 3; asymmetric clipping and
    the mean over tokens as in arXiv 2503.14476.
    """

    config: Grpo
    required_values: ClassVar = ("advantage", "old", "reference")

    @property
    def temperature(self) -> float:
        """That of sampling: that policy is improved."""
        return self.config.temperature

    def loss_sum(self, log_probs_N: torch.Tensor, token_values: TokenValues) -> SummedLoss:
        ratio_N = (log_probs_N - token_values.get("old", log_probs_N.detach())).exp()
        clipped_N = ratio_N.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        unclipped_N = ratio_N * token_values["advantage"]
        surrogate_N = torch.minimum(unclipped_N, clipped_N * token_values["advantage"])
        loss = -surrogate_N.sum()
        metrics = {"clipped": (surrogate_N < unclipped_N).detach().float().sum()}
        if self.config.kl:
            log_ratio_N = token_values["reference"] - log_probs_N
            divergence = (log_ratio_N.exp() - log_ratio_N - 1).sum()
            loss = loss + self.config.kl * divergence
            metrics["kl"] = divergence.detach()
        return SummedLoss(loss, metrics)

    def denominator(self, samples: Sequence[EncodedSample]) -> float:
        return float(sum(sample.supervised for sample in samples))


# `loss_sum` takes log-probabilities at `temperature`. A step divides that of its batch by the sum of
# `denominator`; `required_values` names the token_values of EncodedSample that an objective reads.
Loss = TokenWeightedLoss | ClippedSurrogateLoss


def build_loss(stage: Stage) -> Loss:
    return ClippedSurrogateLoss(stage.grpo) if stage.grpo else TokenWeightedLoss(stage.objective)


def gather_token_values(
    names: Sequence[str], samples: Sequence[EncodedSample], device: torch.device
) -> dict[str, torch.Tensor]:
    """The values of the supervised tokens of a micro-batch, N each, in the order of its samples.

    A value that no sample carries is left out; a sample without one has ones.
    """
    tensors = {}
    for name in names:
        if any(name in sample.token_values for sample in samples):
            rows = [
                sample.token_values[name]
                if name in sample.token_values
                else np.ones(sample.supervised, np.float32)
                for sample in samples
            ]
            tensors[name] = torch.from_numpy(np.concatenate(rows)).to(device)
    return tensors
