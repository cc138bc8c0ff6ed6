"""Attention inside the segments of a row: the numbers of separate calls, in few calls."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lingshu.models.packing import with_image_features
from lingshu.models.segment_attention import (
    Segments,
    segment_attention,
    segment_attention_forward,
    segment_mask,
)
from tests.support.tiny import FAMILIES, make_image, tiny

CPU = torch.device("cpu")


class AttentionCalls(TorchDispatchMode):
    """Counts attention kernels."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "scaled_dot_product" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("causal,window", [(False, None), (True, None), (True, 3)])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize(
    "lengths", [(5,), (4, 4, 4), (7, 1, 5, 5, 2), (70, 3, 66, 3, 1, 69), (200, 2, 2, 65)]
)
def test_segments_attend_as_if_each_were_alone_gradients_too(
    lengths: tuple[int, ...], causal: bool, window: int | None, kv_heads: int
) -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (
        torch.randn(1, heads, sum(lengths), 8, generator=generator).requires_grad_()
        for heads in (2, kv_heads, kv_heads)
    )
    upstream = torch.randn(1, sum(lengths), 2, 8, generator=generator)
    segments = Segments(lengths, CPU, causal=causal)
    together, _ = segment_attention_forward(
        None, query, key, value, segments=segments, sliding_window=window
    )
    alone = []
    for q, k, v in zip(*(t.split(lengths, 2) for t in (query, key, value)), strict=True):
        mask = segment_mask(q.shape[2], None, window, CPU)[0] if window else None
        out = functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=causal and mask is None, enable_gqa=kv_heads == 1
        )
        alone.append(out.transpose(1, 2))
    expected = torch.cat(alone, 1)
    inputs = (query, key, value)
    found = torch.autograd.grad((together * upstream).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), inputs)
    assert torch.allclose(together, expected, atol=1e-6)
    assert all(
        torch.allclose(one, other, atol=2e-6)
        for one, other in zip(found, expected_gradients, strict=True)
    )


def test_padding_of_long_segments_is_bounded() -> None:
    for lengths in ((1000, 10, 10, 10, 900), (128, 65, 127, 3), tuple(range(1, 300, 7))):
        batches = Segments(lengths, CPU, causal=True).batches
        assert sorted(i for batch in batches for i in batch.segments) == list(range(len(lengths)))
        for batch in batches:
            own = sum(lengths[i] ** 2 for i in batch.segments)
            assert len(batch.segments) * batch.length**2 <= 1.5 * own or batch.length <= 64


# One size, sizes that no window divides, an image of a single token next to a wide one.
SIZES = [[(112, 112)] * 3, [(140, 84), (56, 196), (112, 140)], [(28, 28), (364, 56)]]


@contextmanager
def counted() -> Iterator[AttentionCalls]:
    with AttentionCalls() as calls:
        yield calls


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.startswith("qwen")])
def test_a_tower_calls_attention_once_a_layer_and_equals_stock_gradients_too(
    family: str, sizes: list[tuple[int, int]]
) -> None:
    shared, processor = tiny(family)
    model = copy.deepcopy(shared)
    tiles = processor.tiles([make_image(i, *size) for i, size in enumerate(sizes)])
    arrays = processor.family.features(processor.image_processor, tiles)
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with segment_attention(model, language=False), counted() as calls:
        outputs = with_image_features(model, inputs)["mm_encoder_outputs"]["image"]
    blocks = len(model.model.visual.blocks)
    assert calls.count == blocks
    stock = model.model.get_image_features(**inputs, return_dict=True)
    gradients = []
    for features in (outputs, stock):
        inner = [t for level in getattr(features, "deepstack_features", None) or () for t in level]
        flat = torch.cat([*features.pooler_output, *inner])
        model.zero_grad()
        (flat**2).sum().backward()
        gradients.append(
            [flat.detach(), *(p.grad.clone() for p in model.model.visual.parameters())]
        )
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6 * max(1, float(other.abs().max())))


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.startswith("qwen")])
def test_towers_of_equal_tiles_call_attention_once_a_layer_as_they_are(family: str) -> None:
    model, processor = tiny(family)
    tiles = processor.tiles([make_image(i, 112, 112) for i in range(3)])
    arrays = processor.family.features(processor.image_processor, tiles)
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    blocks = len(model.get_submodule(processor.family.blocks[0]))
    with torch.no_grad(), segment_attention(model, language=True), counted() as calls:
        model.model.get_image_features(**inputs)
    assert calls.count == blocks
