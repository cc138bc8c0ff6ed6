"""GGUF files hold the values of the checkpoint under the names that llama.cpp reads.

That llama.cpp answers from them as the checkpoint does is measured by bench/gguf_answers.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import numpy as np
import torch

from lingshu.core.errors import ArtifactError, MissingExtraError
from lingshu.core.files import check_manifest, read_json, write_json
from lingshu.core.run_card import RunCard
from lingshu.models.convert import Conversion
from lingshu.models.export import export
from lingshu.models.gguf import export_gguf
from tests.support.tiny import tiny

# Of the stock class: the tensor in GGUF, for a model without bias in its output head.
TEXT_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "layers.1.self_attn.q_proj.weight": "blk.1.attn_q.weight",
    "layers.1.self_attn.k_proj.bias": "blk.1.attn_k.bias",
    "layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
    "layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    "layers.1.post_attention_layernorm.weight": "blk.1.ffn_norm.weight",
}
VISION_NAMES = {
    "blocks.1.attn.proj.weight": "v.blk.1.attn_out.weight",
    "blocks.0.mlp.gate_proj.weight": "v.blk.0.ffn_gate.weight",
    "blocks.0.norm1.weight": "v.blk.0.ln1.weight",
    "merger.ln_q.weight": "v.post_ln.weight",
    "merger.mlp.0.weight": "mm.0.weight",
    "merger.mlp.2.bias": "mm.2.bias",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "source"
    model, processor = tiny("qwen2_5_vl")
    export(model, processor, folder, RunCard("test", {}))
    (folder / "manifest.json").unlink()
    return folder


def read(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Keys, and tensors as float32 in the shape of the stock class."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    reader = gguf.GGUFReader(file)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            tuple(int(n) for n in reversed(tensor.shape))
        )
        for tensor in reader.tensors
    }
    return keys, tensors


@pytest.mark.parametrize(
    ("gguf_type", "tolerance"), [("f32", 0.0), ("bf16", 2**-8), ("f16", 2**-10), ("q8_0", 1 / 127)]
)
def test_every_value_is_in_the_files(
    source: Path, tmp_path: Path, gguf_type: Any, tolerance: float
) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    exported = export_gguf(Conversion(source), tmp_path / "out", gguf_type=gguf_type)
    (_, text), (_, vision) = read(exported.model), read(exported.projector)
    state = {name: value.numpy() for name, value in tiny("qwen2_5_vl")[0].state_dict().items()}
    expected = {TEXT_NAMES[n]: state[f"model.language_model.{n}"] for n in TEXT_NAMES}
    expected |= {VISION_NAMES[n]: state[f"model.visual.{n}"] for n in VISION_NAMES}
    for layer in (0, 1):
        for kind in ("weight", "bias"):
            fused = state[f"model.visual.blocks.{layer}.attn.qkv.{kind}"]
            for part, value in zip("qkv", np.split(fused, 3), strict=True):
                expected[f"v.blk.{layer}.attn_{part}.{kind}"] = value
    frames = state["model.visual.patch_embed.proj.weight"]
    expected["v.patch_embd.weight"] = frames[:, :, 0]
    expected["v.patch_embd.weight.1"] = frames[:, :, 1]
    written = {**text, **vision}
    for name, value in expected.items():
        assert written[name].shape == value.shape, name
        np.testing.assert_allclose(written[name], value, atol=tolerance * np.abs(value).max())
        is_vector = value.ndim != 2
        assert not is_vector or np.array_equal(written[name], value), name
    # The head is tied, so llama.cpp takes the embedding for it.
    assert "output.weight" not in text
    n_values = sum(value.size for value in written.values())
    n_parameters = sum(parameter.numel() for parameter in tiny("qwen2_5_vl")[0].parameters())
    assert exported.counts["values"] == n_values == n_parameters
    assert check_manifest(tmp_path / "out")


def test_the_keys_are_those_of_the_configuration(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    exported = export_gguf(Conversion(source), tmp_path / "out")
    (text, _), (vision, _) = read(exported.model), read(exported.projector)
    model, processor = tiny("qwen2_5_vl")
    config, tokenizer = model.config.text_config, processor.tokenizer
    assert text["general.architecture"] == "qwen2vl"
    assert text["qwen2vl.block_count"] == config.num_hidden_layers
    assert text["qwen2vl.attention.head_count_kv"] == config.num_key_value_heads
    sections = config.rope_parameters["mrope_section"]
    assert text["qwen2vl.rope.dimension_sections"] == [*sections, 0]
    assert text["tokenizer.ggml.pre"] == "qwen2"
    tokens = text["tokenizer.ggml.tokens"]
    assert len(tokens) == config.vocab_size
    for token, index in tokenizer.get_vocab().items():
        assert tokens[index] == token
    kinds = text["tokenizer.ggml.token_type"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (kinds[end], kinds[0]) == (3, 1)  # a control token, a normal one
    assert text["tokenizer.ggml.eos_token_id"] == end
    assert text["tokenizer.chat_template"] == tokenizer.chat_template
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert text["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    assert vision["clip.projector_type"] == "qwen2.5vl_merger"
    assert vision["clip.vision.n_wa_pattern"] == 2
    np.testing.assert_allclose(
        vision["clip.vision.image_mean"], processor.image_processor.image_mean
    )


def test_a_matrix_that_q8_0_cannot_divide_is_counted(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    from lingshu.models import tiny as tiny_module
    from lingshu.models.model_spec import PixelBudget, TinyModel

    spec = TinyModel(hidden=48, layers=1, heads=2, kv_heads=1, ffn=64, vocab_size=320)
    budget = PixelBudget(3136, 3136)
    model, processor = tiny_module.build_tiny(spec, ["a b c"] * 4, budget=budget, seed=0)
    export(model, processor, tmp_path / "source", RunCard("test", {}))
    exported = export_gguf(Conversion(tmp_path / "source"), tmp_path / "out", gguf_type="q8_0")
    keys, text = read(exported.model)
    assert len(processor.tokenizer) < len(keys["tokenizer.ggml.tokens"])
    assert keys["tokenizer.ggml.token_type"][-1] == 5  # a row without a token: unused
    state = model.state_dict()
    embedding = state["model.language_model.embed_tokens.weight"]
    assert np.array_equal(text["token_embd.weight"], embedding.half().float().numpy())
    # Of the language model: the embedding, q, k, v, o, gate and up; down has rows of 64.
    assert exported.counts["stored_as_f16"] == 7


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision_config", {"window_size": 224}, "window_size is 224"),
        ("vision_config", {"fullatt_block_indexes": [0]}, "fullatt_block_indexes"),
        ("text_config", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window"),
        ("text_config", {"rope_parameters": {"rope_type": "default", "mrope_section": ["a"]}}, ""),
    ],
)
def test_what_llama_cpp_computes_differently_is_refused(
    source: Path, tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**config, part: {**config[part], **changes}})
    with pytest.raises(ArtifactError, match=f"{message}.*(llama.cpp|download)"):
        export_gguf(Conversion(tmp_path), tmp_path.parent / "refused")


def test_another_family_and_another_tokenizer_are_refused(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    model, processor = tiny("internvl")
    export(model, processor, tmp_path / "internvl", RunCard("test", {}))
    with pytest.raises(ArtifactError, match="family internvl"):
        export_gguf(Conversion(tmp_path / "internvl"), tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    for file in source.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tokenizer = read_json(other / "tokenizer.json")
    (step, *rest) = tokenizer["pre_tokenizer"]["pretokenizers"]
    step["pattern"] = {"Regex": r"\p{N}{1,3}"}
    tokenizer["pre_tokenizer"]["pretokenizers"] = [step, *rest]
    write_json(other / "tokenizer.json", tokenizer)
    settings = read_json(other / "tokenizer_config.json")
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(other / "tokenizer_config.json", settings)
    with pytest.raises(ArtifactError, match="splits words"):
        export_gguf(Conversion(other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_missing_package_is_named_with_its_extra(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"lingshu\[gguf\]"):
        export_gguf(Conversion(source), tmp_path / "out")


def test_a_value_beyond_f16_is_refused(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    from safetensors.torch import load_file, save_file

    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**state, name: state[name] + torch.tensor(1e6)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="too large for F16"):
        export_gguf(Conversion(tmp_path), tmp_path.parent / "refused", gguf_type="f16")
