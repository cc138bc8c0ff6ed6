"""One optimizer step: what is trained, at which learning rate, and the loss over the whole batch.

Shapes: B micro-batch, L tokens, N supervised tokens, D width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import functional

from lingshu.core.types import Message
from lingshu.models.base import VisionLanguageFamily
from lingshu.models.model_spec import PARTS
from lingshu.models.packing import (
    collate_pack,
    compute_hidden_states,
    compute_padded_hidden_states,
)
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.models.segment_attention import segment_attention, to_device
from lingshu.train.config import Sharding, Stage
from lingshu.train.distributed import (
    SINGLE_PROCESS,
    DistributedContext,
    fsdp_units,
    set_activation_checkpointing,
    set_compiled,
    set_gradient_sync,
    shard_model,
)
from lingshu.train.lora import is_adapter
from lingshu.train.objectives import (
    Loss,
    SummedLoss,
    build_loss,
    gather_token_values,
    token_log_probs,
)
from lingshu.train.optimizer import AdamW

T = TypeVar("T")
NO_SHARDING = Sharding()


@dataclass(frozen=True, eq=False)
class StepResult:
    """The mean loss, the gradient norm before clipping, and the objective's metrics per token.

    `values` are these numbers in float64, on the device until one of them is read: reading waits
    for the GPU.
    """

    values: torch.Tensor
    metric_names: tuple[str, ...]

    @cached_property
    def _numbers(self) -> list[float]:
        return self.values.tolist()

    @property
    def loss(self) -> float:
        return self._numbers[0]

    @property
    def norm(self) -> float:
        return self._numbers[1]

    @property
    def metrics(self) -> dict[str, float]:
        return dict(zip(self.metric_names, self._numbers[2:], strict=True))


class Microbatch(NamedTuple):
    """The inputs of a forward pass, on the CPU: labels are made there, and so is all that follows from
    them.

    `supervised_N` are positions in the flattened (B x L) rows whose next token is a target.
    """

    inputs: dict[str, torch.Tensor]
    supervised_N: torch.Tensor
    targets_N: torch.Tensor
    segments: tuple[int, ...] | None


def collate_microbatch(
    processor: Processor, samples: Sequence[EncodedSample], *, packing: bool
) -> Microbatch:
    """One packed row, or a padded row for each sample."""
    segments = None
    if packing:
        inputs, labels_BL, segments = collate_pack(processor, samples)
    else:
        inputs = processor.collate(samples, pad="right")
        labels_BL = inputs.pop("labels")
    targets = functional.pad(labels_BL[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    supervised_N = (targets != IGNORE_INDEX).nonzero().squeeze(1)
    return Microbatch(inputs, supervised_N, targets[supervised_N], segments)


class LogProbsModule(nn.Module):
    """The forward pass of a model up to the log-probabilities of its targets, as one call for sharding.

    Hidden states of other positions never meet the output head, and logits exist in parts only
    (`token_log_probs`).
    """

    def __init__(self, model: Any, family: VisionLanguageFamily) -> None:
        super().__init__()
        self.model = model
        self._stacks = family.blocks

    def forward(self, batch: Microbatch, *, temperature: float = 1.0) -> torch.Tensor:
        inputs = dict(batch.inputs)
        with residual_in_float32(self.model.get_submodule(stack)[0] for stack in self._stacks):
            if batch.segments is not None:
                hidden_BLD = compute_hidden_states(self.model, inputs, batch.segments)
            else:
                hidden_BLD = compute_padded_hidden_states(self.model, inputs)
        hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, batch.supervised_N)
        head = self.model.lm_head
        return token_log_probs(hidden_ND, head.weight, batch.targets_N, temperature=temperature)


@contextmanager
def residual_in_float32(first_blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Let what blocks add to be float32 under autocast, whatever type the weights before the first
    of them are gathered in: products and attention are in half precision, sums are not, in one
    process and in many.
    """

    def cast(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        del block
        hidden, *rest = inputs
        is_cast = torch.is_autocast_enabled(hidden.device.type)
        return (hidden.float() if is_cast else hidden, *rest)

    with ExitStack() as hooks:
        for block in first_blocks:
            hooks.callback(block.register_forward_pre_hook(cast).remove)
        yield


@dataclass(frozen=True)
class Trainer:
    """A model set up for one stage; `peak_learning_rates` are those of the optimizer's groups.

    `log_probs_module` is the (sharded) forward pass of `model`; `dummy_turn` has a small image. With
    `reduces_once` a process keeps its whole gradients until the last micro-batch of an update.
    """

    model: Any
    log_probs_module: LogProbsModule
    processor: Processor
    stage: Stage
    loss: Loss
    optimizer: AdamW
    peak_learning_rates: tuple[float, ...]
    device: torch.device
    bfloat16: bool
    dist_context: DistributedContext = SINGLE_PROCESS
    dummy_turn: EncodedSample | None = None
    reduces_once: bool = True

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
        # Gradients of vision blocks that wait for the last micro-batch need it to reach them.
        has_images[-1] = max(has_images)
        sums, names = torch.zeros(1, dtype=torch.float64, device=self.device), ()
        for index, microbatch in enumerate(microbatches):
            padded = self.pad_with_dummy_image(microbatch) if has_images[index] else microbatch
            is_last = index == len(microbatches) - 1
            set_gradient_sync(self.log_probs_module, is_last=is_last, once=self.reduces_once)
            loss_sum = self._backward(padded, denominator)
            names = tuple(loss_sum.metrics)
            added = torch.stack([loss_sum.loss.detach(), *loss_sum.metrics.values()])
            sums = sums + added.double()
        means = self.dist_context.sum_tensor(sums) / denominator
        norm = self._clip().to(means)
        values = torch.cat([means[:1], norm[None], means[1:]])
        self.optimizer.found_inf = 1 - torch.isfinite(values[:2]).all().float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(values, names)

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
        with segment_attention(self.model, language=self.stage.packing):
            loss_sum = self.compute_loss_sum(microbatch)
            # Where only the tower is trained, text alone has no gradient.
            if loss_sum.loss.requires_grad:
                (loss_sum.loss / denominator).backward()
            elif isinstance(self.log_probs_module, FSDPModule):
                self.log_probs_module.reshard()
        return loss_sum

    def _clip(self) -> torch.Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def compute_loss_sum(self, samples: Sequence[EncodedSample]) -> SummedLoss:
        """The objective summed over the supervised tokens of a micro-batch."""
        log_probs_N = self.log_probs(samples)
        values = gather_token_values(self.loss.required_values, samples, self.device)
        return self.loss.loss_sum(log_probs_N, values)

    def log_probs(
        self, samples: Sequence[EncodedSample], *, temperature: float | None = None
    ) -> torch.Tensor:
        """Log-probabilities (N) of the supervised tokens, from padded or packed rows; at the
        temperature of the objective by default.
        """
        if temperature is None:
            temperature = self.loss.temperature
        batch = collate_microbatch(self.processor, samples, packing=self.stage.packing)
        batch = on_device(batch, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            log_probs_N = self.log_probs_module(batch, temperature=temperature)
        if not torch.is_grad_enabled() and isinstance(self.log_probs_module, FSDPModule):
            # FSDP expects a backward pass; without one the gathered weights would stay.
            self.log_probs_module.reshard()
        return log_probs_N


def on_device(batch: Microbatch, device: torch.device) -> Microbatch:
    """The same tensors on a device; sizes of images stay on the CPU, which alone reads them."""
    inputs = {
        name: tensor if name == "image_grid_thw" else to_device(tensor, device)
        for name, tensor in batch.inputs.items()
    }
    positions, targets = (to_device(t, device) for t in (batch.supervised_N, batch.targets_N))
    return Microbatch(inputs, positions, targets, batch.segments)


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
    set_compiled(blocks, enabled=sharding.compile)
    log_probs_module = LogProbsModule(model, family)
    if dist_context.is_distributed:
        shard_model(
            log_probs_module,
            model,
            family,
            dist_context=dist_context,
            bfloat16=bfloat16,
            sharding=sharding,
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
    n_trained = sum(parameter.numel() for _, parameter in named_parameters)
    memory = None
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    optimizer = AdamW(groups, betas=stage.betas, moments=sharding.moments)
    model.train()
    # The smallest image there is.
    image = processor.tiles([Image.new("RGB", (28, 28))]) if dist_context.is_distributed else None
    return Trainer(
        model,
        log_probs_module,
        processor,
        stage,
        build_loss(stage),
        optimizer,
        tuple(peak_learning_rates),
        device,
        bfloat16,
        dist_context,
        dummy_turn=processor.encode([Message("user", (0,))], image) if image else None,
        reduces_once=sharding.reduces_once(n_trained, memory),
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
