"""Weights in 8 and 4 bits: near the stored model, smaller by the bits, the vision tower untouched."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lingshu.core.errors import MissingExtraError
from lingshu.core.messages import user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import CheckpointOptions, EngineOptions, Image, Sample, Sampling
from lingshu.engines import hf
from lingshu.imaging.read import png_bytes
from lingshu.models import quantization
from lingshu.models.export import export
from lingshu.models.inference_settings import open_model
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.tiny import build_tiny
from tests.support.tiny import CORPUS, make_image

is_installed = importlib.util.find_spec("bitsandbytes") is not None
needs_library = pytest.mark.skipif(not is_installed, reason="bitsandbytes is not installed")
FAMILIES = ("qwen2_5_vl", "internvl")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored in bfloat16, with layers of several blocks of 64 weights."""
    path = tmp_path_factory.mktemp("m") / request.param
    spec = TinyModel(family=request.param, vocab_size=320, hidden=128, ffn=256)
    model, processor = build_tiny(spec, CORPUS, budget=PixelBudget(max_pixels=112**2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "language_model" in name:
                parameter.mul_(4)  # as large as those of a trained model of this width
    export(model.to(torch.bfloat16), processor, path, RunCard("test", {}))
    return path


@cache
def opened(folder: Path, dtype: Any) -> Any:
    return open_model(str(folder), CheckpointOptions(dtype=dtype), device="cpu")


def question(index: int) -> Sample:
    image = Image(data=png_bytes(make_image(index, 90, 60)))
    return Sample(f"q{index}", (user_turn("Is there a lesion? left right", 1),), (image,))


def language_linears(model: Any) -> dict[str, Any]:
    linears = model.model.language_model.named_modules()
    return {name: module for name, module in linears if isinstance(module, torch.nn.Linear)}


@needs_library
@pytest.mark.parametrize(("dtype", "bytes_per_weight"), [("int8", 1.0), ("int4", 0.5)])
def test_the_language_model_takes_so_many_bytes_and_the_vision_tower_is_untouched(
    folder: Path, dtype: str, bytes_per_weight: float
) -> None:
    stored: Any = opened(folder, "bfloat16").model
    quantized: Any = opened(folder, dtype).model
    plain = language_linears(stored)
    assert len(plain) >= 14
    for name, module in language_linears(quantized).items():
        weight = module.weight
        assert (
            weight.numel() * weight.element_size() == plain[name].weight.numel() * bytes_per_weight
        )
    rest = {name: p for name, p in stored.named_parameters() if "language_model.layers" not in name}
    for name, parameter in quantized.named_parameters():
        if name in rest:
            assert torch.equal(parameter, rest[name]), name


@needs_library
@pytest.mark.parametrize(("dtype", "bound"), [("int8", 0.05), ("int4", 0.35)])
def test_logits_are_near_those_of_float32(folder: Path, dtype: str, bound: float) -> None:
    logits = {}
    for each in ("float32", dtype):
        loaded = opened(folder, each)
        encoded = [hf.encode_sample(loaded, question(i), None) for i in range(2)]  # type: ignore[arg-type]
        logits[each] = hf.prefill(loaded, encoded, range(2)).logits_BV[:, :300]
    error = (logits[dtype] - logits["float32"]).norm() / logits["float32"].norm()
    assert 0 < error < bound


@needs_library
def test_replies_of_other_bits_have_another_digest_and_are_repeatable(folder: Path) -> None:
    digests = {opened(folder, dtype).digest for dtype in ("bfloat16", "int8", "int4")}
    assert len(digests) == 3
    options = EngineOptions(checkpoint=CheckpointOptions(dtype="int4"))
    texts = []
    for _ in range(2):
        engine = hf.load(str(folder), options)
        assert engine.digest in digests
        [replies] = engine.generate([question(0), question(1)], Sampling(8))
        texts.append([reply.text for reply in replies])
    assert texts[0] == texts[1] and None not in texts[0]


@pytest.mark.skipif(is_installed, reason="bitsandbytes is installed")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_missing_library_is_one_line_before_anything_is_read(dtype: Any) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'lingshu\[quantization\]'"):
        open_model("no such folder", CheckpointOptions(dtype=dtype), device="cpu")


@needs_library
def test_the_package_kernels_is_hidden_only_during_the_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys
    from types import ModuleType

    kernels = ModuleType("kernels")
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    quantization.require_bitsandbytes()
    assert sys.modules["kernels"] is kernels
