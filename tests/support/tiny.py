"""Small helpers of the model and training tests: a tiny model of any family, rendered data, a run
of a few steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PIL

from lingshu.core import registry
from lingshu.core.artifacts import write_dataset
from lingshu.core.run_card import RunCard
from lingshu.core.types import Sample
from lingshu.imaging.read import image_bytes
from lingshu.models.base import family_of
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import Processor
from lingshu.models.tiny import build_tiny
from lingshu.recipes.quickstart import recipe
from lingshu.sources import phantom
from lingshu.train.config import TrainConfig

FAMILIES = tuple(registry.names("families"))
# One family for each kind of positions: for tests that take seconds.
REPRESENTATIVES = tuple({family_of(name).has_mrope: name for name in FAMILIES}.values())
SMALL: dict[str, Any] = {
    "hidden": 32,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "ffn": 64,
    "vision_hidden": 32,
    "vision_heads": 2,
}
CORPUS = [
    "user assistant system You are a helpful assistant. Is there a lesion? yes no left right small"
    " large x-ray ct"
] * 4


@cache
def tiny(family: str, *, tiles: int = 1) -> tuple[Any, Processor]:
    """A model with random weights and its processor, shared by the tests that leave it as it is."""
    budget = PixelBudget(min_pixels=56 * 56, max_pixels=112 * 112, max_tiles=tiles)
    return build_tiny(
        TinyModel(family=family, vocab_size=320, **SMALL), CORPUS, budget=budget, seed=0
    )


def make_image(seed: int, width: int = 90, height: int = 60) -> PIL.Image:
    return PIL.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def write_phantoms(folder: Path, samples: Iterable[Sample]) -> Path:
    write_dataset(
        folder,
        "phantoms",
        ((s, [image_bytes(i) for i in s.images]) for s in samples),
        RunCard("test", {}),
    )
    return folder


def small_config(folder: Path, *, family: str = "qwen2_5_vl", steps: int = 6) -> TrainConfig:
    """Two short stages on rendered captions and dialogues: language frozen and padded batches, then
    everything and packs.
    """
    captions = write_phantoms(
        folder / "captions", list(phantom.training_samples(0, 24, "captions"))
    )
    instruct = write_phantoms(
        folder / "instruct", list(phantom.training_samples(0, 24, "instruct", first=24))
    )
    full = recipe()
    stages = tuple(
        replace(full.stages[i], steps=steps, batch=4, micro_batch=2, warmup_steps=2) for i in (1, 3)
    )
    stages = (stages[0], replace(stages[1], packing=True, max_tokens=256))
    data = {"captions": str(captions), "instruct": str(instruct)}
    return replace(
        full,
        model=TinyModel(family=family, **SMALL),
        stages=stages,
        data=data,
        save_every=2,
        log_every=2,
        tensorboard=False,
    )
