"""One model in the layouts of several transformers versions: merged as what its class reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from transformers import (
    AutoModelForImageTextToText,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from lingshu.core.errors import ArtifactError, InputError
from lingshu.weights.base import MergeWeights
from lingshu.weights.output import MergePlan, merge
from tests.support.checkpoint_files import read_model

State = dict[str, torch.Tensor]
HALF = MergeWeights((0.5, 0.5))
TEXT: dict[str, Any] = {
    **{"vocab_size": 40, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6},
    **{"hidden_act": "silu", "max_position_embeddings": 128, "tie_word_embeddings": False},
}
ROPE = {"type": "mrope", "mrope_section": [1, 1, 0]}
VISION: dict[str, Any] = {
    **{"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 8},
    **{"fullatt_block_indexes": [0], "hidden_act": "silu", "tokens_per_second": 2},
}
TOKENS: dict[str, Any] = {"image_token_id": 5, "video_token_id": 6}
# config.json as transformers 4.41, 4.57 and 5 write it for one Qwen2.5-VL model.
FLAT = {
    "rope_theta": 1e6,
    "sliding_window": 64,
    "use_sliding_window": False,
    "max_window_layers": 2,
}
TOP = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
QWEN_441 = {
    **TOP,
    **TEXT,
    **FLAT,
    **TOKENS,
    "rope_scaling": ROPE,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "vision_config": {**VISION, "in_chans": 3, "spatial_patch_size": 14},
}
QWEN_457 = {
    **QWEN_441,
    "dtype": "bfloat16",
    "rope_scaling": {**ROPE, "type": "default", "rope_type": "default"},
    "transformers_version": "4.57.6",
    "text_config": {
        **TEXT,
        **FLAT,
        "model_type": "qwen2_5_vl_text",
        "rope_scaling": {**ROPE, "type": "default", "rope_type": "default"},
        "layer_types": ["full_attention"] * 2,
        "image_token_id": None,
    },
    "vision_config": {**VISION, "model_type": "qwen2_5_vl", "initializer_range": 0.02},
}
# How the published tokenizer of Qwen2 splits text.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_OLD_NAMES = (("model.visual.", "visual."), ("model.language_model.", "model."))
INTERN_452_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", ""),
)


def qwen_5() -> dict[str, Any]:
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [1, 1, 0],
                "rope_theta": 1e6,
            },
        },
        vision_config=VISION,
        **TOKENS,
    )
    return {**json.loads(config.to_json_string()), "architectures": TOP["architectures"]}


def qwen_state(seed: int) -> State:
    return state_of(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**qwen_5())), seed)


def state_of(model: Any, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator).bfloat16()
        for name, tensor in model.state_dict().items()
    }


def renamed(state: State, rules: tuple[tuple[str, str], ...]) -> State:
    out = {}
    for name, tensor in state.items():
        rule = next((rule for rule in rules if name.startswith(rule[0])), ("", ""))
        out[rule[1] + name.removeprefix(rule[0])] = tensor
    return out


def write(folder: Path, config: dict[str, Any], state: State) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def check_mean(out: Path, a: State, b: State, rules: tuple[tuple[str, str], ...]) -> None:
    """The result has A's names, is the mean, and is read completely by transformers."""
    found, expected = read_model(out), renamed(a, rules)
    assert found.keys() == expected.keys()
    for name, tensor in renamed(b, rules).items():
        mean = (expected[name].float() + tensor.float()) / 2
        torch.testing.assert_close(found[name].float(), mean, rtol=1e-2, atol=1e-3)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        out, output_loading_info=True, trust_remote_code=False, dtype=torch.bfloat16
    )
    model, info = loaded
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(model.lm_head.weight, found[next(n for n in found if "lm_head" in n)])


