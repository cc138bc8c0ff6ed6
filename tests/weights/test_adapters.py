"""LoRA adapters are merged as the deltas they stand for: peft itself, on a base, is the judge."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")

import peft
import torch
from safetensors.torch import load_file, save_file

from lingshu.core.errors import ArtifactError, ConfigError, InputError
from lingshu.weights.base import MergeWeights
from lingshu.weights.output import MergePlan, merge
from tests.support.checkpoint_files import write_model

ADAPTER = "adapter_model.safetensors"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            torch.nn.Linear(6, 5, bias=False),
            torch.nn.Linear(5, 4, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def adapter(folder: Path, seed: int, targets: list[str], rank: int, **settings: object) -> Path:
    """An adapter with random factors, as peft saves it."""
    config = peft.LoraConfig(
        r=rank,
        target_modules=targets,
        base_model_name_or_path="base",
        **settings,  # type: ignore[arg-type]
    )
    model = peft.get_peft_model(net(), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    model.save_pretrained(str(folder))
    settings_file = folder / "adapter_config.json"
    settings_file.write_text(
        json.dumps(json.loads(settings_file.read_text()) | {"base_model_name_or_path": "base"})
    )
    return folder


def merged_model(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the base with the adapter merged in by peft."""
    return peft.PeftModel.from_pretrained(net(), str(folder)).merge_and_unload().state_dict()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Adapters of other ranks, scales and layers; one is rank-stabilised, one has a layer of its
    own rank and scale.
    """
    a = adapter(
        tmp_path / "a",
        1,
        ["first", "second"],
        2,
        lora_alpha=8,
        rank_pattern={"second": 3},
        alpha_pattern={"second": 5},
    )
    return a, adapter(tmp_path / "b", 2, ["first"], 4, lora_alpha=16, use_rslora=True)


@pytest.mark.parametrize(
    ("method", "weights"), [("linear", (0.3, 0.7)), ("task", (1.0, -0.5)), ("soup", (0.5, 0.5))]
)
def test_the_merged_adapter_is_the_weighted_sum_of_deltas(
    tmp_path: Path, pair: tuple[Path, Path], method: str, weights: tuple[float, float]
) -> None:
    merge(MergePlan(pair, method), tmp_path / "out", MergeWeights(weights))
    base, first, second, found = (
        net().state_dict(),
        *map(merged_model, pair),
        merged_model(tmp_path / "out"),
    )
    for name, start in base.items():
        expected = start + weights[0] * (first[name] - start) + weights[1] * (second[name] - start)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5)
    assert (
        json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"]
        == "base"
    )


def test_an_endpoint_is_copied_with_its_settings(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    merge(MergePlan(pair), tmp_path / "out", MergeWeights((0.0, 1.0)))
    first, second = load_file(pair[1] / ADAPTER), load_file(tmp_path / "out" / ADAPTER)
    assert first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
    assert merged_model(tmp_path / "out").keys() == merged_model(pair[1]).keys()


def test_what_factors_do_not_define_is_refused(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    a, b = pair
    with pytest.raises(ConfigError, match="weighted sum of deltas"):
        merge(MergePlan((a, b), "slerp"), tmp_path / "out", MergeWeights((0.5, 0.5)))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        merge(MergePlan((a, b)), tmp_path / "out", MergeWeights((2.0, 2.0)))
    settings = json.loads((b / "adapter_config.json").read_text())
    for key, value in (
        ("use_dora", True),
        ("modules_to_save", ["second"]),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
        ("base_model_name_or_path", "other"),
    ):
        (b / "adapter_config.json").write_text(json.dumps(settings | {key: value}))
        with pytest.raises(InputError, match=key if key != "bias" else "biases"):
            merge(MergePlan((a, b)), tmp_path / "out", MergeWeights((0.5, 0.5)))
    (b / "adapter_config.json").write_text(json.dumps(settings))
    model = write_model(tmp_path / "model", {"x": torch.ones(1)})
    with pytest.raises(InputError, match="merge the adapter into its base first"):
        merge(MergePlan((a, model)), tmp_path / "out", MergeWeights((0.5, 0.5)))
    for name in ("adapter_config.json", ADAPTER):
        shutil.copy(a / name, model)
    with pytest.raises(ArtifactError, match=r"holds an adapter .* alongside a whole model"):
        merge(MergePlan((model, model)), tmp_path / "out", MergeWeights((0.5, 0.5)))
    broken = {name: tensor.fill_(float("nan")) for name, tensor in load_file(b / ADAPTER).items()}
    save_file(broken, b / ADAPTER)
    with pytest.raises(ArtifactError, match="lora_A"):
        merge(MergePlan((a, b)), tmp_path / "out", MergeWeights((0.5, 0.5)))


def test_a_broken_adapter_is_named_whatever_its_weight(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    broken = load_file(pair[1] / ADAPTER)
    next(iter(broken.values()))[0, 0] = float("nan")
    save_file(broken, pair[1] / ADAPTER)
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        with pytest.raises(ArtifactError, match="lora_A"):
            merge(MergePlan(pair), tmp_path / "out", MergeWeights(weights))


def test_an_adapter_that_safetensors_refuses_is_named(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    file = pair[1] / ADAPTER
    data = file.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    for entry in (entry for name, entry in header.items() if name != "__metadata__"):
        entry["data_offsets"] = [offset + 8 for offset in entry["data_offsets"]]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8) + data[8 + size :])
    with pytest.raises(ArtifactError, match=f"{ADAPTER} cannot be read .*; copy it again"):
        merge(MergePlan(pair), tmp_path / "out", MergeWeights((0.5, 0.5)))


def test_factors_too_large_for_their_type_are_an_error(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    for folder in pair:
        save_file(
            {name: tensor.half() for name, tensor in load_file(folder / ADAPTER).items()},
            folder / ADAPTER,
        )
    with pytest.raises(ArtifactError, match=r"lora_B.* too large for F16"):
        merge(MergePlan(pair, "task"), tmp_path / "out", MergeWeights((1e6, 1.0)))
    assert not (tmp_path / "out").exists()


def renested(folder: Path, source: Path, prefix: str, base: str = "base") -> Path:
    """A copy of an adapter whose modules are nested in another way."""
    folder.mkdir()
    config = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": base})
    )
    tensors = load_file(source / ADAPTER)
    names = {name: name.replace("base_model.model.", prefix) for name in tensors}
    save_file({names[name]: tensor for name, tensor in tensors.items()}, folder / ADAPTER)
    return folder


def test_adapters_of_two_versions_of_transformers_are_merged_by_module(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    old = renested(tmp_path / "old", pair[1], "base_model.model.model.layers.0.")
    new = renested(tmp_path / "new", pair[0], "base_model.model.model.language_model.layers.0.")
    merge(MergePlan((new, old)), tmp_path / "out", MergeWeights((0.5, 0.5)))
    merge(MergePlan(pair), tmp_path / "same", MergeWeights((0.5, 0.5)))
    found, expected = load_file(tmp_path / "out" / ADAPTER), load_file(tmp_path / "same" / ADAPTER)
    assert {name.replace("model.language_model.layers.0.", "") for name in found} == set(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name.replace("model.language_model.layers.0.", "")])
    # A module that only the other has is named as the first names its neighbors.
    merge(MergePlan((old, new)), tmp_path / "turned", MergeWeights((0.5, 0.5)))
    turned = load_file(tmp_path / "turned" / ADAPTER)
    assert {name.replace("model.layers.0.", "") for name in turned} == set(expected)
    vision = renested(tmp_path / "vision", pair[0], "base_model.model.model.visual.blocks.0.")
    with pytest.raises(InputError, match=r"a part that .*old.* does not adapt.*vision first"):
        merge(MergePlan((old, vision)), tmp_path / "no", MergeWeights((0.5, 0.5)))


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "/models/Qwen2.5-VL-7B-Instruct", True),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "unsloth/Qwen2.5-VL-7B-Instruct-unsloth-bnb-4bit", True),
        ("Qwen/A-7B", "/cache/models--Qwen--A-7B/snapshots/0a1b", True),
        ("Qwen/A-7B", "Qwen/A-3B", False),
        ("/runs/1/checkpoint", "/runs/2/checkpoint", False),
    ],
)
def test_one_base_may_be_named_by_hub_id_by_download_or_by_a_quantized_copy(
    tmp_path: Path, pair: tuple[Path, Path], first: str, second: str, *, is_same: bool
) -> None:
    a = renested(tmp_path / "first", pair[0], "base_model.model.", first)
    b = renested(tmp_path / "second", pair[1], "base_model.model.", second)
    if is_same:
        merge(MergePlan((a, b)), tmp_path / "out", MergeWeights((0.5, 0.5)))
    else:
        with pytest.raises(InputError, match="only adapters of one base"):
            merge(MergePlan((a, b)), tmp_path / "out", MergeWeights((0.5, 0.5)))
