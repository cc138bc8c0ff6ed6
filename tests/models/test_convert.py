"""Checkpoints of other programs in the plain layout: every value of the source, and nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from safetensors.torch import load_file, save_file
from transformers import InternVLConfig, InternVLForConditionalGeneration

from lingshu.core.errors import ArtifactError, ConfigError
from lingshu.core.files import check_manifest, read_json, write_json
from lingshu.core.run_card import RunCard
from lingshu.models.convert import Conversion, convert
from lingshu.models.export import export
from lingshu.models.load import load
from tests.support.tiny import CORPUS, make_image, tiny

# Names of the original layout by those of the stock class; attention is fused below.
VISION_NAMES = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}
PROJECTOR_NAMES = {"layer_norm": "mlp1.0", "linear_1": "mlp1.1", "linear_2": "mlp1.3"}
INTERNLM2_NAMES = {
    "embed_tokens": "tok_embeddings",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attention_norm",
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_theta": 1e6,
}
ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "llama": "LlamaForCausalLM",
}


def replace_all(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def original_state(state: dict[str, Any], kind: str) -> dict[str, Any]:
    """The tensors under the names of the original code."""
    named: dict[str, Any] = {}
    for name, value in state.items():
        if name.startswith("model.vision_tower."):
            name = "vision_model." + replace_all(name.split(".", 2)[2], VISION_NAMES)
        elif name.startswith("model.multi_modal_projector."):
            name = replace_all(name.split(".", 2)[2], PROJECTOR_NAMES)
        elif kind == "internlm2" and name.startswith("lm_head"):
            name = "language_model.output.weight"
        elif name.startswith("lm_head"):
            name = "language_model." + name
        else:
            name = "language_model.model." + name.split(".", 2)[2]
            name = replace_all(name, INTERNLM2_NAMES) if kind == "internlm2" else name
        named[name] = value
    for name in [name for name in named if "attention.q_proj" in name]:
        parts = [named.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        named[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    for name in [name for name in named if kind == "internlm2" and "self_attn.q_proj" in name]:
        q, k, v = (named.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv")
        n_groups, head = TEXT["num_key_value_heads"], TEXT["hidden_size"] // 4
        # (groups, queries of the group then key then value, head) as InternLM2 stacks them
        stacked = torch.cat(
            [
                q.view(n_groups, -1, head, q.shape[1]),
                k.view(n_groups, 1, head, k.shape[1]),
                v.view(n_groups, 1, head, v.shape[1]),
            ],
            dim=1,
        )
        named[name.replace("self_attn.q_proj", "attention.wqkv")] = stacked.reshape(-1, q.shape[1])
    return named


def write_original(
    folder: Path, *, kind: str = "qwen2", tied: bool = False, vision: dict | None = None
) -> Any:
    """A folder in the original layout, and the stock model whose weights it holds."""
    folder.mkdir(parents=True)
    _, processor = tiny("internvl")
    tokenizer = processor.tokenizer
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    text = {**TEXT, "vocab_size": len(tokenizer), "tie_word_embeddings": tied}
    if kind == "qwen3":
        text["head_dim"] = 16
    llm = {**text, "architectures": [ARCHITECTURES[kind]], "attn_implementation": "eager"}
    llm |= {"bias": False, "torch_dtype": "bfloat16"} if kind == "internlm2" else {}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    vision = {"qkv_bias": True, "qk_normalization": False, "norm_type": "layer_norm"} | (
        vision or {}
    )
    stock_vision = {
        "attention_bias": vision["qkv_bias"],
        "use_qk_norm": vision["qk_normalization"],
        "norm_type": vision["norm_type"],
    }
    model_type = "llama" if kind == "internlm2" else kind
    config = InternVLConfig(
        text_config={**text, "model_type": model_type},
        vision_config={**sizes, **stock_vision},
        image_seq_length=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    state = {k: v for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    named = {k: v.contiguous().clone() for k, v in original_state(state, kind).items()}
    save_file(named, folder / "model.safetensors")
    original = {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "force_image_size": 56,
        "max_dynamic_patch": 6,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "llm_config": llm,
        "vision_config": {**sizes, **vision},
    }
    write_json(folder / "config.json", original)
    write_json(folder / "generation_config.json", {"eos_token_id": 2, "custom_generate": "x"})
    clip = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "size": 56}
    write_json(folder / "preprocessor_config.json", clip)
    return model


def edit(file: Path, **values: Any) -> None:
    write_json(file, {**read_json(file), **values})


def logits(model: Any, image_token: int) -> Any:
    ids = torch.tensor([[5, 6, *([image_token] * 4), 7, 8]])
    pixels = torch.linspace(-1, 1, 3 * 56 * 56).view(1, 3, 56, 56)
    with torch.inference_mode():
        return model(input_ids=ids, pixel_values=pixels).logits


RMS = {"qkv_bias": False, "qk_normalization": True, "norm_type": "rms_norm"}


@pytest.mark.parametrize(
    ("kind", "tied", "vision"),
    [
        ("qwen2", False, None),
        ("qwen2", True, None),
        ("qwen3", False, None),
        ("llama", False, None),
        ("internlm2", False, None),
        ("qwen2", False, RMS),
    ],
)
def test_the_original_layout_gives_the_logits_of_its_weights(
    tmp_path: Path, kind: str, tied: bool, vision: dict | None
) -> None:
    model = write_original(tmp_path / "source", kind=kind, tied=tied, vision=vision)
    converted = convert(Conversion(tmp_path / "source"), tmp_path / "out")
    assert converted.layout == "original InternVL"
    assert check_manifest(tmp_path / "out")
    loaded = load(str(tmp_path / "out"))
    assert loaded.model.config.tie_word_embeddings is tied
    expected = model.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    token = loaded.processor.image_token_id
    assert torch.equal(logits(loaded.model, token), logits(model, token))


def test_the_settings_of_the_original_layout_are_those_of_the_family(tmp_path: Path) -> None:
    write_original(tmp_path / "source")
    convert(Conversion(tmp_path / "source"), tmp_path / "out")
    loaded = load(str(tmp_path / "out"))
    _, source = tiny("internvl")
    assert loaded.processor.tokenizer.get_vocab() == source.tokenizer.get_vocab()
    assert loaded.processor.tokenizer.chat_template == source.tokenizer.chat_template
    settings = read_json(tmp_path / "out" / "preprocessor_config.json")
    assert (settings["image_mean"], settings["max_patches"]) == ([0.1, 0.2, 0.3], 6)
    end = source.tokenizer.convert_tokens_to_ids("<|im_end|>")
    generation = read_json(tmp_path / "out" / "generation_config.json")
    assert generation["eos_token_id"] == end and "custom_generate" not in generation
    texts = [file.read_text() for file in (tmp_path / "out").glob("*.json")]
    assert not any("auto_map" in text or "attn_implementation" in text for text in texts)
    assert loaded.processor.tiles([make_image(0)])[0].tokens == 4


def test_a_slow_tokenizer_alone_keeps_its_ids(tmp_path: Path) -> None:
    write_original(tmp_path / "source")
    fast = tmp_path / "source" / "tokenizer.json"
    model = read_json(fast)["model"]
    write_json(tmp_path / "source" / "vocab.json", model["vocab"])
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "source" / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    added = {token["content"]: token["id"] for token in read_json(fast)["added_tokens"]}
    write_json(tmp_path / "source" / "added_tokens.json", added)
    fast.unlink()
    edit(tmp_path / "source" / "tokenizer_config.json", additional_special_tokens=["</img>"])
    convert(Conversion(tmp_path / "source"), tmp_path / "out")
    tokenizer, (_, source) = load(str(tmp_path / "out")).processor.tokenizer, tiny("internvl")
    assert tokenizer.get_vocab() == source.tokenizer.get_vocab()
    text = CORPUS[0] + "<|im_end|><IMG_CONTEXT>"
    assert tokenizer.encode(text) == source.tokenizer.encode(text)
    kinds = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    assert kinds["</img>"] and kinds["<|im_start|>"] and not kinds["<|box_start|>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"select_layer": -4}, "select_layer is -4"),
        ({"template": "phi3-chat"}, "'phi3-chat'"),
        ({"use_llm_lora": 16}, "use_llm_lora is 16"),
        ({"force_image_size": 112}, "force_image_size is 112"),
        ({"llm_config": {"architectures": ["Phi3ForCausalLM"]}}, "Phi3ForCausalLM"),
        ({"llm_config": [1]}, "no llm_config"),
        (
            {"llm_config": {**TEXT, "architectures": ["Qwen2ForCausalLM"], "hidden_size": "a"}},
            "'a'",
        ),
        ({"vision_config": {}}, "force_image_size is 56, and only 224"),
        ({"downsample_ratio": "half"}, "config.json"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
    ],
)
def test_what_the_stock_classes_do_not_compute_is_refused(
    tmp_path: Path, changes: dict, message: str
) -> None:
    write_original(tmp_path / "source")
    edit(tmp_path / "source" / "config.json", **changes)
    with pytest.raises(ArtifactError, match=message.replace("(", r"\(")) as error:
        convert(Conversion(tmp_path / "source"), tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_missing_unknown_or_cut_tensor_is_named(tmp_path: Path) -> None:
    write_original(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    state = load_file(file)
    first = "vision_model.encoder.layers.0.norm1.bias"
    for change, message in (
        ({k: v for k, v in state.items() if k != first}, "lacks .*layernorm_before.bias"),
        ({**state, "language_model.model.more": torch.zeros(2)}, "no place for .*more"),
        ({**state, first: state[first][:-1].clone()}, r"\[31\]"),
        ({**state, first: state[first] * float("nan")}, f"{first}.* not finite"),
    ):
        save_file(change, file)
        with pytest.raises(ArtifactError, match=message):
            convert(Conversion(tmp_path / "source"), tmp_path / "out")


def test_buffers_that_every_version_computes_are_left_out_and_counted(tmp_path: Path) -> None:
    write_original(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    buffer = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({**load_file(file), **buffer}, file)
    assert convert(Conversion(tmp_path / "source"), tmp_path / "out").counts["skipped_buffers"] == 1


def test_a_token_that_the_prompts_need_must_be_in_the_vocabulary(tmp_path: Path) -> None:
    write_original(tmp_path / "source")
    file = tmp_path / "source" / "tokenizer.json"
    file.write_text(file.read_text().replace("<IMG_CONTEXT>", "<IMG_OTHER>"))
    settings = tmp_path / "source" / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("<IMG_CONTEXT>", "<IMG_OTHER>"))
    with pytest.raises(ArtifactError, match="IMG_CONTEXT"):
        convert(Conversion(tmp_path / "source"), tmp_path / "out")


def export_tiny(folder: Path) -> dict[str, Any]:
    """A checkpoint under the names of transformers 4.52, and its tensors by those of the class."""
    model, processor = tiny("qwen2_5_vl")
    export(model, processor, folder, RunCard("test", {}))
    (folder / "manifest.json").unlink()
    assert "visual.merger.ln_q.weight" in load_file(folder / "model.safetensors")
    return {name: value for name, value in model.state_dict().items() if "lm_head" not in name}


def test_names_of_older_versions_become_those_of_the_stock_class(tmp_path: Path) -> None:
    state = export_tiny(tmp_path / "source")
    convert(Conversion(tmp_path / "source"), tmp_path / "out")
    converted = load_file(tmp_path / "out" / "model.safetensors")
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)


def test_float32_is_rounded_to_bfloat16_and_counted(tmp_path: Path) -> None:
    state = export_tiny(tmp_path / "source")
    converted = convert(Conversion(tmp_path / "source", "bfloat16"), tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    n_rounded = 0
    for name, value in state.items():
        assert torch.equal(stored[name], value.to(torch.bfloat16))
        n_rounded += int((value.to(torch.bfloat16).float() != value).sum())
    assert converted.counts["rounded"] == n_rounded > 0
    assert read_json(tmp_path / "out" / "config.json")["dtype"] == "bfloat16"
    assert read_json(tmp_path / "out" / "run.json")["counts"]["rounded"] == n_rounded


def test_a_value_too_large_for_the_type_is_refused(tmp_path: Path) -> None:
    state = export_tiny(tmp_path / "source")
    name = "model.language_model.norm.weight"
    save_file({**state, name: state[name] + 1e6}, tmp_path / "source" / "model.safetensors")
    with pytest.raises(ArtifactError, match=f"{name}.* too large for F16; choose bfloat16"):
        convert(Conversion(tmp_path / "source", "float16"), tmp_path / "out")


def test_pickles_are_read_only_if_allowed_and_pinned(tmp_path: Path) -> None:
    state = export_tiny(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    file = tmp_path / "source" / "pytorch_model.bin"
    torch.save(state, file)
    pin = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    for conversion, message in (
        (Conversion(tmp_path / "source"), "allow-pickle"),
        (Conversion(tmp_path / "source", allow_pickle=True), "not pinned"),
        (Conversion(tmp_path / "source", pins=pin), "allow-pickle"),
        (Conversion(tmp_path / "source", allow_pickle=True, pins={file.name: "12"}), "64"),
        (Conversion(tmp_path / "source", allow_pickle=True, pins={"x.bin": "0" * 64}), "x.bin"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(conversion, tmp_path / "out")
    wrong = Conversion(tmp_path / "source", allow_pickle=True, pins={file.name: "0" * 64})
    with pytest.raises(ArtifactError, match="not the file that you pinned"):
        convert(wrong, tmp_path / "out")
    convert(Conversion(tmp_path / "source", allow_pickle=True, pins=pin), tmp_path / "out")
    converted = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(converted[name], state[name]) for name in state)
    hashes = read_json(tmp_path / "out" / "run.json")["hashes"]
    assert hashes == {f"source/{file.name}": pin[file.name]}


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("canary"),))  # type: ignore[return-value]


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_tiny(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    file = tmp_path / "source" / "pytorch_model.bin"
    torch.save({"a": Payload()}, file)
    pin = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="more than tensors"):
        convert(Conversion(tmp_path / "source", allow_pickle=True, pins=pin), tmp_path / "out")
    assert not (tmp_path / "canary").exists()


def test_a_head_equal_to_the_embedding_is_left_out_where_it_is_tied(tmp_path: Path) -> None:
    state = export_tiny(tmp_path / "source")
    embedding = state["model.language_model.embed_tokens.weight"]
    for head, stored in ((embedding.clone(), False), (embedding + 1, True)):
        save_file({**state, "lm_head.weight": head}, tmp_path / "source" / "model.safetensors")
        convert(Conversion(tmp_path / "source"), tmp_path / "out")
        converted = load_file(tmp_path / "out" / "model.safetensors")
        assert ("lm_head.weight" in converted) is stored
        tied = json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
        assert tied is not stored


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    export_tiny(tmp_path / "source")
    with pytest.raises(ConfigError, match="choose another --out"):
        convert(Conversion(tmp_path / "source"), tmp_path)
