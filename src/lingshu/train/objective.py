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

from lingshu.models.processor import Encoded
from lingshu.train.config import Grpo, Objective, Stage


class Summed(NamedTuple):
    """A loss summed over tokens, and other sums over the same tokens that the log shows as means."""

    loss: torch.Tensor
    told: Mapping[str, torch.Tensor]


class Loss(Protocol):
    """An objective. A step divides the sum of `summed` over its whole batch by the sum of `mass`.

    `facts` names what it reads of each token from Encoded.facts.
    """

    @property
    def facts(self) -> tuple[str, ...]: ...
    def summed(
        self, logits_NV: torch.Tensor, targets_N: torch.Tensor, facts: Mapping[str, torch.Tensor]
    ) -> Summed: ...
    def mass(self, samples: Sequence[Encoded]) -> float: ...


def objective(stage: Stage) -> Loss:
    """The objective of a stage."""
    return Clipped(stage.grpo) if stage.grpo else Weighted(stage.objective)


@dataclass(frozen=True)
class Weighted:
    """Cross-entropy or DFT, each token times its weight.

    Tokens without a weight count as 1, to the last bit.
    """

    config: Objective
    facts: tuple[str, ...] = ("weight",)

    def summed(
        self, logits_NV: torch.Tensor, targets_N: torch.Tensor, facts: Mapping[str, torch.Tensor]
    ) -> Summed:
        losses_N = functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
        if self.config.loss == "dft":
            losses_N = losses_N * (-losses_N.detach()).exp()
        if "weight" in facts:
            losses_N = losses_N * facts["weight"]
        return Summed(losses_N.sum(), {})

    def mass(self, samples: Sequence[Encoded]) -> float:
        if self.config.normaliser == "tokens":
            return float(sum(sample.supervised for sample in samples))
        return float(
            sum(
                (
                    sample.facts["weight"].sum(dtype=np.float64)
                    if "weight" in sample.facts
                    else sample.supervised
                )
                for sample in samples
            )
        )


@dataclass(frozen=True)
class Clipped:
    """GRPO: the clipped surrogate with its k3 penalty, a mean over the reply tokens of the whole
    batch.

    `old` and `reference` are log-probabilities of the reply's tokens under the round's start and
    the stage's start. Without `old` the learner's own are taken: a round of one update starts from
    them. Source: arXiv 2402.03300, equation 3; asymmetric clipping and the mean over tokens as in
    arXiv 2503.14476.
    """

    config: Grpo
    facts: tuple[str, ...] = ("advantage", "old", "reference")

    def summed(
        self, logits_NV: torch.Tensor, targets_N: torch.Tensor, facts: Mapping[str, torch.Tensor]
    ) -> Summed:
        # Replies were drawn at this temperature, so the policy that is improved is the one at this
        # temperature.
        logits_NV = logits_NV.float() / self.config.temperature
        now_N = -functional.cross_entropy(logits_NV, targets_N, reduction="none")
        ratio_N = (now_N - facts.get("old", now_N.detach())).exp()
        clipped_N = ratio_N.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        gain_N = torch.minimum(ratio_N * facts["advantage"], clipped_N * facts["advantage"])
        loss = -gain_N.sum()
        told = {"clipped": (gain_N < ratio_N * facts["advantage"]).detach().float().sum()}
        if self.config.kl:
            gap_N = facts["reference"] - now_N
            divergence = (gap_N.exp() - gap_N - 1).sum()
            loss = loss + self.config.kl * divergence
            told["kl"] = divergence.detach()
        return Summed(loss, told)

    def mass(self, samples: Sequence[Encoded]) -> float:
        return float(sum(sample.supervised for sample in samples))


def gather_facts(
    names: Sequence[str], samples: Sequence[Encoded], device: torch.device
) -> dict[str, torch.Tensor]:
    """The facts of a micro-batch's supervised tokens, N each, in the order of its samples.

    A fact that no sample carries is left out; where only some carry a weight, the others' tokens
    weigh 1.
    """
    gathered = {}
    for name in names:
        if any(name in sample.facts for sample in samples):
            rows = [
                (
                    sample.facts[name]
                    if name in sample.facts
                    else np.ones(sample.supervised, np.float32)
                )
                for sample in samples
            ]
            gathered[name] = torch.from_numpy(np.concatenate(rows)).to(device)
    return gathered
