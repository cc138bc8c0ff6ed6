"""One optimiser step: what is trained, at which rate, and the loss over the whole batch.

Shapes: B micro-batch, L tokens, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from lingshu.models.packed import collate_pack, hidden_states
from lingshu.models.processor import IGNORED, Encoded, Processor
from lingshu.models.spec import PARTS
from lingshu.train.adapters import is_adapter
from lingshu.train.config import Stage
from lingshu.train.objective import Loss, Summed, gather_facts, objective


class StepResult(NamedTuple):
    """The mean loss, the gradient norm before clipping, and what else the objective tells, as means over tokens."""

    loss: float
    norm: float
    told: Mapping[str, float]


@dataclass(frozen=True)
class Trainer:
    """A model set up for one stage; `peaks` holds the peak rate of each of the optimiser's groups."""

    model: Any
    processor: Processor
    stage: Stage
    loss: Loss
    optimizer: torch.optim.Optimizer
    peaks: tuple[float, ...]
    device: torch.device
    bfloat16: bool

    def step(self, batch: Sequence[Sequence[Encoded]], number: int, total: int) -> StepResult:
        """Take step `number` of `total`.

        `batch` holds sequences, each of them one sample, or several in a stage that packs. A loss or gradient that is no
        number changes nothing: the optimiser's step is left out.
        """
        share = rate_share(number, total, self.stage)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        mass = self.loss.mass([e for sequence in batch for e in sequence])
        loss, told = 0.0, dict[str, float]()
        for micro in micro_batches(batch, self.stage.micro_batch):
            summed = self.summed_loss([e for sequence in micro for e in sequence])
            (summed.loss / mass).backward()
            loss += float(summed.loss.detach())
            for name, value in summed.told.items():
                told[name] = told.get(name, 0.0) + float(value) / mass
        norm = float(torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], self.stage.clip_norm))
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss / mass, norm, told)

    def summed_loss(self, samples: Sequence[Encoded]) -> Summed:
        """The objective summed over the supervised tokens of a micro-batch."""
        logits_NV, targets_N = self.logits(samples)
        return self.loss.summed(logits_NV, targets_N, gather_facts(self.loss.facts, samples, self.device))

    def logits(self, samples: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N x V) and targets (N) of the supervised tokens: from padded rows, or from one row when packing.

        Logits are made for supervised positions only: with a vocabulary of 152,064 they are most of the memory.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            if self.stage.packing:
                pack = collate_pack(self.processor, samples)
                labels_BL = pack.labels.to(self.device)
                hidden_BLD = hidden_states(self.model, self._moved(pack.inputs), pack.segments)
            else:
                inputs = self._moved(self.processor.collate(samples, pad="right"))
                labels_BL = inputs.pop("labels")
                hidden_BLD = self.model.model(**inputs, use_cache=False).last_hidden_state
            target_BL = functional.pad(labels_BL[:, 1:], (0, 1), value=IGNORED)
            chosen_BL = target_BL != IGNORED
            return self.model.lm_head(hidden_BLD[chosen_BL]), target_BL[chosen_BL]

    def _moved(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}


def micro_batches(batch: Sequence[Sequence[Encoded]], size: int) -> Iterator[Sequence[Sequence[Encoded]]]:
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


def rate_share(number: int, total: int, stage: Stage) -> float:
    """The share of the peak rate at step `number` (from 0): linear warm-up, then a cosine down to `final_rate`."""
    warmup = min(stage.warmup_steps, total // 2)
    if number < warmup:
        return (number + 1) / warmup
    progress = (number - warmup) / max(1, total - warmup)
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def set_up(model: Any, processor: Processor, stage: Stage, *, device: torch.device, bfloat16: bool) -> Trainer:
    """Freeze what the stage freezes and build AdamW with one rate per part; no weight decay on vectors (norms, biases)."""
    groups: list[dict[str, Any]] = []
    peaks: list[float] = []
    parameters: dict[str, list[torch.nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        part = processor.family.part_of(name)
        # Beside an adapter nothing of its part is trained, the layers that have none included.
        held = stage.lora is not None and part in stage.lora.parts and not is_adapter(name)
        rate = None if held else getattr(stage.rates, part)
        parameter.requires_grad_(rate is not None)
        if rate is not None:
            parameters[part].append(parameter)
    for part in PARTS:
        for decayed in (True, False):
            members = [p for p in parameters[part] if (p.ndim > 1) == decayed]
            if members:
                groups.append({"params": members, "weight_decay": stage.weight_decay if decayed else 0.0})
                peaks.append(getattr(stage.rates, part))
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=stage.betas, fused=True)
    model.train()
    return Trainer(model, processor, stage, objective(stage), optimizer, tuple(peaks), device, bfloat16)
