"""Small randomly initialised models of both families, built offline in a second; the real code path
in small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

from lingshu.models.base import ModelFamily, family_of
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import Processor

# Splits like the released tokenizers in spirit: words with their blank, single digits, runs of
# signs, blanks.
PRE_TOKENIZER_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def train_tokenizer(family: ModelFamily, corpus: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer of at most `vocabulary` tokens, trained on `corpus`, with the
    family's tokens and template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe_tokenizer = Tokenizer(models.BPE())
    bpe_tokenizer.normalizer, bpe_tokenizer.decoder = (
        normalizers.NFC(),
        decoders.ByteLevel(),
    )
    bpe_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
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
    bpe_tokenizer.train_from_iterator(corpus, trainer)
    bpe_model = json.loads(bpe_tokenizer.to_str())["model"]
    vocabulary_and_merges: dict[str, Any] = {
        "vocab": bpe_model["vocab"],
        "merges": [tuple(pair) for pair in bpe_model["merges"]],
        **{
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "bos_token": None,
        },
    }
    extra_tokens: dict[str, Any] = (
        {"extra_special_tokens": dict(family.named_tokens)} if family.named_tokens else {}
    )
    tokenizer = Qwen2Tokenizer(
        model_max_length=1 << 20,
        **vocabulary_and_merges,
        **extra_tokens,
    )
    tokenizer.add_tokens(list(family.special_tokens), special_tokens=True)
    tokenizer.chat_template = family.chat_template
    return tokenizer


def tiny_config(family: ModelFamily, spec: TinyModel, tokenizer: Any) -> Any:
    """The stock configuration class of the family, filled with the tiny sizes."""
    from transformers import InternVLConfig, Qwen2_5_VLConfig

    text: dict[str, Any] = {
        # A multiple of 64, as released models have it.
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,
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
    vision: dict[str, Any] = {
        "hidden_size": spec.vision_hidden,
        "intermediate_size": 2 * spec.vision_hidden,
    }
    ids: dict[str, Any] = dict(family.token_ids(tokenizer.convert_tokens_to_ids))
    if family.name == "internvl":
        vision |= {
            "num_hidden_layers": spec.vision_layers,
            "num_attention_heads": spec.vision_heads,
        }
        vision |= {"image_size": [spec.image_size, spec.image_size], "patch_size": [14, 14]}
        text = {"model_type": "qwen2", "tie_word_embeddings": True, **text}
        return InternVLConfig(
            text_config=text,
            vision_config=vision,
            image_seq_length=(spec.image_size // 28) ** 2,
            tie_word_embeddings=True,
            **ids,
        )
    half_head_dim = spec.hidden // spec.heads // 2
    # the released split 16 : 24 : 24 in small; the three must sum to half a head
    spatial = 3 * half_head_dim // 8
    text["rope_parameters"] = {
        "rope_type": "default",
        "mrope_section": [half_head_dim - 2 * spatial, spatial, spatial],
        "rope_theta": 10000.0,
    }
    vision |= {
        "depth": spec.vision_layers,
        "num_heads": spec.vision_heads,
        "out_hidden_size": spec.hidden,
    }
    vision |= {"window_size": 112, "fullatt_block_indexes": [spec.vision_layers - 1]}
    return Qwen2_5_VLConfig(
        text_config={**text, "tie_word_embeddings": True},
        vision_config=vision,
        tie_word_embeddings=True,
        **ids,
    )


def build_tiny(
    spec: TinyModel, corpus: Iterable[str], *, budget: PixelBudget, seed: int
) -> tuple[Any, Processor]:
    """A tiny model of `spec`'s family in float32 and its processor; the weights depend on `seed`
    alone.
    """
    import transformers

    family = family_of(spec.family)
    tokenizer = train_tokenizer(family, corpus, spec.vocab_size)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = getattr(transformers, family.model_class)(tiny_config(family, spec, tokenizer)).float()
    torch.set_rng_state(state)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.eval()
    return model, Processor(
        family, tokenizer, family.image_processor(budget, spec.image_size), budget
    )
