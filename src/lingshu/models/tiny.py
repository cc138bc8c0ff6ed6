"""Small randomly initialized models of any family, built offline in a second."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

from lingshu.models.base import VisionLanguageFamily, family_of
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import Processor

# Splits like the released tokenizers in spirit: words with their space, single digits, runs of
# punctuation, spaces.
PRE_TOKENIZER_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def train_tokenizer(family: VisionLanguageFamily, corpus: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer trained on `corpus`, with the family's tokens and template."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.decoder = normalizers.NFC(), decoders.ByteLevel()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(family.special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    settings: dict[str, Any] = {"merges": merges, "unk_token": None, "bos_token": None}
    if family.named_tokens:
        settings["extra_special_tokens"] = dict(family.named_tokens)
    tokenizer = Qwen2Tokenizer(
        model_max_length=1 << 20,
        vocab=trained["vocab"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        **settings,
    )
    tokenizer.add_tokens(list(family.special_tokens), special_tokens=True)
    tokenizer.chat_template = family.chat_template
    return tokenizer


def tiny_config(family: VisionLanguageFamily, spec: TinyModel, tokenizer: Any) -> Any:
    """The stock configuration class of the family, filled with the tiny sizes."""
    text: dict[str, Any] = {
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,  # a multiple of 64, as in released models
        "hidden_size": spec.hidden,
        "intermediate_size": spec.ffn,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.max_positions,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return family.tiny_config(spec, text, family.token_ids(tokenizer.convert_tokens_to_ids))


def build_tiny(
    spec: TinyModel, corpus: Iterable[str], *, budget: PixelBudget, seed: int
) -> tuple[Any, Processor]:
    """A tiny float32 model and its processor; the weights depend on `seed` only."""
    family = family_of(spec.family)
    tokenizer = train_tokenizer(family, corpus, spec.vocab_size)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = family.stock_class(tiny_config(family, spec, tokenizer)).float()
    torch.set_rng_state(state)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    image_processor = family.image_processor(budget, spec.image_size)
    return model.eval(), Processor(family, tokenizer, image_processor, budget)
