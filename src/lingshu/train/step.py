"""One optimizer step: what is trained, at which learning rate, and the loss over the whole batch.

Shapes: B micro-batch, L tokens, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import functional

from lingshu.core.types import Message
from lingshu.models.model_spec import PARTS
from lingshu.models.packing import (
    collate_pack,
    compute_hidden_states,
    compute_padded_hidden_states,
    segment_attention,
)
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.train.config import Sharding, Stage
from lingshu.train.distributed import (
    SINGLE_PROCESS,
    DistributedContext,
    fsdp_units,
    set_activation_checkpointing,
    shard_model,
)
from lingshu.train.lora import is_adapter
from lingshu.train.objectives import Loss, SummedLoss, build_loss, gather_token_values

T = TypeVar("T")
NO_SHARDING = Sharding()


class StepResult(NamedTuple):
    """The mean loss, the gradient norm before clipping, and the objective's metrics per token."""

    loss: float
    norm: float
    metrics: Mapping[str, float]


class LogitsModule(nn.Module):
    """The forward pass of a model up to the logits of selected positions, as one call for sharding.

    With a vocabulary of 152,064 logits are most of the memory.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Mapping[str, torch.Tensor],
        supervised_BL: torch.Tensor,
        segments: Sequence[int] | None,
    ) -> torch.Tensor:
        if segments is not None:
            hidden_BLD = compute_hidden_states(self.model, dict(inputs), segments)
        else:
            hidden_BLD = compute_padded_hidden_states(self.model, dict(inputs))
        return self.model.lm_head(hidden_BLD[supervised_BL])


@dataclass(frozen=True)
class Trainer:
    """A model set up for one stage; `peak_learning_rates` are those of the optimizer's groups.

    `logits_module` is the (sharded) forward pass of `model`; `dummy_turn` has a small image.
    """

    model: Any
    logits_module: LogitsModule
    processor: Processor
    stage: Stage
    loss: Loss
    optimizer: torch.optim.Optimizer
    peak_learning_rates: tuple[float, ...]
    device: torch.device
    bfloat16: bool
    dist_context: DistributedContext = SINGLE_PROCESS
    dummy_turn: EncodedSample | None = None

    def step(
        self, batch: Sequence[Sequence[EncodedSample]], step_index: int, total: int
    ) -> StepResult:
        """Take a step on this process's sequences (of several samples each if packed).

        The loss is a mean over all processes; if it or the gradient is not finite, none takes the
        step.
        """
        multiplier = lr_multiplier(step_index, total, self.stage)
        for group, peak in zip(self.optimizer.param_groups, self.peak_learning_rates, strict=True):
            group["lr"] = peak * multiplier
        microbatches = [
            [e for sequence in microbatch for e in sequence]
            for microbatch in micro_batches(batch, self.stage.micro_batch)
        ]
        denominator = self.loss.denominator([e for microbatch in microbatches for e in microbatch])
        denominator, *has_images = self.dist_context.all_reduce_sum(
            [denominator, *(float(any(e.tiles for e in microbatch)) for microbatch in microbatches)]
        )
        loss, metrics = 0.0, dict[str, float]()
        for microbatch, any_rank_has_images in zip(microbatches, has_images, strict=True):
            padded = self.pad_with_dummy_image(microbatch) if any_rank_has_images else microbatch
            loss_sum = self._backward(padded, denominator)
            loss += float(loss_sum.loss.detach())
            for name, value in loss_sum.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + float(value)
        loss, *values = self.dist_context.all_reduce_sum([loss, *metrics.values()])
        norm = self._clip()
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        means = {name: v / denominator for name, v in zip(metrics, values, strict=True)}
        return StepResult(loss / denominator, norm, means)

    def pad_with_dummy_image(self, microbatch: Sequence[EncodedSample]) -> Sequence[EncodedSample]:
        """The micro-batch with an image: vision blocks are gathered by all processes or by none.

        The dummy turn follows the shortest sample, where no token before it sees it.
        """
        if self.dummy_turn is None or any(e.tiles for e in microbatch):
            return microbatch
        padded = list(microbatch)
        shortest = min(range(len(padded)), key=lambda i: len(padded[i]))
        padded[shortest] = append_unsupervised(padded[shortest], self.dummy_turn)
        return padded

    def _backward(self, microbatch: Sequence[EncodedSample], denominator: float) -> SummedLoss:
        # Activations that are recomputed in the backward pass need the same attention.
        with segment_attention(self.model) if self.stage.packing else nullcontext():
            loss_sum = self.compute_loss_sum(microbatch)
            # Where only the tower is trained, text alone has no gradient.
            if loss_sum.loss.requires_grad:
                (loss_sum.loss / denominator).backward()
            elif isinstance(self.logits_module, FSDPModule):
                self.logits_module.reshard()
        return loss_sum

    def _clip(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def compute_loss_sum(self, samples: Sequence[EncodedSample]) -> SummedLoss:
        """The objective summed over the supervised tokens of a micro-batch."""
        logits_NV, targets_N = self.logits(samples)
        values = gather_token_values(self.loss.required_values, samples, self.device)
        return self.loss.loss_sum(logits_NV, targets_N, values)

    def logits(self, samples: Sequence[EncodedSample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N x V) and targets (N) of the supervised tokens, from padded or packed rows."""
        segments = None
        if self.stage.packing:
            inputs, labels_BL, segments = collate_pack(self.processor, samples)
        else:
            inputs = self.processor.collate(samples, pad="right")
            labels_BL = inputs.pop("labels")
        inputs = {
            name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()
        }
        labels_BL = labels_BL.to(self.device, non_blocking=True)
        target_BL = functional.pad(labels_BL[:, 1:], (0, 1), value=IGNORE_INDEX)
        supervised_BL = target_BL != IGNORE_INDEX
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits_NV = self.logits_module(inputs, supervised_BL, segments)
        if not torch.is_grad_enabled() and isinstance(self.logits_module, FSDPModule):
            # FSDP expects a backward pass; without one the gathered weights would stay.
            self.logits_module.reshard()
        return logits_NV, target_BL[supervised_BL]


