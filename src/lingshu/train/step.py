"""One optimiser step: what is trained, at which rate, and the loss over the whole batch.

Shapes: B micro-batch, L tokens, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import functional

from lingshu.core.nouns import Message
from lingshu.models.packed import collate_pack, hidden_states, segment_attention
from lingshu.models.processor import IGNORED, Encoded, Processor
from lingshu.models.spec import PARTS
from lingshu.train.adapters import is_adapter
from lingshu.train.config import Sharding, Stage
from lingshu.train.objective import Loss, Summed, gather_facts, objective
from lingshu.train.shard import recompute, shard, units
from lingshu.train.world import ALONE, World

WHOLE = Sharding()


class StepResult(NamedTuple):
    """The mean loss, the gradient norm before clipping, and what else the objective tells, as means
    over tokens.
    """

    loss: float
    norm: float
    told: Mapping[str, float]


class Scorer(nn.Module):
    """A model's forward pass up to the logits of chosen positions: one call, because sharding acts
    on calls.

    Logits are made for those positions only: with a vocabulary of 152,064 they are most of the
    memory.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Mapping[str, torch.Tensor],
        chosen_BL: torch.Tensor,
        segments: Sequence[int] | None,
    ) -> torch.Tensor:
        if segments is not None:
            hidden_BLD = hidden_states(self.model, dict(inputs), segments)
        else:
            hidden_BLD = self.model.model(**inputs, use_cache=False).last_hidden_state
        return self.model.lm_head(hidden_BLD[chosen_BL])


