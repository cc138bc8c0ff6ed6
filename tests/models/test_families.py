"""Every registered family: found by its model_type, loaded alone, and equal to the stock class."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from lingshu.core import registry
from lingshu.core.errors import ConfigError
from lingshu.core.types import Message
from lingshu.models.base import VisionLanguageFamily, family_of
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.packing import collate_pack, compute_hidden_states
from lingshu.models.tiny import build_tiny
from tests.support.tiny import make_image, tiny

NAMES = registry.names("families")


@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_found_by_its_model_type_and_loads_without_the_others(name: str) -> None:
    assert family_of(name).model_type == name and isinstance(family_of(name), VisionLanguageFamily)
    code = (
        "import sys; from lingshu.models.base import family_of; family_of(sys.argv[1]);"
        "print(*(m for m in sys.modules if m.startswith('lingshu.models.families.') and '._' not in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [f"lingshu.models.families.{name}"]


@pytest.mark.parametrize("name", NAMES)
def test_two_packed_samples_have_the_logits_of_the_stock_class(name: str) -> None:
    model, processor = tiny(name)
    samples = []
    for number, answer in enumerate(("yes", "a large lesion on the left")):
        tiles = processor.tiles([make_image(number)])
        turns = [Message("user", (0, "Is there a lesion?")), Message("assistant", (answer,))]
        samples.append(processor.encode(turns, tiles))

    def stock_logits(inputs: dict[str, Any]) -> torch.Tensor:
        return model(**{name: value for name, value in inputs.items() if name != "labels"}).logits

    with torch.no_grad():
        pack = collate_pack(processor, samples)
        packed = model.lm_head(compute_hidden_states(model, pack.inputs, pack.segments))[0]
        expected = [stock_logits(processor.collate([s], pad="right"))[0] for s in samples]
    assert torch.allclose(packed, torch.cat(expected), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_has_token_embeddings_of_the_given_deviation(name: str) -> None:
    budget = PixelBudget(56 * 56, 56 * 56)
    stock, wide = (
        build_tiny(TinyModel(family=name, embedding_std=std), ["a yes"], budget=budget, seed=0)[0]
        for std in (0.02, 0.1)
    )
    one, two = (model.get_input_embeddings().weight.detach() for model in (stock, wide))
    assert float(one.std()) == pytest.approx(0.02, rel=0.02)
    assert torch.allclose(two, 5 * one)
    with pytest.raises(ConfigError, match="embedding_std is 2"):
        TinyModel(embedding_std=2.0)
