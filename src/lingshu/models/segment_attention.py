"""Attention inside segments of one long row: the samples of a pack, the images of a vision tower or
their windows, in one call for each layer.

Shapes: B rows (1), H heads, L tokens of the row, S tokens of the longest segment of a batch, N
segments of it, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn import functional

SEGMENT_ATTENTION = "lingshu_segments"
# Towers pass the bounds of their images and windows only to names with "flash" in them.
TOWER_ATTENTION = "lingshu_flash_segments"
# Without a variable-length kernel segments are padded to the longest of their batch, as long as that
# adds at most half to the pairs of tokens, which costs less than another call, or all are this
# short.
MAX_PADDING, SHORT_SEGMENT = 1.5, 64


class SegmentBatch(NamedTuple):
    """Segments that are attended together; `tokens` are those of each, padded with its own first
    one (N x S, flattened), None where they are a contiguous run of equal lengths from `start`.
    """

    segments: tuple[int, ...]
    length: int
    start: int
    tokens: torch.Tensor | None


class Segments:
    """Where the segments of a row begin, and what a token sees of its own: its past where `causal`,
    else all of it. Everything is computed once and serves all layers.

    `is_image` (1 x L) marks the tokens of images that are seen in both directions, None without.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device,
        *,
        causal: bool,
        is_image: torch.Tensor | None = None,
    ) -> None:
        self.lengths, self.device, self.causal = tuple(lengths), device, causal
        self._is_image = None if is_image is None else is_image[0].bool()
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    @property
    def fits_kernel(self) -> bool:
        """Whether the variable-length kernel can tell what a token sees."""
        return self._is_image is None

    @cached_property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def cu_seqlens(self) -> torch.Tensor:
        """The bounds of the segments (int32, one more than segments), copied without waiting."""
        return to_device(torch.tensor(self._starts, dtype=torch.int32), self.device)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(self.lengths)]

    @cached_property
    def batches(self) -> tuple[SegmentBatch, ...]:
        if len(set(self.lengths)) == 1:
            return (SegmentBatch(tuple(range(len(self.lengths))), self.lengths[0], 0, None),)
        by_length = sorted(range(len(self.lengths)), key=lambda i: (-self.lengths[i], i))
        return tuple(map(self._batch, split_by_padding(by_length, self.lengths)))

    def _batch(self, members: tuple[int, ...]) -> SegmentBatch:
        length, start = self.lengths[members[0]], self._starts[members[0]]
        if len(members) == 1:
            return SegmentBatch(members, length, start, None)
        offsets_S = torch.arange(length)
        starts_N1 = torch.tensor([self._starts[i] for i in members])[:, None]
        is_inside_NS = offsets_S < torch.tensor([self.lengths[i] for i in members])[:, None]
        index = starts_N1 + torch.where(is_inside_NS, offsets_S, 0)
        return SegmentBatch(members, length, start, to_device(index.flatten(), self.device))

    @cached_property
    def order(self) -> torch.Tensor | None:
        """Where each token of the row is in the joined rows of all batches; None: in its own position."""
        if len(self.batches) == 1 and self.batches[0].tokens is None:
            return None
        position_L = torch.empty(self._starts[-1], dtype=torch.int64)
        offset = 0
        for batch in self.batches:
            for segment in batch.segments:
                start, length = self._starts[segment], self.lengths[segment]
                position_L[start : start + length] = torch.arange(offset, offset + length)
                offset += batch.length
        return to_device(position_L, self.device)

    def mask(self, number: int, window: int | None) -> torch.Tensor | None:
        """What each token of a batch sees (N or 1 x 1 x S or 1 x S), None if padding at the end is
        all that it must not see, and it does not.
        """
        batch = self.batches[number]
        window = None if window is None or window >= batch.length else window
        if (number, window) not in self._masks:
            self._masks[number, window] = self._build_mask(batch, window)
        return self._masks[number, window]

    def _build_mask(self, batch: SegmentBatch, window: int | None) -> torch.Tensor | None:
        if not self.causal:
            lengths_N = torch.tensor([self.lengths[i] for i in batch.segments])
            if bool((lengths_N == batch.length).all()):
                return None
            is_inside_NS = torch.arange(batch.length) < lengths_N[:, None]
            return to_device(is_inside_NS[:, None, None], self.device)
        if window is None and self._is_image is None:
            return None
        image_NS = None
        if self._is_image is not None:
            image_NS = _take(self._is_image, batch, 0).view(len(batch.segments), batch.length)
            if batch.tokens is not None:
                # Padding repeats the first token, which an image may begin with.
                lengths_N = torch.tensor([self.lengths[i] for i in batch.segments])
                is_inside_NS = torch.arange(batch.length) < lengths_N[:, None]
                image_NS = image_NS & to_device(is_inside_NS, self.device)
        return segment_mask(batch.length, image_NS, window, self.device)[:, None]