@dataclass(frozen=True)
class Trainer:
    """A model set up for one stage; `peaks` holds the peak rate of each of the optimiser's groups.

    `scorer` is the forward pass of `model`, sharded where torchrun started several processes.
    `blank` is a turn with a small picture, None in a world of one.
    """

    model: Any
    scorer: Scorer
    processor: Processor
    stage: Stage
    loss: Loss
    optimizer: torch.optim.Optimizer
    peaks: tuple[float, ...]
    device: torch.device
    bfloat16: bool
    world: World = ALONE
    blank: Encoded | None = None

    def step(self, batch: Sequence[Sequence[Encoded]], number: int, total: int) -> StepResult:
        """Take step `number` of `total`.

        `batch` holds this process's sequences, each of them one sample, or several in a stage that
        packs. The loss is a mean over the batches of all processes. A loss or gradient that is no
        number changes nothing anywhere: the optimiser's step is left out.
        """
        share = rate_share(number, total, self.stage)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        cut = [
            [e for sequence in micro for e in sequence]
            for micro in micro_batches(batch, self.stage.micro_batch)
        ]
        mass = self.loss.mass([e for micro in cut for e in micro])
        mass, *pictured = self.world.sum(
            [mass, *(float(any(e.tiles for e in micro)) for micro in cut)]
        )
        loss, told = 0.0, dict[str, float]()
        for micro, anywhere in zip(cut, pictured, strict=True):
            summed = self._backward(self.level(micro) if anywhere else micro, mass)
            loss += float(summed.loss.detach())
            for name, value in summed.told.items():
                told[name] = told.get(name, 0.0) + float(value)
        loss, *values = self.world.sum([loss, *told.values()])
        norm = self._clip()
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(
            loss / mass,
            norm,
            {name: value / mass for name, value in zip(told, values, strict=True)},
        )

    def level(self, micro: Sequence[Encoded]) -> Sequence[Encoded]:
        """The micro-batch, with a picture in it: sharded vision blocks are gathered by all
        processes or by none.

        The blank turn stands behind the shortest sample, where no token before it sees it and
        nothing is learnt from it.
        """
        if self.blank is None or any(e.tiles for e in micro):
            return micro
        place = min(range(len(micro)), key=lambda i: len(micro[i]))
        return [*micro[:place], followed(micro[place], self.blank), *micro[place + 1 :]]

    def _backward(self, micro: Sequence[Encoded], mass: float) -> Summed:
        # Activations that are computed anew in the backward pass have to meet the same attention.
        with segment_attention(self.model) if self.stage.packing else nullcontext():
            summed = self.summed_loss(micro)
            # Where only the tower is trained, words alone teach nothing.
            if summed.loss.requires_grad:
                (summed.loss / mass).backward()
            elif isinstance(self.scorer, FSDPModule):
                self.scorer.reshard()
        return summed

    def _clip(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def summed_loss(self, samples: Sequence[Encoded]) -> Summed:
        """The objective summed over the supervised tokens of a micro-batch."""
        logits_NV, targets_N = self.logits(samples)
        return self.loss.summed(
            logits_NV, targets_N, gather_facts(self.loss.facts, samples, self.device)
        )

    def logits(self, samples: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N x V) and targets (N) of the supervised tokens: from padded rows, or from one
        row when packing.
        """
        if self.stage.packing:
            pack = collate_pack(self.processor, samples)
            inputs, labels_BL, segments = (
                self._moved(pack.inputs),
                pack.labels.to(self.device),
                pack.segments,
            )
        else:
            inputs, segments = self._moved(self.processor.collate(samples, pad="right")), None
            labels_BL = inputs.pop("labels")
        target_BL = functional.pad(labels_BL[:, 1:], (0, 1), value=IGNORED)
        chosen_BL = target_BL != IGNORED
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits_NV = self.scorer(inputs, chosen_BL, segments)
        if not torch.is_grad_enabled() and isinstance(self.scorer, FSDPModule):
            # it awaits a backward pass and would go on with gathered weights that no step changes
            self.scorer.reshard()
        return logits_NV, target_BL[chosen_BL]

    def _moved(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}


def followed(sample: Encoded, turn: Encoded) -> Encoded:
    """A sample with another's tokens and images behind it, none of them supervised."""
    positions = None
    if sample.positions is not None and turn.positions is not None:
        positions = np.concatenate(
            [sample.positions, turn.positions + sample.positions.max() + 1], axis=1
        )
    return replace(
        sample,
        ids=np.concatenate([sample.ids, turn.ids]),
        labels=np.concatenate([sample.labels, np.full_like(turn.labels, IGNORED)]),
        is_image=np.concatenate([sample.is_image, turn.is_image]),
        positions=positions,
        tiles=(*sample.tiles, *turn.tiles),
        branches=(*sample.branches, len(turn)) if sample.branches else (),
    )


def blank_turn(processor: Processor) -> Encoded:
    """A turn that shows the smallest picture there is."""
    return processor.encode([Message("user", (0,))], processor.tiles([Image.new("RGB", (28, 28))]))


def micro_batches(
    batch: Sequence[Sequence[Encoded]], size: int
) -> Iterator[Sequence[Sequence[Encoded]]]:
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


def rate_share(number: int, total: int, stage: Stage) -> float:
    """The share of the peak rate at step `number` (from 0): linear warm-up, then a cosine down to
    `final_rate`.
    """
    warmup = min(stage.warmup_steps, total // 2)
    if number < warmup:
        return (number + 1) / warmup
    progress = (number - warmup) / max(1, total - warmup)
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def set_up(
    model: Any,
    processor: Processor,
    stage: Stage,
    *,
    device: torch.device,
    bfloat16: bool,
    world: World = ALONE,
    sharding: Sharding = WHOLE,
) -> Trainer:
    """Freeze what the stage freezes, shard over a world that torchrun started, and build AdamW with
    one rate per part.

    There is no weight decay on vectors (norms, biases).
    """
    family = processor.family
    trained = freeze(model, processor, stage)
    recompute(units(model, family), on=sharding.activation_checkpointing)
    scorer = Scorer(model)
    if world.sharded:
        shard(
            scorer, model, family, world=world, bfloat16=bfloat16, cpu_offload=sharding.cpu_offload
        )
    groups: list[dict[str, Any]] = []
    peaks: list[float] = []
    for part in PARTS:
        parameters = [
            p
            for name, p in model.named_parameters()
            if name in trained and family.part_of(name) == part
        ]
        for decayed in (True, False):
            members = [p for p in parameters if (p.ndim > 1) == decayed]
            if members:
                groups.append(
                    {"params": members, "weight_decay": stage.weight_decay if decayed else 0.0}
                )
                peaks.append(getattr(stage.rates, part))
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=stage.betas, fused=True)
    model.train()
    blank = blank_turn(processor) if world.size > 1 else None
    return Trainer(
        model,
        scorer,
        processor,
        stage,
        objective(stage),
        optimizer,
        tuple(peaks),
        device,
        bfloat16,
        world,
        blank,
    )


def freeze(model: Any, processor: Processor, stage: Stage) -> set[str]:
    """Let the parameters learn that the stage trains, and no other; their names."""
    trained = set()
    for name, parameter in model.named_parameters():
        part = processor.family.part_of(name)
        # Beside an adapter nothing of its part is trained, the layers that have none included.
        held = stage.lora is not None and part in stage.lora.parts and not is_adapter(name)
        learns = not held and getattr(stage.rates, part) is not None
        parameter.requires_grad_(learns)
        if learns:
            trained.add(name)
    return trained
