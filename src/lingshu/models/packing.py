"""Several samples in one row, none seeing another: inputs, positions and attention of a pack.

Shapes: B rows (1 in a pack), L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lingshu.core.errors import ArtifactError
from lingshu.models.base import IMAGE_BLOCK_INPUT, family_of
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor, to_tensors
from lingshu.models.segment_attention import Segments, segment_attention, to_device


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
    is_image = inputs.pop(IMAGE_BLOCK_INPUT, None)
    if "pixel_values" not in inputs:
        is_image = None
    layout = Segments(segments, inputs["input_ids"].device, causal=True, is_image=is_image)
    with segment_attention(model, language=True):
        inputs = with_image_features(model, inputs)
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
    with segment_attention(model, language=False):
        inputs = with_image_features(model, {**inputs, "attention_mask": masks})
        return model.model(**inputs, use_cache=False).last_hidden_state


def with_image_features(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with the output of a vision tower that takes images of any size in place of its
    pixels.

    The tower derives bounds, positions and windows from the sizes of the images; here this happens
    once, on the CPU where the sizes are, so that no layer reads them from the GPU.
    """
    grid = inputs.get("image_grid_thw")
    if grid is None:
        return inputs
    pixels, grid = inputs["pixel_values"], grid.cpu()
    derived, bounds = family_of(model.config.model_type).tower_inputs(model.model.visual, grid)
    segments = [Segments(part, pixels.device, causal=False) for part in bounds]
    # The tower takes its bounds as tensors; the attention of its layers finds them by their number.
    names = (("cu_seqlens", "max_seqlen"), ("cu_window_seqlens", "max_window_seqlen"))
    for (bounds_name, longest_name), part in zip(names, segments, strict=False):
        derived |= {bounds_name: part.cu_seqlens, longest_name: part.longest}
    features = model.model.get_image_features(
        pixels,
        grid,
        return_dict=True,
        tower_segments=segments,
        **{
            name: to_device(value, pixels.device) if isinstance(value, torch.Tensor) else value
            for name, value in derived.items()
        },
    )
    kept = {name: value for name, value in inputs.items() if name != "pixel_values"}
    return {**kept, "image_grid_thw": grid, "mm_encoder_outputs": {"image": features}}


def inside_window(visible_B1LL: torch.Tensor, window: int) -> torch.Tensor:
    """What of the visible tokens is fewer than `window` positions back.

    The tokens that one sees are its own past, whatever else is in its row, so that positions are
    counted along them.
    """
    rank_B1LL = visible_B1LL.cumsum(-1, dtype=torch.int32)
    own_rank_B1L1 = rank_B1LL.diagonal(dim1=-2, dim2=-1)[..., None]
    return visible_B1LL & (own_rank_B1L1 - rank_B1LL < window)