@pytest.mark.parametrize("first", ["4.41", "4.57", "5"])
@pytest.mark.parametrize("second", ["4.41", "4.57", "5"])
def test_a_model_of_any_version_is_merged_with_one_of_any_other(
    tmp_path: Path, first: str, second: str
) -> None:
    layouts = {
        "4.41": (QWEN_441, QWEN_OLD_NAMES),
        "4.57": (QWEN_457, QWEN_OLD_NAMES),
        "5": (qwen_5(), ()),
    }
    states = qwen_state(1), qwen_state(2)
    folders = [
        write(tmp_path / label, layouts[version][0], renamed(state, layouts[version][1]))
        for label, version, state in zip("ab", (first, second), states, strict=True)
    ]
    merge(MergePlan(tuple(folders)), tmp_path / "out", HALF)
    check_mean(tmp_path / "out", *states, layouts[first][1])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == json.loads(json.dumps(layouts[first][0]))


def test_internvl_names_of_two_versions_are_one_model_and_the_tensors_decide_the_tie(
    tmp_path: Path,
) -> None:
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": [28, 28], "patch_size": [14, 14]}
    text = {**TEXT, "model_type": "qwen2", "rope_theta": 1e6}
    new = InternVLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    # 4.52 wrote no tie_word_embeddings for an untied InternVL; the default of the class is tied.
    old = {"model_type": "internvl", "text_config": text, "vision_config": vision}
    states = [state_of(InternVLForConditionalGeneration(new), seed) for seed in (1, 2)]
    a = write(tmp_path / "a", old, renamed(states[0], INTERN_452_NAMES))
    b = write(tmp_path / "b", json.loads(new.to_json_string()), states[1])
    merge(MergePlan((a, b)), tmp_path / "one", HALF)
    check_mean(tmp_path / "one", states[0], states[1], INTERN_452_NAMES)
    merge(MergePlan((b, a)), tmp_path / "two", HALF)
    check_mean(tmp_path / "two", states[1], states[0], ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 4}, "config.text_config.num_attention_heads is 4, not 2"),
        ({"rms_norm_eps": 1e-5}, "config.text_config.rms_norm_eps is 1e-05, not 1e-06"),
        ({"rope_theta": 1e4}, "rope_theta is 10000.0, not 1000000.0"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "layer_types is"),
        ({"image_token_id": 7}, "config.image_token_id is 7, not 5"),
        ({"model_type": "qwen2_vl"}, "its model type is 'qwen2_vl'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq"),
    ],
)
def test_what_changes_the_computation_is_refused_and_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    state = renamed(qwen_state(1), QWEN_OLD_NAMES)
    a, b = (write(tmp_path / "a", QWEN_441, state), write(tmp_path / "b", QWEN_441 | change, state))
    with pytest.raises(InputError, match=message):
        merge(MergePlan((a, b)), tmp_path / "out", HALF)


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": False, "attention_dropout": 0.1, "initializer_range": 0.01},
        {"max_position_embeddings": 256, "_name_or_path": "x", "unknown_key": [1]},
        {"eos_token_id": 3, "torch_dtype": "float16", "architectures": None},
        {"_attn_implementation": "org/kernel", "auto_map": {"AutoConfig": "own.Config"}},
    ],
)
def test_what_does_not_change_the_computation_is_not_compared(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    state = renamed(qwen_state(1), QWEN_OLD_NAMES)
    a, b = (write(tmp_path / "a", QWEN_441 | change, state), write(tmp_path / "b", QWEN_441, state))
    merge(MergePlan((a, b)), tmp_path / "out", HALF)
    text = (tmp_path / "out/config.json").read_text()
    assert "auto_map" not in text and "_attn_implementation" not in text


def test_a_configuration_that_its_class_refuses_is_one_line(tmp_path: Path) -> None:
    state = renamed(qwen_state(1), QWEN_OLD_NAMES)
    a = write(tmp_path / "a", QWEN_441, state)
    for number, change in enumerate(({"hidden_size": "big"}, {"text_config": [1]})):
        b = write(tmp_path / str(number), QWEN_441 | change, state)
        with pytest.raises(ArtifactError, match=r"config.json is not one of a qwen2_5_vl model"):
            merge(MergePlan((a, b)), tmp_path / "out", HALF)


def test_a_configuration_that_builds_no_model_is_one_line(tmp_path: Path) -> None:
    state = qwen_state(1) | {"more": torch.zeros(1)}
    config = qwen_5()
    config["text_config"]["hidden_act"] = "unknown"
    a = write(tmp_path / "a", config, qwen_state(1))
    b = write(tmp_path / "b", config, state)
    with pytest.raises(ArtifactError, match=r"config.json cannot be used"):
        merge(MergePlan((a, b)), tmp_path / "out", HALF)


def test_a_tensor_stored_under_two_names_is_refused(tmp_path: Path) -> None:
    state = qwen_state(1)
    a = write(tmp_path / "a", qwen_5(), state)
    twice = {**state, "model.norm.weight": state["model.language_model.norm.weight"].clone()}
    b = write(tmp_path / "b", qwen_5(), twice)
    with pytest.raises(ArtifactError, match=r"both model.language_model.norm.weight"):
        merge(MergePlan((a, b)), tmp_path / "out", HALF)


def test_more_rows_than_the_other_are_refused_with_the_remedy(tmp_path: Path) -> None:
    state = qwen_state(1)
    rows = {
        name: torch.zeros(64, 8, dtype=torch.bfloat16)
        for name in ("lm_head.weight", "model.language_model.embed_tokens.weight")
    }
    a = write(tmp_path / "a", qwen_5(), state)
    config = qwen_5()
    config["text_config"]["vocab_size"] = 64
    b = write(tmp_path / "b", config, state | rows)
    with pytest.raises(InputError, match=r"vocab_size is 64, not 40.*Give both 64 rows"):
        merge(MergePlan((a, b)), tmp_path / "out", HALF)


def test_only_files_that_make_the_model_are_copied(tmp_path: Path) -> None:
    state = qwen_state(1)
    a = write(tmp_path / "a", qwen_5(), state)
    for name in ("args.json", "trainer_state.json", "pytorch_model.bin.index.json"):
        (a / name).write_text("{}")
    (a / "generation_config.json").write_text('{"custom_generate": "x", "temperature": 0.5}')
    (a / "license.txt").write_text("Apache")
    (a / "additional_chat_templates").mkdir()
    (a / "additional_chat_templates/tool_use.jinja").write_text("{{ 1 }}")
    merge(MergePlan((a, a)), tmp_path / "out", HALF)
    copied = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert copied == {
        *("config.json", "generation_config.json", "license.txt", "model.safetensors"),
        *("additional_chat_templates/tool_use.jinja", "README.md", "run.json", "manifest.json"),
    }
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == {"temperature": 0.5}


def head_of(folder: Path, tensors: State, **flags: bool) -> Path:
    return write(folder, QWEN_441 | flags, renamed(tensors, QWEN_OLD_NAMES))


def test_a_tied_model_is_not_merged_into_one_with_its_own_head(tmp_path: Path) -> None:
    state, embedding = qwen_state(1), "model.language_model.embed_tokens.weight"
    tied = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    a = head_of(tmp_path / "a", tied, tie_word_embeddings=True)
    b = head_of(tmp_path / "b", state)
    with pytest.raises(InputError, match=r"differs from its embedding.*name .*b first"):
        merge(MergePlan((a, b)), tmp_path / "out", HALF)
    merge(MergePlan((b, a)), tmp_path / "out", HALF)
    mean = (state["lm_head.weight"].float() + state[embedding].float()) / 2
    torch.testing.assert_close(
        read_model(tmp_path / "out")["lm_head.weight"].float(), mean, rtol=1e-2, atol=1e-3
    )
    headless = head_of(tmp_path / "headless", tied)
    with pytest.raises(InputError, match=r"lm_head.weight is missing"):
        merge(MergePlan((b, headless)), tmp_path / "other", HALF)


def write_tokenizer(folder: Path, *, fast: bool, more: tuple[str, ...] = ()) -> None:
    """A byte-level tokenizer of two merges, as older (vocab.json) or as newer programs store it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*letters, "he", "art"])}
    merges = [("h", "e"), ("a", "r"), ("ar", "t")]
    vocab["ar"] = len(vocab)
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]
    ids = {token: len(vocab) + number for number, token in enumerate(added)}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    if fast:
        bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        bpe.normalizer, bpe.decoder = normalizers.NFC(), decoders.ByteLevel()
        split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        bpe.add_special_tokens([AddedToken(token, normalized=False) for token in added])
        bpe.save(str(folder / "tokenizer.json"))
    else:
        (folder / "vocab.json").write_text(json.dumps(vocab))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    decoder = {str(n): {"content": token, "special": True, **flags} for token, n in ids.items()}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}
    settings |= {"pad_token": "<|endoftext|>" if fast else "<|im_start|>", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "added_tokens_decoder": decoder})
    )


def test_tokenizers_are_compared_by_their_tokens_whatever_files_hold_them(tmp_path: Path) -> None:
    state = qwen_state(1)
    folders = {
        name: write(tmp_path / name, qwen_5(), state) for name in ("slow", "fast", "more", "end")
    }
    write_tokenizer(folders["slow"], fast=False)
    write_tokenizer(folders["fast"], fast=True)
    write_tokenizer(folders["more"], fast=True, more=("<seg>",))
    write_tokenizer(folders["end"], fast=True)
    config = json.loads((folders["end"] / "tokenizer_config.json").read_text())
    (folders["end"] / "tokenizer_config.json").write_text(
        json.dumps(config | {"eos_token": "<|endoftext|>"})
    )
    merge(MergePlan((folders["slow"], folders["fast"])), tmp_path / "out", HALF)
    merge(MergePlan((folders["fast"], folders["slow"])), tmp_path / "out", HALF)
    for other, message in (
        ("more", r"1 tokens of the tokenizer have other ids \('<seg>' is 262, not missing\)"),
        ("end", r"the end token is '<\|endoftext\|>', not '<\|im_end\|>'"),
    ):
        with pytest.raises(InputError, match=message):
            merge(MergePlan((folders["slow"], folders[other])), tmp_path / "no", HALF)
    merges = folders["end"] / "tokenizer.json"
    changed = json.loads(merges.read_text())
    changed["model"]["merges"] = [["h", "e"]]
    merges.write_text(json.dumps(changed))
    with pytest.raises(InputError, match="cuts the same text into other tokens"):
        merge(MergePlan((folders["fast"], folders["end"])), tmp_path / "no", HALF)
    merges.write_text("{}")
    with pytest.raises(ArtifactError, match="its tokenizer cannot be loaded"):
        merge(MergePlan((folders["fast"], folders["end"])), tmp_path / "no", HALF)


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The same dialogues in other words, as programs rewrite templates.
RESPELLED = TEMPLATE.replace("m['role']", "m.role").replace("{% for m in", "{%- for m in")
TEXT_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER = TEMPLATE.replace("<image>", "<image>\n")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"chat_template.jinja": TEMPLATE}, {"chat_template.json": RESPELLED}, None),
        # The layout of Qwen2.5-VL on the hub: the tokenizer has the template of the text model.
        (
            {"chat_template.json": TEMPLATE, "tokenizer_config.json": TEXT_ONLY},
            {"chat_template.jinja": TEMPLATE},
            None,
        ),
        ({"processor_config.json": TEMPLATE}, {"tokenizer_config.json": TEXT_ONLY}, None),
        ({"chat_template.jinja": TEMPLATE}, {}, None),
        ({"chat_template.jinja": TEMPLATE}, {"chat_template.json": OTHER}, "template differs"),
        (
            {"chat_template.jinja": TEMPLATE},
            {"chat_template.json": TEMPLATE, "chat_template.jinja": OTHER},
            r"B holds two chat templates that differ \(chat_template.json and chat_template.jinja",
        ),
    ],
)
def test_chat_templates_are_compared_by_the_text_that_they_render(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], message: str | None
) -> None:
    state = qwen_state(1)
    folders = []
    for label, files in (("a", first), ("b", second)):
        folder = write(tmp_path / label, qwen_5(), state)
        for name, text in files.items():
            is_json = name.endswith(".json")
            (folder / name).write_text(json.dumps({"chat_template": text}) if is_json else text)
        folders.append(folder)
    if message is None:
        merge(MergePlan(tuple(folders)), tmp_path / "out", HALF)
    else:
        with pytest.raises(InputError, match=message):
            merge(MergePlan(tuple(folders)), tmp_path / "out", HALF)
