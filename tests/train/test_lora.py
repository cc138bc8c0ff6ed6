"""LoRA stages: what is trained, what is saved, what the merged model says."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lingshu.core.errors import ConfigError
from lingshu.core.run_card import RunCard
from lingshu.core.types import Message
from lingshu.models.export import export
from lingshu.models.load import load
from lingshu.models.model_spec import TinyModel
from lingshu.models.tiny import build_tiny
from lingshu.recipes.lora_7b import recipe
from lingshu.train import loop
from lingshu.train.config import LearningRates, Lora, Stage, TrainConfig
from lingshu.train.estimate import estimate_run
from lingshu.train.loop import StopRequested, train
from lingshu.train.progress import StepProgress
from lingshu.train.step import Trainer, build_trainer
from tests.support.tiny import CORPUS, REPRESENTATIVES, SMALL, small_config

peft = pytest.importorskip("peft", reason="peft is not installed")


def lora_config(folder: Path, family: str) -> TrainConfig:
    """A full stage, then a LoRA stage on the language model, on rates high enough to move it."""
    config = small_config(folder, family=family)
    adapted = replace(
        config.stages[1],
        name="lora",
        learning_rates=LearningRates(language=1e-2),
        lora=Lora(rank=4, alpha=8),
    )
    return replace(config, stages=(config.stages[0], adapted))


@pytest.fixture(scope="module", params=REPRESENTATIVES)
def trained_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, Path]:
    folder = tmp_path_factory.mktemp("lora")
    config = lora_config(folder, request.param)
    train(config, folder / "run")
    return config, folder / "run"


def test_only_the_adapted_layers_change_and_the_checkpoint_has_the_stock_format(
    trained_run: tuple[TrainConfig, Path],
) -> None:
    _, out = trained_run
    before, after = (
        load(str(out / checkpoint)) for checkpoint in ("stages/1-shallow", "checkpoint")
    )
    family = before.processor.family
    old, new = dict(before.model.named_parameters()), dict(after.model.named_parameters())
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    linear = {
        f"{name}.weight"
        for name, module in before.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert changed == {
        name
        for name in linear
        if family.part_of(name) == "language" and not name.startswith("lm_head")
    }


def test_peft_loads_the_adapter_and_gives_the_answers_of_the_merged_model(
    trained_run: tuple[TrainConfig, Path],
) -> None:
    _, out = trained_run
    # It says itself what it belongs onto: not the run's own start, which the stage before has
    # changed.
    name = json.loads((out / "adapters" / "2-lora" / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ]
    assert name == str(out / "stages" / "1-shallow")
    base, merged = load(name), load(str(out / "checkpoint"))
    encoded = merged.processor.encode([Message("user", ("Is there a lesion?",))], ())
    batch = {
        k: v for k, v in merged.processor.collate([encoded], pad="right").items() if k != "labels"
    }
    with torch.no_grad():
        plain = base.model(**batch).logits
        adapted = (
            peft.PeftModel.from_pretrained(base.model, str(out / "adapters" / "2-lora"))
            .eval()(**batch)
            .logits
        )
        expected = merged.model(**batch).logits
    assert float((adapted - expected).abs().max()) < 1e-4
    assert float((plain - expected).abs().max()) > 1e-2


def test_an_interrupted_lora_stage_ends_in_the_same_bits(
    trained_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, uninterrupted = trained_run

    class Interrupted(Exception):
        pass

    def interrupt(now: StepProgress) -> None:
        if (now.stage, now.step) == ("lora", 4):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=interrupt)
    train(config, tmp_path / "run", resume=True)
    state_dicts = [
        load(str(folder / "checkpoint")).model.state_dict()
        for folder in (tmp_path / "run", uninterrupted)
    ]
    assert all(torch.equal(state_dicts[0][name], state_dicts[1][name]) for name in state_dicts[1])


def test_a_lora_stage_is_planned_and_checked() -> None:
    plan = estimate_run(recipe())
    assert plan.stages[0].trained["vision"] == 0
    # q and o (3584 + 3584), k and v (3584 + 512), three of the feed-forward network (3584 + 18944),
    # 28 layers, rank 64
    assert plan.stages[0].trained["language"] == 64 * 28 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert plan.stages[0].bytes_per_gpu[1] < 80e9
    with pytest.raises(
        ConfigError,
        match=r"lora is put on language, which has no learning rate; give learning_rates.language",
    ):
        Stage("x", ("x",), LearningRates(projector=1e-4), batch=1, lora=Lora())
    with pytest.raises(ConfigError, match="trains nothing"):
        Lora(rank=0)


def test_a_state_holds_adapters_and_their_moments_and_names_the_checkpoint_they_belong_to(
    tmp_path: Path, trained_run: tuple[TrainConfig, Path]
) -> None:
    config, done = trained_run
    base = tmp_path / "base"
    shutil.copytree(done / "stages" / "1-shallow", base)
    config = replace(config, model=str(base), stages=config.stages[1:], save_every=1)
    stops = iter((False, True))
    with pytest.raises(StopRequested):
        train(config, tmp_path / "run", stop=lambda: next(stops))
    index = json.loads(
        (tmp_path / "run" / "state" / "00-00000002" / "index.json").read_text(encoding="utf-8")
    )
    kinds = {name.split("/", 1)[0] for name in index["tensors"]}
    assert kinds == {"weight", "step", "exp_avg", "exp_avg_sq", "random"}
    assert all("lora_" in n for n in index["tensors"] if not n.startswith("random/"))
    train(config, tmp_path / "run", resume=True, stop=lambda: False)
    train(config, tmp_path / "whole")
    weights = [
        (tmp_path / run / "checkpoint" / "model.safetensors").read_bytes()
        for run in ("run", "whole")
    ]
    assert weights[0] == weights[1]
    with pytest.raises(StopRequested):
        train(config, tmp_path / "other", stop=lambda: True)
    shutil.rmtree(base)
    shutil.copytree(done / "checkpoint", base)
    with pytest.raises(ConfigError, match=r"is not the checkpoint that .* started from"):
        train(config, tmp_path / "other", resume=True)


def bfloat16_config(trained_run: tuple[TrainConfig, Path], folder: Path) -> TrainConfig:
    """The LoRA stage from a checkpoint in bfloat16, in steps of bfloat16."""
    config, done = trained_run
    base = load(str(done / "stages" / "1-shallow"), dtype=torch.bfloat16)
    export(base.model, base.processor, folder / "base", RunCard("test", {}))
    return replace(
        config, model=str(folder / "base"), stages=config.stages[1:], precision="bfloat16"
    )


def test_a_base_in_bfloat16_takes_half_and_its_checkpoint_is_rounded_once(
    tmp_path: Path, trained_run: tuple[TrainConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bfloat16_config(trained_run, tmp_path)
    held: list[set[torch.dtype]] = []

    def record(model: torch.nn.Module, *arguments: Any, **options: Any) -> Trainer:
        trainer = build_trainer(model, *arguments, **options)
        frozen = [p for p in model.parameters() if not p.requires_grad and p.ndim > 1]
        held.append({p.dtype for p in frozen})
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        return trainer

    monkeypatch.setattr(loop, "build_trainer", record)
    for base in ("auto", "float32"):
        lora = replace(config.stages[0].lora or Lora(), base=base)
        stages = (replace(config.stages[0], lora=lora),)
        train(replace(config, stages=stages), tmp_path / base)
    assert held == [{torch.bfloat16}, {torch.float32}]
    tensors = [
        load_file(tmp_path / b / "checkpoint/model.safetensors") for b in ("auto", "float32")
    ]
    for name, tensor in tensors[0].items():
        other = tensors[1][name]
        assert tensor.dtype == other.dtype == torch.bfloat16
        # What is not trained has the bits of the start, and training took the same course.
        assert torch.allclose(tensor.float(), other.float(), atol=0.02)
    adapter = load_file(tmp_path / "auto" / "adapters/1-lora/adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


def test_a_reduced_base_is_refused_where_steps_are_in_float32(
    tmp_path: Path, trained_run: tuple[TrainConfig, Path]
) -> None:
    config = replace(bfloat16_config(trained_run, tmp_path), precision="float32")
    stages = (replace(config.stages[0], lora=Lora(base="bfloat16")),)
    with pytest.raises(ConfigError, match=r"lora.base is bfloat16, and steps are in float32"):
        train(replace(config, stages=stages), tmp_path / "run")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
def test_a_base_in_4_bits_is_merged_into_the_weights_as_they_are_stored(
    tmp_path: Path, trained_run: tuple[TrainConfig, Path]
) -> None:
    config = bfloat16_config(trained_run, tmp_path)
    sizes: dict[str, Any] = {**SMALL, "hidden": 128, "ffn": 128}  # blocks of 64 values in 4 bits
    model, processor = build_tiny(
        TinyModel(family="qwen2_5_vl", vocab_size=320, **sizes),
        CORPUS,
        budget=config.pixels,
        seed=0,
    )
    shutil.rmtree(tmp_path / "base")
    export(model.bfloat16(), processor, tmp_path / "base", RunCard("test", {}))
    stage = replace(config.stages[0], lora=Lora(rank=4, base="int4"))
    train(replace(config, stages=(stage,)), tmp_path / "run")
    base, merged = (
        load(str(tmp_path / folder), dtype=torch.bfloat16).model.state_dict()
        for folder in ("base", "run/checkpoint")
    )
    adapter = load_file(tmp_path / "run/adapters/1-lora/adapter_model.safetensors")
    name = next(name for name in adapter if name.endswith("q_proj.lora_A.weight"))
    delta = 8 * adapter[name.replace("lora_A", "lora_B")] @ adapter[name]
    stored = name.removeprefix("base_model.model.").replace("lora_A.", "")
    expected = (base[stored].float() + delta).bfloat16()
    assert torch.equal(merged[stored], expected) and not torch.equal(merged[stored], base[stored])
