"""Several samples in one row, none seeing another: inputs, positions and attention of a pack.

Shapes: B = 1 row, H heads, L tokens of the whole pack, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from lingshu.core.errors import ArtifactError
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor, to_tensors

SEGMENT_ATTENTION = "lingshu_segments"


class Pack(NamedTuple):
    """Model inputs (1 x L, no attention mask), labels (1 x L), and the length of each sample."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    segments: tuple[int, ...]


def collate_pack(processor: Processor, samples: Sequence[EncodedSample]) -> Pack:
    """Join samples without padding; positions start again at each.

    For M-RoPE the position ids are 4 x 1 x L: plain text positions on top, from which a model that
    builds its own mask reads where a sample ends, then time, height and width.
    """
    first_labels = [int(sample.labels[0]) for sample in samples]
    # The label of a sample's first token is what the token before it would learn: one of another
    # sample.
    assert all(label == IGNORE_INDEX for label in first_labels)
    text_positions = np.concatenate([np.arange(len(sample)) for sample in samples])
    arrays: dict[str, Any] = {"input_ids": np.concatenate([sample.ids for sample in samples])[None]}
    if processor.family.has_mrope:
        mrope_positions = np.concatenate(
            [np.zeros((3, 0), np.int64) if s.positions is None else s.positions for s in samples],
            axis=1,
        )
        arrays["position_ids"] = np.concatenate([text_positions[None], mrope_positions])[:, None]
    else:
        arrays["position_ids"] = text_positions[None]
    if processor.family.token_type_input:
        is_image = np.concatenate([sample.is_image for sample in samples])[None]
        arrays[processor.family.token_type_input] = is_image.astype(np.int64)
    if tiles := [tile for sample in samples for tile in sample.tiles]:
        arrays |= processor.family.features(processor.image_processor, tiles)
    labels = np.concatenate([sample.labels for sample in samples])[None]
    return Pack(to_tensors(arrays), torch.from_numpy(labels), tuple(map(len, samples)))


def compute_hidden_states(
    model: Any, inputs: dict[str, torch.Tensor], segments: Sequence[int]
) -> torch.Tensor:
    """The last hidden states of a pack, 1 x L x width.

    Raises:
        ArtifactError: three-row position ids, with which stock code silently lets samples see each
            other.
    """
    positions = inputs["position_ids"]
    if positions.ndim == 3 and positions.shape[0] != 4:
        raise ArtifactError(
            "a pack needs 4 x 1 x L position ids (text positions, then time, height, width), not"
            f" {positions.shape[0]} rows: without the text row samples would see each other."
        )
    if sum(segments) != inputs["input_ids"].shape[1]:
        raise ArtifactError(
            f"segments of {sum(segments)} tokens do not fill a pack of"
            f" {inputs['input_ids'].shape[1]}."
        )
    with segment_attention(model):
        return model.model(**inputs, use_cache=False, segments=tuple(segments)).last_hidden_state


@contextmanager
def segment_attention(model: Any) -> Iterator[None]:
    """Let the language model attend inside each segment only; the vision tower is unchanged."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(SEGMENT_ATTENTION, segment_attention_forward)
    # Without this a dense mask would be built and ignored.
    AttentionMaskInterface.register(SEGMENT_ATTENTION, lambda *_, **__: None)
    config = model.model.language_model.config
    previous = config._attn_implementation
    config._attn_implementation = SEGMENT_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = previous


def segment_attention_forward(
    module: Any,
    query_BHLD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    segments: tuple[int, ...],
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment, without a mask, so that the cost is linear in the
    length of the pack: on a GPU in half precision one variable-length kernel for all segments,
    elsewhere a call per segment.
    """
    del module, attention_mask
    if query_BHLD.is_cuda and query_BHLD.dtype in (torch.float16, torch.bfloat16):
        return varlen_attention_forward(query_BHLD, key_BHLD, value_BHLD, segments, scaling), None
    parts = zip(
        *(tensor.split(segments, 2) for tensor in (query_BHLD, key_BHLD, value_BHLD)), strict=True
    )
    enable_gqa = query_BHLD.shape[1] != key_BHLD.shape[1]
    outputs = [
        functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=enable_gqa
        )
        for q, k, v in parts
    ]
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def varlen_attention_forward(
    query_BHLD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    segments: tuple[int, ...],
    scaling: float | None,
) -> torch.Tensor:
    """The same by torch's variable-length FlashAttention kernel; needs a GPU."""
    from torch.nn.attention.varlen import varlen_attn

    cu_seqlens = torch.tensor(
        [0, *accumulate(segments)], dtype=torch.int32, device=query_BHLD.device
    )
    query_LHD, key_LHD, value_LHD = (
        tensor[0].transpose(0, 1).contiguous() for tensor in (query_BHLD, key_BHLD, value_BHLD)
    )
    max_seqlen = max(segments)
    enable_gqa = query_LHD.shape[1] != key_LHD.shape[1]
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0), "enable_gqa": enable_gqa}
    return varlen_attn(
        query_LHD, key_LHD, value_LHD, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options
    )[None]  # pyright: ignore
