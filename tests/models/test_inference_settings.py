"""What a checkpoint answers with: its stored numbers unless told otherwise, images that fit its
context, and another digest for every other arithmetic or budget.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json, write_json
from lingshu.core.messages import user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import CheckpointOptions, EngineOptions, Image, Sample, Sampling
from lingshu.engines import hf
from lingshu.imaging.read import png_bytes
from lingshu.inference.engines import check_options
from lingshu.models import inference_settings
from lingshu.models.export import export
from lingshu.models.inference_settings import (
    Arithmetic,
    StoredWeights,
    choose_arithmetic,
    open_model,
)
from tests.support.tiny import make_image, tiny

AUTO = CheckpointOptions()
# What the published processor of Qwen2.5-VL allows: 9,523 tokens for a film of 3000 x 2500.
PUBLISHED_MAX_PIXELS = 12_845_056


def folder_of(family: str, path: Path, *, max_positions: int | None = None) -> Path:
    """A tiny checkpoint without a manifest, as other programs write them."""
    model, processor = tiny(family)
    export(model, processor, path, RunCard("test", {}))
    (path / "manifest.json").unlink()
    if max_positions is not None:
        config = read_json(path / "config.json")
        config["text_config"]["max_position_embeddings"] = max_positions
        write_json(path / "config.json", config)
    return path


def with_published_pixels(folder: Path) -> Path:
    settings = read_json(folder / "preprocessor_config.json")
    settings["size"] = {"shortest_edge": 3136, "longest_edge": PUBLISHED_MAX_PIXELS}
    write_json(folder / "preprocessor_config.json", settings)
    return folder


@pytest.mark.parametrize(
    ("stored", "device", "expected"),
    [
        (StoredWeights("BF16", 8_000_000_000), "cpu", torch.bfloat16),
        (StoredWeights("BF16", 8_000_000_000), "cuda", torch.bfloat16),
        (StoredWeights("F32", 8_000_000_000), "cpu", torch.float32),
        (StoredWeights("BF16", 100_000_000), "cpu", torch.float32),
        (StoredWeights("BF16", 100_000_001), "cpu", torch.bfloat16),
        (StoredWeights("BF16", 100), "cuda:1", torch.bfloat16),
    ],
)
def test_auto_keeps_the_stored_dtype_and_small_models_on_a_cpu_use_float32(
    stored: StoredWeights, device: str, expected: torch.dtype
) -> None:
    assert choose_arithmetic(AUTO, stored, device=device) == Arithmetic(expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_of_the_option_is_used_on_every_device(dtype: str) -> None:
    options = CheckpointOptions(dtype=dtype)  # type: ignore[arg-type]
    for device in ("cpu", "cuda"):
        chosen = choose_arithmetic(options, StoredWeights("F16", 10**10), device=device)
        assert chosen == Arithmetic(getattr(torch, dtype))


def test_a_stored_type_that_is_not_computed_with_is_reported() -> None:
    for dtype in ("F16", "F8_E4M3"):
        chosen = choose_arithmetic(AUTO, StoredWeights(dtype, 10**10), device="cpu")
        assert chosen.dtype is torch.bfloat16
        assert chosen.note is not None and dtype in chosen.note


def test_the_stored_dtype_has_the_largest_share_of_bytes(tmp_path: Path) -> None:
    model, processor = tiny("qwen2_5_vl")
    model = copy.deepcopy(model).to(torch.bfloat16)
    model.model.language_model.norm.float()
    export(model, processor, tmp_path / "m", RunCard("test", {}))
    stored = inference_settings.stored_weights(tmp_path / "m")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert stored == StoredWeights("BF16", n_parameters)


def test_another_dtype_or_budget_is_another_digest(tmp_path: Path) -> None:
    folder = str(folder_of("qwen2_5_vl", tmp_path / "m"))
    options = [
        AUTO,
        CheckpointOptions(dtype="bfloat16"),
        CheckpointOptions(max_pixels=56 * 56),
        CheckpointOptions(dtype="bfloat16", max_pixels=56 * 56),
    ]
    opened = [open_model(folder, each, device="cpu") for each in options]
    digests = [each.digest for each in opened]
    assert len(set(digests)) == 4
    assert open_model(folder, CheckpointOptions(dtype="float32"), device="cpu").digest == digests[0]
    assert {each.settings["checkpoint"] for each in opened} == {digests[0]}
    assert [each.settings["dtype"] for each in opened] == ["float32", "bfloat16"] * 2
    assert opened[1].model.dtype is torch.bfloat16
    assert opened[2].processor.budget.max_pixels == opened[2].settings["max_pixels"] == 56 * 56


def film_question() -> Sample:
    film = PIL.fromarray(np.zeros((3000, 2500), np.uint8))
    return Sample("film", (user_turn("?", 1),), (Image(data=png_bytes(film)),))


def test_a_film_fits_the_context_by_default_and_its_scaling_is_reported(
    tmp_path: Path,
) -> None:
    folder = with_published_pixels(folder_of("qwen2_5_vl", tmp_path / "m", max_positions=128_000))
    loaded = open_model(str(folder), AUTO, device="cpu")
    assert loaded.processor.budget.max_pixels == 6144 * 28 * 28
    [note] = loaded.notes
    assert "12,845,056" in note and "--max-pixels" in note
    encoded = hf.HfEngine(loaded)._encode(film_question())
    assert 5_900 < int(encoded.is_image.sum()) <= 6144
    [scaled] = encoded.scaled_images
    assert scaled.startswith("image 1 has 3000 x 2500 pixels and is shown with 4,")
    wide = open_model(str(folder), CheckpointOptions(max_pixels=PUBLISHED_MAX_PIXELS), device="cpu")
    assert wide.notes == () and wide.digest != loaded.digest
    assert int(hf.HfEngine(wide)._encode(film_question()).is_image.sum()) == 9523


def test_a_short_context_leaves_half_to_text(tmp_path: Path) -> None:
    folder = with_published_pixels(folder_of("qwen2_5_vl", tmp_path / "m", max_positions=1024))
    loaded = open_model(str(folder), AUTO, device="cpu")
    assert loaded.processor.budget.max_pixels == 512 * 28 * 28


def test_tiles_are_bounded_by_the_context_and_by_the_option(tmp_path: Path) -> None:
    folder = folder_of("internvl", tmp_path / "m", max_positions=64)
    settings = read_json(folder / "preprocessor_config.json")
    write_json(
        folder / "preprocessor_config.json",
        settings | {"crop_to_patches": True, "max_patches": 12},
    )
    loaded = open_model(str(folder), AUTO, device="cpu")
    assert loaded.processor.budget.max_tiles == 7  # and one of the whole image, of 4 tokens each
    assert "--max-tiles" in loaded.notes[0]
    limited = open_model(str(folder), CheckpointOptions(max_tiles=2), device="cpu")
    assert limited.notes == () and limited.processor.budget.max_tiles == 2
    assert limited.digest != loaded.digest


@pytest.mark.parametrize(
    ("family", "options", "remedy"),
    [
        ("qwen2_5_vl", CheckpointOptions(max_tiles=4), "give --max-pixels"),
        ("internvl", CheckpointOptions(max_pixels=10**6), "give --max-tiles"),
        ("qwen2_5_vl", CheckpointOptions(max_pixels=100), "784"),
    ],
)
def test_an_option_that_the_model_does_not_have_is_refused(
    family: str, options: CheckpointOptions, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=remedy):
        open_model(str(folder_of(family, tmp_path / "m")), options, device="cpu")


@pytest.mark.parametrize("name", ["max_pixels", "max_tiles"])
def test_a_bound_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        CheckpointOptions(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["echo", "http://127.0.0.1:1/v1#m", "batch:http://h/v1#m"])
def test_options_of_a_checkpoint_are_refused_for_other_engines(model: str) -> None:
    check_options(model, EngineOptions())
    with pytest.raises(ConfigError, match="--dtype is for a checkpoint"):
        check_options(model, EngineOptions(checkpoint=CheckpointOptions(dtype="float32")))
    check_options("folder", EngineOptions(checkpoint=CheckpointOptions(dtype="float32")))


def test_only_an_image_that_is_scaled_down_is_reported(tmp_path: Path) -> None:
    folder = str(folder_of("qwen2_5_vl", tmp_path / "m"))
    engine = hf.load(folder, EngineOptions())
    images = [Image(data=png_bytes(make_image(0, side, side))) for side in (56, 448)]
    samples = [Sample(str(i), (user_turn("?", 1),), (image,)) for i, image in enumerate(images)]
    replies = {r.id: r for batch in engine.generate(samples, Sampling(2)) for r in batch}
    assert replies["0"].scaled_images == ()
    assert replies["1"].scaled_images == (
        "image 1 has 448 x 448 pixels and is shown with 12,544 of 200,704 (112 x 112).",
    )


def test_a_prompt_beyond_the_context_is_an_error_of_its_sample_alone(tmp_path: Path) -> None:
    folder = folder_of("qwen2_5_vl", tmp_path / "m", max_positions=64)
    engine = hf.load(str(folder), EngineOptions())
    samples = [Sample(str(n), (user_turn("left " * n, 0),), ()) for n in (2, 200)]
    replies = {r.id: r for batch in engine.generate(samples, Sampling(2)) for r in batch}
    assert replies["2"].error is None
    assert "more than the 64 of this model" in (replies["200"].error or "")
