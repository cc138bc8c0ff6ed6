"""Packs: samples in one row that see nothing of each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lingshu.core.errors import ArtefactError
from lingshu.core.nouns import Message
from lingshu.models.packed import Pack, collate_pack, hidden_states
from lingshu.models.processor import Encoded
from lingshu.models.spec import FamilyName
from tests.tiny import FAMILIES, picture, tiny


def samples(family: FamilyName, number: int = 17) -> list[Encoded]:
    """Samples of many lengths, two of three with one or two images."""
    _, processor = tiny(family)
    made = []
    for i in range(number):
        images = processor.tiles([picture(10 * i + j, 56 + 28 * (i % 3), 56) for j in range(i % 3)])
        question = Message("user", (*range(len(images)), "Is there a lesion? " * (1 + i % 4)))
        made.append(
            processor.encode([question, Message("assistant", ("yes left " * (1 + i % 2),))], images)
        )
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_of_17_gives_the_logits_of_separate_runs(family: FamilyName) -> None:
    model, processor = tiny(family)
    made = samples(family)
    pack = collate_pack(processor, made)
    with torch.no_grad():
        packed = model.lm_head(hidden_states(model, pack.inputs, pack.segments))[0]
        alone = []
        for sample in made:
            inputs = {
                k: v
                for k, v in processor.collate([sample], pad="right").items()
                if k not in ("labels", "position_ids")
            }
            alone.append(model(**inputs).logits[0])  # positions left to the stock model
    assert len(pack.segments) == 17
    assert float((packed - torch.cat(alone)).abs().max()) < 1e-5


def test_what_one_sample_says_does_not_reach_the_others() -> None:
    model, processor = tiny("qwen2_5_vl")
    made = samples("qwen2_5_vl", 3)
    other = made[1].ids.copy()
    other[5:9] = other[5:9][::-1]
    changed = Encoded(other, made[1].labels, made[1].is_image, made[1].positions, made[1].tiles)
    with torch.no_grad():
        one, two = (
            hidden(model, collate_pack(processor, [made[0], middle, made[2]]))
            for middle in (made[1], changed)
        )
    first, last = len(made[0]), len(made[2])
    assert torch.equal(one[:first], two[:first]) and torch.equal(one[-last:], two[-last:])
    assert not torch.equal(one, two)


def hidden(model: torch.nn.Module, pack: Pack) -> torch.Tensor:
    return hidden_states(model, pack.inputs, pack.segments)[0]


def test_three_rows_of_positions_are_refused_with_the_reason() -> None:
    model, processor = tiny("qwen2_5_vl")
    pack = collate_pack(processor, samples("qwen2_5_vl", 3))
    three = {**pack.inputs, "position_ids": pack.inputs["position_ids"][1:]}
    with pytest.raises(ArtefactError, match=r"4 x 1 x L position ids .* not 3 rows"):
        hidden_states(model, three, pack.segments)
    with pytest.raises(ArtefactError, match="do not fill a pack"):
        hidden_states(model, pack.inputs, pack.segments[:-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_start_again_at_each_sample(family: FamilyName) -> None:
    _, processor = tiny(family)
    made = samples(family, 4)
    positions = collate_pack(processor, made).inputs["position_ids"]
    text = positions[0, 0] if positions.ndim == 3 else positions[0]
    starts = np.cumsum([0, *map(len, made)])[:-1]
    assert text[torch.from_numpy(starts)].tolist() == [0, 0, 0, 0]
    assert int((text == 0).sum()) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_after_packing_uses_ordinary_attention_again(family: FamilyName) -> None:
    model, processor = tiny(family)
    before = model.model.language_model.config._attn_implementation
    pack = collate_pack(processor, samples(family, 2))
    with torch.no_grad():
        hidden_states(model, pack.inputs, pack.segments)
    assert model.model.language_model.config._attn_implementation == before == "sdpa"