def append_unsupervised(sample: EncodedSample, turn: EncodedSample) -> EncodedSample:
    """A sample followed by the tokens and images of another, none of them supervised."""
    positions = None
    if sample.positions is not None and turn.positions is not None:
        positions = np.concatenate(
            [sample.positions, turn.positions + sample.positions.max() + 1], axis=1
        )
    return replace(
        sample,
        ids=np.concatenate([sample.ids, turn.ids]),
        labels=np.concatenate([sample.labels, np.full_like(turn.labels, IGNORE_INDEX)]),
        is_image=np.concatenate([sample.is_image, turn.is_image]),
        positions=positions,
        tiles=(*sample.tiles, *turn.tiles),
        branches=(*sample.branches, len(turn)) if sample.branches else (),
    )


def micro_batches(batch: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


def lr_multiplier(step_index: int, total: int, stage: Stage) -> float:
    """The fraction of the peak rate at a step: linear warm-up, then a cosine to `min_lr_ratio`."""
    warmup = min(stage.warmup_steps, total // 2)
    if step_index < warmup:
        return (step_index + 1) / warmup
    progress = (step_index - warmup) / max(1, total - warmup)
    return stage.min_lr_ratio + (1 - stage.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def build_trainer(
    model: Any,
    processor: Processor,
    stage: Stage,
    *,
    device: torch.device,
    bfloat16: bool,
    dist_context: DistributedContext = SINGLE_PROCESS,
    sharding: Sharding = NO_SHARDING,
) -> Trainer:
    """Freeze and shard the model for a stage; AdamW with one rate per part, no decay on vectors."""
    family = processor.family
    trained = freeze_parameters(model, processor, stage)
    blocks = fsdp_units(model, family)
    set_activation_checkpointing(blocks, enabled=sharding.activation_checkpointing)
    logits_module = LogitsModule(model)
    if dist_context.is_distributed:
        shard_model(
            logits_module,
            model,
            family,
            dist_context=dist_context,
            bfloat16=bfloat16,
            cpu_offload=sharding.cpu_offload,
        )
    groups: list[dict[str, Any]] = []
    peak_learning_rates: list[float] = []
    named_parameters = [(name, p) for name, p in model.named_parameters() if name in trained]
    for part in PARTS:
        parameters = [p for name, p in named_parameters if family.part_of(name) == part]
        for use_decay in (True, False):
            params = [p for p in parameters if (p.ndim > 1) == use_decay]
            if params:
                decay = stage.weight_decay if use_decay else 0.0
                groups.append({"params": params, "weight_decay": decay})
                peak_learning_rates.append(getattr(stage.learning_rates, part))
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=stage.betas, fused=True)
    model.train()
    # The smallest image there is.
    image = processor.tiles([Image.new("RGB", (28, 28))]) if dist_context.size > 1 else None
    return Trainer(
        model,
        logits_module,
        processor,
        stage,
        build_loss(stage),
        optimizer,
        tuple(peak_learning_rates),
        device,
        bfloat16,
        dist_context,
        dummy_turn=processor.encode([Message("user", (0,))], image) if image else None,
    )


def freeze_parameters(model: Any, processor: Processor, stage: Stage) -> set[str]:
    """Make exactly the parameters trainable that the stage trains; their names."""
    trained = set()
    for name, parameter in model.named_parameters():
        part = processor.family.part_of(name)
        # In a part with adapters nothing else is trained, layers without one included.
        is_frozen = stage.lora is not None and part in stage.lora.parts and not is_adapter(name)
        is_trained = not is_frozen and getattr(stage.learning_rates, part) is not None
        parameter.requires_grad_(is_trained)
        if is_trained:
            trained.add(name)
    return trained
