"""Several samples in one row, none seeing another: inputs, positions and attention of a pack.

Shapes: B rows (1 in a pack), H heads, L tokens of a row, S tokens of a segment, D head size.
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
from lingshu.models.base import IMAGE_BLOCK_INPUT
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
    inputs = dict(inputs)
    layout = PackLayout(tuple(segments), inputs.pop(IMAGE_BLOCK_INPUT, None))
    with segment_attention(model):
        return model.model(**inputs, use_cache=False, segments=layout).last_hidden_state


def compute_padded_hidden_states(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last hidden states of padded rows, B x L x width; `attention_mask` may say what sees what
    (B x 1 x L x L), where a sample has branches.
    """
    mask = inputs["attention_mask"]
    text_config = model.model.language_model.config
    masks: Any = mask
    if mask.ndim == 4 and "sliding_attention" in (getattr(text_config, "layer_types", None) or ()):
        masks = {
            "full_attention": mask,
            "sliding_attention": inside_window(mask, text_config.sliding_window),
        }
    return model.model(**{**inputs, "attention_mask": masks}, use_cache=False).last_hidden_state


def inside_window(visible_B1LL: torch.Tensor, window: int) -> torch.Tensor:
    """What of the visible tokens is fewer than `window` positions back.

    The tokens that one sees are its own past, whatever else is in its row, so that positions are
    counted along them.
    """
    rank_B1LL = visible_B1LL.cumsum(-1, dtype=torch.int32)
    own_rank_B1L1 = rank_B1LL.diagonal(dim1=-2, dim2=-1)[..., None]
    return visible_B1LL & (own_rank_B1L1 - rank_B1LL < window)


class PackLayout:
    """The lengths of the samples of a pack, and what the tokens of each see of it.

    `is_image` (1 x L) marks the tokens of images that are seen in both directions, None where every
    token sees its past only. A mask is made once and serves all layers.
    """

    def __init__(self, lengths: tuple[int, ...], is_image: torch.Tensor | None) -> None:
        self.lengths = lengths
        self._images = None if is_image is None else [i.bool() for i in is_image[0].split(lengths)]
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    @property
    def is_causal(self) -> bool:
        return self._images is None or not any(bool(image.any()) for image in self._images)

    def mask(self, segment: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """What each token of a segment sees of it (S x S), None if it is all of its past."""
        length = self.lengths[segment]
        window = None if window is None or window >= length else window
        key = segment, window
        if key not in self._masks:
            image = None if self._images is None else self._images[segment]
            is_plain = window is None and (image is None or not bool(image.any()))
            self._masks[key] = None if is_plain else segment_mask(length, image, window, device)
        return self._masks[key]


def segment_mask(
    length: int, is_image: torch.Tensor | None, window: int | None, device: torch.device
) -> torch.Tensor:
    """What each token (row) of a sample sees: its past and all of its own image, and of both only
    what is inside the window.
    """
    position_S = torch.arange(length, device=device)
    distance_SS = position_S[:, None] - position_S
    visible_SS = distance_SS >= 0
    if is_image is not None:
        starts_S = is_image & ~functional.pad(is_image, (1, 0))[:-1]
        image_S = torch.where(is_image, starts_S.cumsum(0), 0)
        visible_SS |= (image_S[:, None] == image_S) & is_image
    return visible_SS if window is None else visible_SS & (distance_SS < window)


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
    segments: PackLayout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside each segment, so that the cost is linear in the length of the pack: on a GPU
    in half precision one variable-length kernel for all segments, elsewhere, and where image tokens
    see each other in both directions, a call per segment.
    """
    del module, attention_mask
    is_half_on_gpu = query_BHLD.is_cuda and query_BHLD.dtype in (torch.float16, torch.bfloat16)
    if is_half_on_gpu and segments.is_causal:
        return varlen_attention_forward(
            query_BHLD, key_BHLD, value_BHLD, segments.lengths, scaling, sliding_window
        ), None
    parts = zip(
        *(tensor.split(segments.lengths, 2) for tensor in (query_BHLD, key_BHLD, value_BHLD)),
        strict=True,
    )
    enable_gqa = query_BHLD.shape[1] != key_BHLD.shape[1]
    outputs = []
    for segment, (q, k, v) in enumerate(parts):
        mask = segments.mask(segment, sliding_window, query_BHLD.device)
        outputs.append(
            functional.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=enable_gqa
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def varlen_attention_forward(
    query_BHLD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    segments: tuple[int, ...],
    scaling: float | None,
    window: int | None,
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
    # The kernel counts the tokens before the one that looks.
    window_size = (-1 if window is None else window - 1, 0)
    options: dict[str, Any] = {
        "scale": scaling,
        "window_size": window_size,
        "enable_gqa": enable_gqa,
    }
    return varlen_attn(
        query_LHD, key_LHD, value_LHD, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options
    )[None]  # pyright: ignore