def split_by_padding(by_length: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Segments, longest first, in few groups whose padding to their longest costs little."""
    group: list[int] = []
    pairs = 0
    for segment in by_length:
        longest, own = lengths[group[0]] if group else lengths[segment], lengths[segment] ** 2
        is_small = longest <= SHORT_SEGMENT
        if group and not is_small and (len(group) + 1) * longest**2 > MAX_PADDING * (pairs + own):
            yield tuple(group)
            group, pairs = [], 0
        group.append(segment)
        pairs += own
    yield tuple(group)


def segment_mask(
    length: int, is_image_NS: torch.Tensor | None, window: int | None, device: torch.device
) -> torch.Tensor:
    """What each token (row) of a sample sees, N or 1 x S x S: its past and all of its own image, and
    of both only what is inside the window.
    """
    position_S = torch.arange(length, device=device)
    distance_1SS = (position_S[:, None] - position_S)[None]
    visible_NSS = distance_1SS >= 0
    if is_image_NS is not None:
        starts_NS = is_image_NS & ~functional.pad(is_image_NS, (1, 0))[:, :-1]
        image_NS = torch.where(is_image_NS, starts_NS.cumsum(1), 0)
        is_same_NSS = image_NS[:, :, None] == image_NS[:, None]
        visible_NSS = visible_NSS | (is_same_NSS & is_image_NS[:, None])
    return visible_NSS if window is None else visible_NSS & (distance_1SS < window)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device, copied from pinned memory while that computes."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def segment_attention(model: Any, *, language: bool) -> Iterator[None]:
    """Let a vision tower that takes images of any size attend by segments, and the language model
    where `language`. Blocks that are recomputed need it in the backward pass too.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(SEGMENT_ATTENTION, language_attention_forward)
    AttentionInterface.register(TOWER_ATTENTION, tower_attention_forward)
    # Without this a dense mask would be built and ignored.
    AttentionMaskInterface.register(SEGMENT_ATTENTION, lambda *_, **__: None)
    configs = []
    if language:
        configs.append((model.model.language_model.config, SEGMENT_ATTENTION))
    if hasattr(model.model, "visual"):
        configs.append((model.model.visual.config, TOWER_ATTENTION))
    previous = [config._attn_implementation for config, _ in configs]
    for config, name in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for (config, _), name in zip(configs, previous, strict=True):
            config._attn_implementation = name


def language_attention_forward(
    module: Any,
    query_BHLD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    segments: Segments,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it. Rotary embeddings return float32 where autocast gave values in half
    precision; attention is in the type of the values.
    """
    dtype = value_BHLD.dtype
    return segment_attention_forward(
        module,
        query_BHLD.to(dtype),
        key_BHLD.to(dtype),
        value_BHLD,
        attention_mask,
        segments=segments,
        **options,
    )


def tower_attention_forward(
    module: Any,
    query_BHLD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    cu_seq_lens_q: torch.Tensor,
    tower_segments: Sequence[Segments] = (),
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it in a layer: the bounds are those of images or of windows.

    `tower_segments` are both; without them (a model that generates) they are read here.
    """
    n_segments = len(cu_seq_lens_q) - 1
    # As many windows as images: each image is one window, and the bounds are the same.
    found = next((s for s in tower_segments if len(s.lengths) == n_segments), None)
    if found is None:
        lengths = cu_seq_lens_q.diff().tolist()
        found = Segments(lengths, query_BHLD.device, causal=False)
    return language_attention_forward(
        module, query_BHLD, key_BHLD, value_BHLD, attention_mask, segments=found, **options
    )


def segment_attention_forward(
    module: Any,
    query_BHLD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    segments: Segments,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside each segment, so that the cost is linear in the length of the row: on a GPU
    in half precision one variable-length kernel, elsewhere, and where image tokens see each other
    in both directions, a call for segments of similar lengths.
    """
    del module, attention_mask
    is_half_on_gpu = query_BHLD.is_cuda and query_BHLD.dtype in (torch.float16, torch.bfloat16)
    if is_half_on_gpu and segments.fits_kernel:
        query_LHD, key_LHD, value_LHD = (
            tensor[0].transpose(0, 1) for tensor in (query_BHLD, key_BHLD, value_BHLD)
        )
        output_LHD = varlen_attention_forward(
            query_LHD, key_LHD, value_LHD, segments, scaling, sliding_window
        )
        return output_LHD[None], None
    enable_gqa = query_BHLD.shape[1] != key_BHLD.shape[1]
    outputs = []
    for number, batch in enumerate(segments.batches):
        mask = segments.mask(number, sliding_window)
        n_segments = len(batch.segments)
        query, key, value = (
            _take(tensor[0], batch, 1).unflatten(1, (n_segments, batch.length)).transpose(0, 1)
            for tensor in (query_BHLD, key_BHLD, value_BHLD)
        )
        output_NHSD = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            is_causal=segments.causal and mask is None,
            scale=scaling,
            enable_gqa=enable_gqa,
        )
        outputs.append(output_NHSD.transpose(1, 2).flatten(0, 1))
    joined_LHD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if segments.order is not None:
        joined_LHD = joined_LHD.index_select(0, segments.order)
    return joined_LHD[None].contiguous(), None


def _take(tensor: torch.Tensor, batch: SegmentBatch, dim: int) -> torch.Tensor:
    """The tokens of a batch (N x S, flattened) along a dimension of the row."""
    if batch.tokens is None:
        return tensor.narrow(dim, batch.start, len(batch.segments) * batch.length)
    return tensor.index_select(dim, batch.tokens)


def varlen_attention_forward(
    query_LHD: torch.Tensor,
    key_LHD: torch.Tensor,
    value_LHD: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """The same (L x H x D) by torch's variable-length FlashAttention kernel; needs a GPU."""
    from torch.nn.attention.varlen import varlen_attn

    # The kernel counts the tokens before the one that looks, and after it.
    before = -1 if window is None else window - 1
    bounds, longest = segments.cu_seqlens, segments.longest
    options: dict[str, Any] = {
        "scale": scaling,
        "window_size": (before, 0 if segments.causal else -1),
        "enable_gqa": query_LHD.shape[1] != key_LHD.shape[1],
    }
    tensors = (tensor.contiguous() for tensor in (query_LHD, key_LHD, value_LHD))
    return varlen_attn(*tensors, bounds, bounds, longest, longest, **options)  # pyright: ignore
