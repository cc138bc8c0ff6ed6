"""What an optimiser step makes small: one interface for cross-entropy, weighted tokens, DFT and
GRPO.

Shapes: N supervised tokens of a micro-batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional

from lingshu.models.processor import EncodedSample
from lingshu.train.config import Grpo, Objective, Stage


class SummedLoss(NamedTuple):
    """A loss summed over tokens, and other sums over the same tokens that the log shows as means."""

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor]


class Loss(Protocol):
    """An objective. A step divides the sum of `summed` over its whole batch by the sum of `mass`.

    `facts` names what it reads of each token from Encoded.facts.
    """

    @property
    def required_values(self) -> tuple[str, ...]: ...
    def loss_sum(
        self,
        logits_NV: torch.Tensor,
        targets_N: torch.Tensor,
        token_values: Mapping[str, torch.Tensor],
    ) -> SummedLoss: ...
    def denominator(self, samples: Sequence[EncodedSample]) -> float: ...


def build_loss(stage: Stage) -> Loss:
    """The objective of a stage."""
    return ClippedSurrogateLoss(stage.grpo) if stage.grpo else TokenWeightedLoss(stage.objective)


@dataclass(frozen=True)
class TokenWeightedLoss:
    """Cross-entropy or DFT, each token times its weight.

    Tokens without a weight count as 1, to the last bit.
    """

    config: Objective
    required_values: tuple[str, ...] = ("weight",)

    def loss_sum(
        self,
        logits_NV: torch.Tensor,
        targets_N: torch.Tensor,
        token_values: Mapping[str, torch.Tensor],
    ) -> SummedLoss:
        losses_N = functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
        if self.config.loss == "dft":
            losses_N = losses_N * (-losses_N.detach()).exp()
        if "weight" in token_values:
            losses_N = losses_N * token_values["weight"]
        return SummedLoss(losses_N.sum(), {})

    def denominator(self, samples: Sequence[EncodedSample]) -> float:
        if self.config.normalizer == "tokens":
            return float(sum(sample.supervised for sample in samples))
        return float(
            sum(
                (
                    sample.token_values["weight"].sum(dtype=np.float64)
                    if "weight" in sample.token_values
                    else sample.supervised
                )
                for sample in samples
            )
        )


@dataclass(frozen=True)
class ClippedSurrogateLoss:
    """GRPO: the clipped surrogate with its k3 penalty, a mean over the reply tokens of the whole
    batch.

    `old` and `reference` are log-probabilities of the reply's tokens under the round's start and
    the stage's start. Without `old` the learner's own are taken: a round of one update starts from
    them. Source: arXiv 2402.03300, equation 3; asymmetric clipping and the mean over tokens as in
    arXiv 2503.14476.
    """

    config: Grpo
    required_values: tuple[str, ...] = ("advantage", "old", "reference")

    def loss_sum(
        self,
        logits_NV: torch.Tensor,
        targets_N: torch.Tensor,
        token_values: Mapping[str, torch.Tensor],
    ) -> SummedLoss:
        # Replies were drawn at this temperature, so the policy that is improved is the one at this
        # temperature.
        logits_NV = logits_NV.float() / self.config.temperature
        log_probs_N = -functional.cross_entropy(logits_NV, targets_N, reduction="none")
        ratio_N = (log_probs_N - token_values.get("old", log_probs_N.detach())).exp()
        clipped_N = ratio_N.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        surrogate_N = torch.minimum(
            ratio_N * token_values["advantage"], clipped_N * token_values["advantage"]
        )
        loss = -surrogate_N.sum()
        metrics = {
            "clipped": (surrogate_N < ratio_N * token_values["advantage"]).detach().float().sum()
        }
        if self.config.kl:
            log_ratio_N = token_values["reference"] - log_probs_N
            divergence = (log_ratio_N.exp() - log_ratio_N - 1).sum()
            loss = loss + self.config.kl * divergence
            metrics["kl"] = divergence.detach()
        return SummedLoss(loss, metrics)

    def denominator(self, samples: Sequence[EncodedSample]) -> float:
        return float(sum(sample.supervised for sample in samples))


def gather_token_values(
    names: Sequence[str], samples: Sequence[EncodedSample], device: torch.device
) -> dict[str, torch.Tensor]:
    """The facts of a micro-batch's supervised tokens, N each, in the order of its samples.

    A fact that no sample carries is left out; where only some carry a weight, the others' tokens
    weigh 1.
    """
    tensors = {}
    for name in names:
        if any(name in sample.token_values for sample in samples):
            rows = [
                (
                    sample.token_values[name]
                    if name in sample.token_values
                    else np.ones(sample.supervised, np.float32)
                )
                for sample in samples
            ]
            tensors[name] = torch.from_numpy(np.concatenate(rows)).to(device)
    return tensors
