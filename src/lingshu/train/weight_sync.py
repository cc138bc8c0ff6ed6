"""The full weights of a model in training, as a checkpoint folder or a copy in each process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from lingshu.core.run_card import RunCard
from lingshu.models.export import export
from lingshu.models.load import empty_meta_copy
from lingshu.train.distributed import full_state_dict
from lingshu.train.lora import inject_adapters, merge_adapters
from lingshu.train.step import Trainer


def save_weights(trainer: Trainer, folder: Path) -> None:
    """Write the learner's weights as a checkpoint, adapters merged; every process takes part."""
    weights = full_state_dict(trainer.model) if trainer.dist_context.is_distributed else None
    trainer.dist_context.run_on_main(lambda: _export(trainer, weights, folder))


def _export(trainer: Trainer, weights: dict[str, torch.Tensor] | None, folder: Path) -> None:
    model, lora = trainer.model, trainer.stage.lora
    if weights is not None:
        model = unsharded_model(trainer, weights)
    elif lora or trainer.bfloat16 or has_tied_embeddings(model):
        model = copy.deepcopy(model)
    if lora:
        merge_adapters(model)
    if trainer.bfloat16:
        model.to(torch.bfloat16)
    if has_tied_embeddings(model):
        untie_embeddings(model)
    card = RunCard("rollout", {}, notes={"name": "weights of a round"})
    export(model, trainer.processor, folder, card)


def unsharded_model(trainer: Trainer, weights: dict[str, torch.Tensor]) -> Any:
    """The model of a sharded trainer as it was before it was sharded, adapters included."""
    model, lora = empty_meta_copy(trainer.model), trainer.stage.lora
    if lora:
        inject_adapters(model, trainer.processor.family, lora, seed=0)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def has_tied_embeddings(model: Any) -> bool:
    return model.lm_head.weight is model.get_input_embeddings().weight


def untie_embeddings(model: Any) -> None:
    """Give the output head its own weights, in place, with the same outputs.

    Some of vLLM's kernels keep a copy of a tied head that a reload of the embedding does not reach.
    """
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for config in (model.config, model.config.text_config):
        config.tie_word_embeddings = False


class FullModelCopy:
    """A full copy of a sharded model, in the precision of its steps."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        sharded, lora = trainer.model, trainer.stage.lora
        with torch.device(trainer.device):
            self.model: Any = type(sharded)._from_config(sharded.config, dtype=torch.float32)
        if lora:
            inject_adapters(self.model, trainer.processor.family, lora, seed=0)
        dtype = torch.bfloat16 if trainer.bfloat16 else torch.float32
        self.model.to(trainer.device, dtype).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self) -> None:
        """Copy the learner's weights; every process takes part, tensor by tensor in one order."""
        own_parameters = dict(self.model.named_parameters())
        for name, parameter in self._trainer.model.named_parameters():
            is_sharded = isinstance(parameter, DTensor)
            own_parameters[name].copy_(parameter.full_tensor() if is_sharded else parameter)
