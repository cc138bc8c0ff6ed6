"""The objective of an optimizer step: one interface for cross-entropy, weighted tokens, DFT and
GRPO.

Shapes: N supervised tokens of a micro-batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from lingshu.models.processor import EncodedSample
from lingshu.train.config import Grpo, Objective, Stage

TokenValues = Mapping[str, torch.Tensor]


class SummedLoss(NamedTuple):
    """A loss summed over tokens, and sums over the same tokens that the log shows as means."""

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TokenWeightedLoss:
    """Cross-entropy or DFT, each token times its weight, 1 if it has none."""

    config: Objective
    required_values: ClassVar = ("weight",)

    def loss_sum(
        self, logits_NV: torch.Tensor, targets_N: torch.Tensor, token_values: TokenValues
    ) -> SummedLoss:
        losses_N = functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
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

    def loss_sum(
        self, logits_NV: torch.Tensor, targets_N: torch.Tensor, token_values: TokenValues
    ) -> SummedLoss:
        log_probs_N = policy_log_probs(self.config, logits_NV, targets_N)
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


# A step divides the `loss_sum` of its batch by the sum of `denominator`; `required_values` names the
# token_values of EncodedSample that an objective reads.
Loss = TokenWeightedLoss | ClippedSurrogateLoss


def build_loss(stage: Stage) -> Loss:
    return ClippedSurrogateLoss(stage.grpo) if stage.grpo else TokenWeightedLoss(stage.objective)


def policy_log_probs(
    config: Grpo, logits_NV: torch.Tensor, targets_N: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities (N) at the temperature of sampling: that policy is improved."""
    logits_NV = logits_NV.float() / config.temperature
    return -functional.cross_entropy(logits_NV, targets_N, reduction="none")


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
