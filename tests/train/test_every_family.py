"""What training promises of every model family in the folder, and of its other language models."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from lingshu.core.errors import ConfigError
from lingshu.core.types import Message, Sampling
from lingshu.models.base import family_of
from lingshu.models.load import LoadedModel
from lingshu.models.processor import EncodedSample, Processor
from lingshu.train.config import Grpo, LearningRates, Lora, Stage
from lingshu.train.grpo import append_replies
from lingshu.train.lora import inject_adapters, is_adapter, merge_adapters
from lingshu.train.rollout import LocalRollouts
from lingshu.train.step import build_trainer
from tests.support.tiny import FAMILIES, make_image, tiny
from tests.train.test_grpo import question

# Each family, and each language model that a family names besides the one of its tiny models.
VARIANTS = [(name, text) for name in FAMILIES for text in family_of(name).text_model_types or ("",)]
ALL_PARTS = LearningRates(vision=1e-3, projector=1e-3, language=1e-3)
GRPO = Grpo(rollout_batch_size=2, num_generations=3, max_reply_tokens=16, kl=0.0)
STAGE = Stage("x", ("x",), ALL_PARTS, batch=3, micro_batch=3, warmup_steps=0)


@cache
def variant(name: str, text_type: str) -> tuple[Any, Processor]:
    """A tiny model of a family with a language model of the given type, "" for its only one."""
    model, processor = tiny(name)
    if text_type in ("", model.config.text_config.model_type):
        return model, processor
    text = model.config.text_config
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    settings = {
        "model_type": text_type,
        "head_dim": text.hidden_size // text.num_attention_heads,
        **{key: getattr(text, key) for key in (*sizes, *heads)},
    }
    stock = model.config.to_dict() | {"text_config": settings}
    torch.manual_seed(0)
    other = processor.family.stock_class(type(model.config)(**stock)).float().eval()
    other.generation_config.eos_token_id = model.generation_config.eos_token_id
    other.generation_config.pad_token_id = model.generation_config.pad_token_id
    assert other.config.text_config.model_type == text_type
    return other, processor


def dialogues(processor: Processor) -> list[EncodedSample]:
    """Two images, none and one; each longer than the window of tiny models with one."""
    encoded = []
    for number, answer in enumerate(("yes", "a large lesion on the left", "no")):
        n_images = (2, 0, 1)[number]
        tiles = processor.tiles([make_image(10 * number + i) for i in range(n_images)])
        turns = [Message("user", (*range(n_images), "Is there a lesion? " * (1 + number)))]
        encoded.append(processor.encode([*turns, Message("assistant", (answer,))], tiles))
    return encoded


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def run_stock(model: Any, processor: Processor) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the stock class, sample by sample, with its own positions."""
    samples = dialogues(processor)
    total = sum(sample.supervised for sample in samples)
    loss = 0.0
    for sample in samples:
        inputs = processor.collate([sample], pad="right")
        inputs.pop("position_ids", None)
        part = model(**inputs).loss * sample.supervised / total
        part.backward()
        loss += float(part.detach())
    return loss, gradients(model)


@pytest.mark.parametrize("name,text_type", VARIANTS)
def test_padded_and_packed_loss_and_gradients_are_those_of_the_stock_class(
    name: str, text_type: str
) -> None:
    shared, processor = variant(name, text_type)
    # Another test may have frozen parts of the shared model.
    model = copy.deepcopy(shared).requires_grad_(True)
    expected, expected_gradients = run_stock(model.train(), processor)
    samples = dialogues(processor)
    for packing in (False, True):
        stage = replace(STAGE, packing=packing)
        trainer = build_trainer(model, processor, stage, device=torch.device("cpu"), bfloat16=False)
        loss = trainer.compute_loss_sum(samples).loss / sum(s.supervised for s in samples)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-6), packing
        found = gradients(model)
        assert found.keys() == expected_gradients.keys()
        for parameter, gradient in expected_gradients.items():
            difference = float((found[parameter] - gradient).abs().max())
            assert difference <= 2e-6 * max(1.0, float(gradient.abs().max())), parameter


@pytest.mark.parametrize("name,text_type", VARIANTS)
def test_a_step_moves_all_parts_and_one_with_adapters_only_those(name: str, text_type: str) -> None:
    shared, processor = variant(name, text_type)
    for lora in (None, Lora(rank=2, alpha=4, parts=("vision", "language"))):
        model = copy.deepcopy(shared).requires_grad_(True)
        stage = STAGE
        if lora is not None:
            pytest.importorskip("peft", reason="peft is not installed")
            inject_adapters(model, processor.family, lora, seed=0)
            stage = replace(
                STAGE, lora=lora, learning_rates=LearningRates(vision=1e-2, language=1e-2)
            )
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        trainer = build_trainer(model, processor, stage, device=torch.device("cpu"), bfloat16=False)
        batch = [[sample] for sample in dialogues(processor)]
        losses = [trainer.step(batch, step, 4).loss for step in range(4)]
        assert losses[-1] < losses[0]
        moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
        if lora is None:
            assert {processor.family.part_of(key) for key in moved} == set(processor.family.parts)
            continue
        assert moved and all(is_adapter(key) for key in moved)
        assert {processor.family.part_of(key) for key in moved} == {"vision", "language"}
        model.eval()
        inputs = processor.collate(dialogues(processor)[:1], pad="right")
        with torch.no_grad():
            adapted = model(**inputs).logits
            merge_adapters(model)
            assert torch.allclose(model(**inputs).logits, adapted, atol=1e-4)
        assert model.state_dict().keys() == shared.state_dict().keys()


@pytest.mark.parametrize("name,text_type", VARIANTS)
def test_a_round_samples_from_the_model_and_learns_from_its_replies(
    name: str, text_type: str
) -> None:
    shared, processor = variant(name, text_type)
    model = copy.deepcopy(shared)
    stage = replace(STAGE, grpo=GRPO, batch=2, max_tokens=256)
    trainer = build_trainer(model, processor, stage, device=torch.device("cpu"), bfloat16=False)
    prompt = processor.encode(question(1).messages, processor.tiles([make_image(1)]))
    loaded = LoadedModel(model, processor, "tiny", "digest")
    rollouts = LocalRollouts(loaded, lambda _: prompt, 1, bfloat16=False).generate(
        [question(1)], Sampling(max_tokens=6, temperature=1.0, num_generations=3, seed=4)
    )
    assert len(rollouts) == 3
    replies = [(one.token_ids, float(index - 1)) for index, one in enumerate(rollouts)]
    together = append_replies(prompt, replies)
    assert len(together.branches) == 3
    separate = [append_replies(prompt, [reply]) for reply in replies]
    with torch.no_grad():
        shared, expected = trainer.log_probs([together]), trainer.log_probs(separate)
    assert shared.shape == expected.shape and float((shared - expected).abs().max()) < 2e-5
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    trainer.step([[together]], 0, 1)
    assert any(not torch.equal(p, before[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_part_that_adapters_cannot_reach_is_refused_by_name(name: str) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    shared, processor = tiny(name)
    linear_parts = {
        processor.family.part_of(key + ".")
        for key, module in shared.named_modules()
        if isinstance(module, torch.nn.Linear) and not key.startswith("lm_head")
    }
    for part in processor.family.parts:
        lora = Lora(rank=2, alpha=4, parts=(part,))
        model = copy.deepcopy(shared)
        if part in linear_parts:
            inject_adapters(model, processor.family, lora, seed=0)
        else:
            with pytest.raises(ConfigError, match=f"the {part} of {name} has no linear layer"):
                inject_adapters(model, processor.family, lora, seed=0)
