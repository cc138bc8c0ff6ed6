"""Parameter counts of the released models, from their real configurations on the meta device."""

from __future__ import annotations

import pytest

from lingshu.core.errors import ArtifactError
from lingshu.models.model_spec import PARTS, TinyModel
from lingshu.models.specs import load_shapes
from tests.support.tiny import SMALL, tiny


@pytest.mark.parametrize(
    "name,billions",
    # totals of the published weights
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8.29),
        ("lingshu-medical-mllm/Lingshu-I-8B", 7.94),
        ("Qwen/Qwen3-VL-8B-Instruct", 8.77),
        ("google/medgemma-4b-it", 4.30),
        ("OpenGVLab/InternVL3_5-8B-HF", 8.53),
    ],
)
def test_totals_are_those_of_the_published_weights(name: str, billions: float) -> None:
    model_shapes = load_shapes(name)
    assert round(model_shapes.total / 1e9, 2) == billions
    assert all(model_shapes.parameters[part] > 1e6 for part in PARTS)


def test_every_parameter_of_a_tiny_model_has_a_part() -> None:
    model, processor = tiny("qwen2_5_vl")
    parts = {processor.family.part_of(name) for name, _ in model.named_parameters()}
    assert parts == set(PARTS)
    n_planned = load_shapes(TinyModel(vocab_size=320, **SMALL)).total
    assert n_planned == sum(p.numel() for p in model.parameters())


def test_a_parameter_outside_every_part_is_an_error() -> None:
    _, processor = tiny("internvl")
    with pytest.raises(ArtifactError, match=r"'audio\.weight' belongs to no part"):
        processor.family.part_of("audio.weight")


def test_an_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(ArtifactError, match=r"did you mean 'Qwen/Qwen2.5-VL-7B-Instruct'"):
        load_shapes("Qwen/Qwen2.5-VL-7B")
