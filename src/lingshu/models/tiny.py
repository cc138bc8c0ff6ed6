"""Small randomly initialized models of any family, built offline in a second."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

from lingshu.models.base import VisionLanguageFamily, family_of
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import Processor, build_processor

STOCK_EMBEDDING_STD = 0.02  # the initializer_range of every family's stock class
# Splits like the released tokenizers in spirit: words with their space, single digits, runs of
# punctuation, spaces.
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # in place of a space, as SentencePiece writes it
PRE_TOKENIZER_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def train_tokenizer(family: VisionLanguageFamily, corpus: Iterable[str], vocab_size: int) -> Any:
    """A BPE tokenizer trained on `corpus`, with the family's class, tokens and template."""
    import transformers
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    if family.byte_level:
        bpe = Tokenizer(models.BPE())
        bpe.normalizer = normalizers.NFC()
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        alphabet, first_tokens = sorted(pre_tokenizers.ByteLevel.alphabet()), []
    else:
        bpe = Tokenizer(models.BPE(byte_fallback=True))
        bpe.normalizer = normalizers.Replace(" ", WORD_START)
        bpe.pre_tokenizer = pre_tokenizers.Split(WORD_START, "merged_with_next")
        alphabet = []
        first_tokens = [token for token in family.token_roles.values() if token]
        first_tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(family.special_tokens),
        initial_alphabet=alphabet,
        special_tokens=first_tokens,
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    trained = json.loads(bpe.to_str())["model"]
    settings: dict[str, Any] = {
        "vocab": trained["vocab"],
        "merges": [tuple(pair) for pair in trained["merges"]],
        **family.token_roles,
    }
    if family.named_tokens:
        settings["extra_special_tokens"] = dict(family.named_tokens)
    tokenizer_class = getattr(transformers, family.tokenizer_class)
    tokenizer = tokenizer_class(model_max_length=1 << 20, **settings)
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
        "bos_token_id": tokenizer.bos_token_id,
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
    for parameter in model.parameters():
        # Gemma 3's projection starts as zeros, whose normalization has gradients without bounds.
        if parameter.ndim == 2 and not parameter.any():
            torch.nn.init.xavier_uniform_(parameter)
    embeddings = model.get_input_embeddings().weight
    if spec.embedding_std != STOCK_EMBEDDING_STD:
        embeddings.data.mul_(spec.embedding_std / STOCK_EMBEDDING_STD)
    torch.set_rng_state(state)
    image_processor = family.image_processor(budget, spec.image_size)
    processor = build_processor(family, tokenizer, image_processor, budget)
    stop_ids = sorted(processor.tokens.stop_ids)
    model.generation_config.eos_token_id = stop_ids[0] if len(stop_ids) == 1 else stop_ids
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), processor
