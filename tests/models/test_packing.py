"""Packs: samples in one row that see nothing of each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lingshu.core.errors import ArtifactError
from lingshu.core.types import Message
from lingshu.models.packing import Pack, collate_pack, compute_hidden_states
from lingshu.models.processor import EncodedSample
from tests.support.tiny import FAMILIES, make_image, tiny


def samples(family: str, n: int = 17) -> list[EncodedSample]:
    """Samples of many lengths, two of three with one or two images."""
    _, processor = tiny(family)
    encoded = []
    for i in range(n):
        images = processor.tiles(
            [make_image(10 * i + j, 56 + 28 * (i % 3), 56) for j in range(i % 3)]
        )
        question = Message("user", (*range(len(images)), "Is there a lesion? " * (1 + i % 4)))
        encoded.append(
            processor.encode([question, Message("assistant", ("yes left " * (1 + i % 2),))], images)
        )
    return encoded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_of_17_gives_the_logits_of_separate_runs(family: str) -> None:
    model, processor = tiny(family)
    encoded = samples(family)
    pack = collate_pack(processor, encoded)
    with torch.no_grad():
        packed = model.lm_head(compute_hidden_states(model, pack.inputs, pack.segments))[0]
        separate = []
        for sample in encoded:
            inputs = {
                k: v
                for k, v in processor.collate([sample], pad="right").items()
                if k not in ("labels", "position_ids")
            }
            separate.append(model(**inputs).logits[0])  # positions left to the stock model
    assert len(pack.segments) == 17
    assert float((packed - torch.cat(separate)).abs().max()) < 1e-5


def test_what_one_sample_contains_does_not_reach_the_others() -> None:
    model, processor = tiny("qwen2_5_vl")
    encoded = samples("qwen2_5_vl", 3)
    permuted = encoded[1].ids.copy()
    permuted[5:9] = permuted[5:9][::-1]
    changed = EncodedSample(
        permuted, encoded[1].labels, encoded[1].is_image, encoded[1].positions, encoded[1].tiles
    )
    with torch.no_grad():
        original_hidden, changed_hidden = (
            hidden(model, collate_pack(processor, [encoded[0], middle, encoded[2]]))
            for middle in (encoded[1], changed)
        )
    first, last = len(encoded[0]), len(encoded[2])
    assert torch.equal(original_hidden[:first], changed_hidden[:first]) and torch.equal(
        original_hidden[-last:], changed_hidden[-last:]
    )
    assert not torch.equal(original_hidden, changed_hidden)


def hidden(model: torch.nn.Module, pack: Pack) -> torch.Tensor:
    return compute_hidden_states(model, pack.inputs, pack.segments)[0]


def test_three_rows_of_positions_are_refused_with_the_reason() -> None:
    model, processor = tiny("qwen2_5_vl")
    pack = collate_pack(processor, samples("qwen2_5_vl", 3))
    three = {**pack.inputs, "position_ids": pack.inputs["position_ids"][1:]}
    with pytest.raises(ArtifactError, match=r"4 x 1 x L position ids .* not 3 rows"):
        compute_hidden_states(model, three, pack.segments)
    with pytest.raises(ArtifactError, match="do not fill a pack"):
        compute_hidden_states(model, pack.inputs, pack.segments[:-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_start_again_at_each_sample(family: str) -> None:
    _, processor = tiny(family)
    encoded = samples(family, 4)
    positions = collate_pack(processor, encoded).inputs["position_ids"]
    text = positions[0, 0] if positions.ndim == 3 else positions[0]
    starts = np.cumsum([0, *map(len, encoded)])[:-1]
    assert text[torch.from_numpy(starts)].tolist() == [0, 0, 0, 0]
    assert int((text == 0).sum()) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_after_packing_uses_ordinary_attention_again(family: str) -> None:
    model, processor = tiny(family)
    before = model.model.language_model.config._attn_implementation
    pack = collate_pack(processor, samples(family, 2))
    with torch.no_grad():
        compute_hidden_states(model, pack.inputs, pack.segments)
    assert model.model.language_model.config._attn_implementation == before == "sdpa"
