"""What the weights of a folder must be: complete, finite, of the class, and read once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lingshu.core.errors import ArtifactError
from lingshu.models.load import identify, load, load_on_meta, open_model_files
from tests.support.mutated_folders import write_base
from tests.support.tiny import FAMILIES

Tensors = dict[str, torch.Tensor]
HEAD, LAYER = "lm_head.weight", "model.language_model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family with one file of weights under the names of its class."""
    folders = {}
    for family in FAMILIES:
        folder = write_base(tmp_path_factory.mktemp(family) / "model", family)
        model = load(str(folder)).model
        tensors = {name: value for name, value in model.state_dict().items() if name != HEAD}
        for path in folder.glob("model*"):
            path.unlink()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        folders[family] = folder
    return folders


def changed(base: Path, folder: Path, change: Callable[[Tensors], object]) -> str:
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def write_config(folder: str, **values: Any) -> None:
    """Set keys of config.json; `text` is for its text_config, None removes a key."""
    path = Path(folder, "config.json")
    config = json.loads(path.read_text())
    for part, changes in ((config["text_config"], values.pop("text", {})), (config, values)):
        for key, value in changes.items():
            part.pop(key, None)
            if value is not None:
                part[key] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(LAYER), rf"lacks 1 of the \d+ tensors of its class.*{LAYER}"),
        (lambda t: t.update({"model.extra": torch.ones(2)}), r"holds 1 tensors.*model.*extra"),
        (lambda t: t.update({LAYER: t[LAYER][1:]}), rf"{LAYER} has shape \[63, 32\].*\[64, 32\]"),
        (lambda t: t.update({LAYER: t[LAYER].long()}), rf"{LAYER} is stored as I64"),
        (lambda t: t[LAYER].view(-1)[5:6].fill_(float("nan")), rf"not finite.*{LAYER}"),
        (lambda t: t[LAYER].view(-1)[-1:].fill_(float("inf")), rf"not finite.*{LAYER}"),
        (
            lambda t: t.update({LAYER.replace("model.language_model", "model"): t[LAYER] + 1}),
            "twice, as",
        ),
        (lambda t: [t.pop(name) for name in list(t) if "visual" in name], r"lacks \d+ of the"),
    ],
)
def test_tensors_that_are_not_those_of_the_class_are_named(
    bases: dict[str, Path], tmp_path: Path, change: Callable[[Tensors], object], message: str
) -> None:
    folder = changed(bases["qwen2_5_vl"], tmp_path / "x", change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and folder in str(caught.value)


def test_a_buffer_that_old_versions_stored_is_ignored(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    name = "model.language_model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = changed(bases["qwen2_5_vl"], tmp_path / "x", lambda t: t.update({name: torch.ones(4)}))
    assert load(folder).model is not None


# What is stored as the head, what config.json and its text_config say, and whether it is tied.
TIES = [
    ("none", True, None, True),
    ("none", None, True, True),
    ("none", False, True, True),
    ("none", False, False, None),
    ("equal", True, None, True),
    ("equal", False, False, False),
    ("other", True, True, False),
    ("other", None, None, False),
    ("other", None, False, False),
    ("other", True, False, False),
]


# One whose class is untied by default, and one whose class is tied.
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
@pytest.mark.parametrize(("head", "top", "text", "tied"), TIES)
def test_the_tensors_decide_whether_the_head_is_tied(
    bases: dict[str, Path],
    tmp_path: Path,
    family: str,
    head: str,
    top: bool | None,
    text: bool | None,
    tied: bool | None,
) -> None:
    def store_head(tensors: Tensors) -> None:
        embedding = next(value for name, value in tensors.items() if "embed_tokens" in name)
        if head != "none":
            tensors[HEAD] = embedding + (head == "other")

    folder = changed(bases[family], tmp_path / "x", store_head)
    write_config(folder, tie_word_embeddings=top, text={"tie_word_embeddings": text})
    if tied is None:
        with pytest.raises(ArtifactError, match=r"lacks 1 .*lm_head\.weight"):
            load(folder)
        return
    for loaded in (load(folder), load_on_meta(folder)):
        model = loaded.model
        assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
        assert model.config.tie_word_embeddings == tied
    model = load(folder).model
    embedding = model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, embedding + (head == "other"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_process_without_values_has_the_parameters_of_the_first(
    bases: dict[str, Path], family: str
) -> None:
    def shapes(model: Any) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in model.named_parameters()}

    folder = str(bases[family])
    assert shapes(load_on_meta(folder).model) == shapes(load(folder).model)


def test_a_loaded_model_does_not_change_with_its_file(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(bases["qwen2_5_vl"], tmp_path / "x", lambda _: None)
    loaded = load(folder)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    path = Path(folder, "model.safetensors")
    path.write_bytes(bytes(path.stat().st_size))
    assert all(
        torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": {"hidden_size": "big"}}, "hidden_size"),
        ({"text": {"layer_types": ["full_attention"]}}, "layer_types"),
        ({"text": {"num_hidden_layers": 10**9}}, "num_hidden_layers 1000000000"),
        ({"text": {"num_hidden_layers": 3, "layer_types": None}}, "lacks"),
        ({"text": {"num_hidden_layers": 1, "layer_types": None}}, "holds"),
        ({"text": {"hidden_act": "no such"}}, "no such"),
        ({"text_config": [1, 2]}, "text_config"),
        ({"text": {"vocab_size": 10**9}}, "has shape"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq.*16-bit"),
        ({"quantization_config": ["x"]}, "quantized by an unnamed method"),
        ({"model_type": 3}, "model.type"),
        ({"model_type": None}, "model.type"),
    ],
)
def test_a_configuration_that_is_not_of_the_weights_is_one_line(
    bases: dict[str, Path], tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = changed(bases["qwen2_5_vl"], tmp_path / "x", lambda _: None)
    write_config(folder, **values)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and folder in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize"),
        ("preprocessor_config.json", {"resample": None}, "resample"),
        ("preprocessor_config.json", {"patch_size": 7}, "patch_size|settings"),
        ("tokenizer_config.json", {"model_max_length": [1]}, "tokenizer"),
    ],
)
def test_settings_that_do_not_fit_are_found_at_load(
    bases: dict[str, Path], tmp_path: Path, name: str, values: dict[str, Any], message: str
) -> None:
    folder = changed(bases["qwen2_5_vl"], tmp_path / "x", lambda _: None)
    path = Path(folder, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(ArtifactError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_other_weights_of_equal_size_and_time_are_another_model(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(bases["internvl"], tmp_path / "x", lambda _: None)
    first, path = identify(folder)[1], Path(folder, "model.safetensors")
    stat = path.stat()
    tensors = load_file(path)
    save_file({name: value * 0 for name, value in tensors.items()}, path, {"format": "pt"})
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert identify(folder)[1] != first and load(folder).digest == identify(folder)[1]


def test_a_hub_id_is_its_commit_and_is_opened_by_the_same_checks(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commits = {"main": "a" * 40, "a" * 40: "a" * 40, "old": "b" * 40, "b" * 40: "b" * 40}
    requests = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        requests.append(allow_patterns)
        folder = tmp_path / commits[revision or "main"]
        shutil.copytree(bases["qwen2_5_vl"], folder, dirs_exist_ok=True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    _, digest = identify("org/model")
    assert not any("safetensors" in pattern for pattern in requests[0])
    loaded = load("org/model")
    assert (loaded.name, loaded.digest) == ("org/model", digest)
    assert requests[-1] == ["model.safetensors"]
    assert identify("org/model", revision="old")[1] != digest
    (tmp_path / ("a" * 40) / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="adapter"):
        load("org/model")


def test_what_is_left_out_of_a_folder_is_noted(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(bases["qwen2_5_vl"], tmp_path / "x", lambda _: None)
    path = Path(folder, "generation_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "custom_generate": "org/x"}))
    assert load(folder).notes == (
        "generation_config.json asks for code (custom_generate), which is not run",
    )
    assert open_model_files(Path(folder))[0].settings("generation_config.json") is not None
