"""Checkpoints as their publishers wrote them: older keys, names and files, in small.

The reference is built here from the published form of the configuration and the weights that the
folder is made of; nothing of the folder is read for it.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken

from lingshu.core.errors import ArtifactError
from lingshu.core.types import Message
from lingshu.models.base import family_of_config
from lingshu.models.generation import stop_token_ids
from lingshu.models.load import load
from tests.support.tiny import make_image, tiny

# Of google/gemma-3-4b-it, as its tokenizer_config.json and chat_template.json have it.
GEMMA_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- for item in message['content'] -%}
        {%- if item['type'] == 'image' -%}
            {{ '<start_of_image>' }}
        {%- elif item['type'] == 'text' -%}
            {{ item['text'] | trim }}
        {%- endif -%}
    {%- endfor -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
# Added to Gemma's vocabulary without being special.
GEMMA_TEXT_TOKENS = ("\n", "\n\n", "\N{LOWER ONE EIGHTH BLOCK}" * 2, "<table>", "<unused0>")
DIALOGUE = [
    Message("system", ("Be brief.",)),
    Message("user", (0, "Line one\nline two\n\nIs  it <table> bad?")),
]


def text_sizes(config: Any) -> dict[str, Any]:
    text = config.text_config
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
    )
    return {name: getattr(text, name) for name in names if getattr(text, name, None) is not None}


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


def write_published_gemma(folder: Path) -> Any:
    """As transformers 4.50 wrote google/medgemma-4b-it; returns the stock model of its weights."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    model, processor = tiny("gemma3")
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.add_tokens(
        [AddedToken(t, special=False, normalized=False) for t in GEMMA_TEXT_TOKENS]
    )
    ids = tokenizer.convert_tokens_to_ids
    settings = {
        "boi_token_index": ids("<start_of_image>"),
        "eoi_token_index": ids("<end_of_image>"),
        "eos_token_id": [1, ids("<end_of_turn>")],
        "image_token_index": ids("<image_soft_token>"),
        "mm_tokens_per_image": 4,
        "text_config": {
            **text_sizes(model.config),
            "vocab_size": len(tokenizer) + 3,
            "model_type": "gemma3_text",
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "query_pre_attn_scalar": 16,
            "sliding_window": 16,
            "sliding_window_pattern": 2,
        },
        "vision_config": {
            "hidden_size": 32,
            "image_size": 56,
            "intermediate_size": 64,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }
    torch.manual_seed(0)
    stock = Gemma3ForConditionalGeneration(Gemma3Config(**copy.deepcopy(settings))).float().eval()
    torch.nn.init.normal_(stock.model.multi_modal_projector.mm_input_projection_weight)
    published_names = {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    weights = {
        published + name.removeprefix(ours): tensor.clone()
        for name, tensor in stock.state_dict().items()
        for ours, published in published_names.items()
        if name.startswith(ours)
    }
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    write(
        folder,
        {
            "config.json": {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "model_type": "gemma3",
                "torch_dtype": "bfloat16",
                "transformers_version": "4.50.0.dev0",
                **settings,
            },
            "tokenizer_config.json": {
                **tokenizer_config,
                "add_bos_token": True,
                "chat_template": GEMMA_TEMPLATE,
                "processor_class": "Gemma3Processor",
            },
            "chat_template.json": {"chat_template": GEMMA_TEMPLATE},
            "generation_config.json": {"eos_token_id": [1, ids("<end_of_turn>")], "top_k": 64},
            "processor_config.json": {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
            "preprocessor_config.json": {
                "do_convert_rgb": None,
                "do_normalize": True,
                "do_pan_and_scan": None,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_processor_type": "Gemma3ImageProcessor",
                # The published value, although the model in small makes 4 tokens of an image.
                "image_seq_length": 256,
                "image_std": [0.5, 0.5, 0.5],
                "pan_and_scan_max_num_crops": None,
                "pan_and_scan_min_crop_size": None,
                "pan_and_scan_min_ratio_to_activate": None,
                "processor_class": "Gemma3Processor",
                "resample": 2,
                "rescale_factor": 0.00392156862745098,
                "size": {"height": 56, "width": 56},
            },
        },
    )
    return stock


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("published") / "medgemma"
    return folder, write_published_gemma(folder)


@pytest.mark.parametrize("max_tiles", [1, 3])
def test_medgemma_sees_what_the_stock_processor_gives(
    gemma: tuple[Path, Any], max_tiles: int
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, Gemma3Processor

    folder, stock = gemma
    loaded = load(str(folder))
    processor = loaded.processor
    assert processor.budget.max_tiles == 1
    processor = processor.with_budget(type(processor.budget)(max_tiles=max_tiles))
    image = make_image(3, 640, 260)
    encoded = processor.encode(DIALOGUE, processor.tiles([image]))
    reference: Any = Gemma3Processor(
        AutoImageProcessor.from_pretrained(folder, backend="pil"),
        AutoTokenizer.from_pretrained(folder),
        chat_template=GEMMA_TEMPLATE,
        image_seq_length=4,
    )
    text = reference.apply_chat_template(
        [
            {"role": "system", "content": [{"type": "text", "text": DIALOGUE[0].text}]},
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": DIALOGUE[1].text}],
            },
        ],
        add_generation_prompt=True,
    )
    inputs = reference(
        images=[image],
        text=text,
        add_special_tokens=False,
        return_tensors="pt",
        do_pan_and_scan=max_tiles > 1,
        pan_and_scan_max_num_crops=max_tiles,
    )
    assert encoded.ids.tolist() == inputs["input_ids"][0].tolist()
    batch = processor.collate([encoded], pad="left")
    del batch["labels"]
    assert np.array_equal(batch["pixel_values"].numpy(), inputs["pixel_values"].numpy())
    assert len(batch["pixel_values"]) == (1 if max_tiles == 1 else 3)
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, stock(**inputs).logits)
    end_of_turn = processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert stop_token_ids(loaded) == {1, end_of_turn}


def test_qwen3_vl_with_the_keys_of_its_publisher(tmp_path: Path) -> None:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    model, processor = tiny("qwen3_vl")
    config, ids = model.config, processor.tokenizer.convert_tokens_to_ids
    settings = {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": False,
        "text_config": {
            **text_sizes(config),
            "model_type": "qwen3_vl_text",
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
                "rope_type": "default",
            },
            "rope_theta": 5000000,
        },
        "vision_config": {
            "deepstack_visual_indexes": [0],
            "depth": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "intermediate_size": 64,
            "model_type": "qwen3_vl",
            "num_heads": 2,
            "num_position_embeddings": 64,
            "out_hidden_size": 32,
            "patch_size": 16,
        },
    }
    torch.manual_seed(0)
    stock = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**copy.deepcopy(settings))).float().eval()
    weights = {name: tensor.clone() for name, tensor in stock.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    processor.tokenizer.save_pretrained(tmp_path)
    write(
        tmp_path,
        {
            "config.json": {
                "architectures": ["Qwen3VLForConditionalGeneration"],
                "model_type": "qwen3_vl",
                "transformers_version": "4.57.0.dev0",
                **settings,
            },
            "preprocessor_config.json": {
                "size": {"longest_edge": 16777216, "shortest_edge": 65536},
                "patch_size": 16,
                "temporal_patch_size": 2,
                "merge_size": 2,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
                "processor_class": "Qwen3VLProcessor",
                "image_processor_type": "Qwen2VLImageProcessorFast",
            },
        },
    )
    loaded = load(str(tmp_path))
    tiles = loaded.processor.tiles([make_image(0, 90, 60)])
    assert tiles[0].tokens == 70  # 224 x 320 pixels, at least 65,536 of them
    encoded = loaded.processor.encode(DIALOGUE, tiles)
    batch = loaded.processor.collate([encoded], pad="left")
    del batch["labels"]
    with torch.no_grad():
        logits = loaded.model(**batch).logits
        del batch["position_ids"]  # left to the stock model
        assert torch.equal(logits, stock(**batch).logits)


def test_language_models_that_a_family_was_not_proven_with_are_refused_by_name() -> None:
    refused = {
        ("internvl", "qwen3_moe"): r"'qwen3_moe'; supported are qwen2, qwen3, llama.*http://HOST",
        ("qwen3_vl_moe", None): r"'qwen3_vl_moe' is not supported.*'qwen3_vl'.*http://HOST",
        ("qwen3_5", None): r"'qwen3_5' is not supported.*http://HOST",
    }
    for (model_type, text_type), message in refused.items():
        config = {"model_type": model_type, "text_config": {"model_type": text_type}}
        with pytest.raises(ArtifactError, match=message):
            family_of_config(config)
