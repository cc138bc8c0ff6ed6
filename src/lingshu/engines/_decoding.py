"""The steps that answering from a loaded model is made of: read a sample, prefill prompts, choose
tokens, go on by one.

Shapes: B rows of a batch, N prompts, L columns of keys and values (prompts padded on the left), V
vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from lingshu.core.types import Sample, Sampling
from lingshu.imaging.read import ShardReader, open_image
from lingshu.models.load import LoadedModel
from lingshu.models.processor import EncodedSample

MASKED_LOGIT = -1e9


def encode_sample(loaded: LoadedModel, sample: Sample, shards: ShardReader) -> EncodedSample:
    """A sample as the model takes it; its images are opened and scaled.

    Raises:
        BadImage, InputError: an image or a dialogue that cannot be used.
    """
    processor = loaded.processor
    return processor.encode(
        sample.messages,
        processor.tiles([open_image(image, shards=shards) for image in sample.images]),
    )


def stop_token_ids(loaded: LoadedModel) -> frozenset[int]:
    """The tokens that end a reply: the tokenizer's, and those that the checkpoint's generation
    settings name.
    """
    generation_eos = loaded.model.generation_config.eos_token_id
    return frozenset(
        {
            loaded.processor.tokenizer.eos_token_id,
            *(
                generation_eos
                if isinstance(generation_eos, list)
                else ()
                if generation_eos is None
                else (generation_eos,)
            ),
        }
    )


def model_inputs(
    loaded: LoadedModel, batch: Sequence[EncodedSample], *, pad: Literal["left", "right"]
) -> dict[str, torch.Tensor]:
    """A batch on the model's device, pixels in its precision; labels are among it."""
    model = loaded.model
    inputs = {
        name: tensor.to(model.device)
        for name, tensor in loaded.processor.collate(batch, pad=pad).items()
    }
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return inputs


class KVBatch:
    """Replies in the making: for each row its keys and values, the columns it sees, its next
    position and token's logits.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cache: Any,
        mask_BL: torch.Tensor,
        next_position_B: torch.Tensor,
        last_logits_BV: torch.Tensor,
    ) -> None:
        self._loaded, self._cache = loaded, cache
        self._mask_BL, self._next_position_B, self._last_logits_BV = (
            mask_BL,
            next_position_B,
            last_logits_BV,
        )
        self._never_sampled = torch.tensor(
            loaded.processor.never_sampled, device=loaded.model.device
        )

    def __len__(self) -> int:
        return len(self._next_position_B)

    @property
    def n_columns(self) -> int:
        return self._mask_BL.shape[1]

    @property
    def logits_BV(self) -> torch.Tensor:
        """Of each row's next token; tokens that stand for pixels cannot win."""
        return self._last_logits_BV.float().index_fill(1, self._never_sampled, MASKED_LOGIT)

    def select_rows(self, rows: np.ndarray) -> None:
        """Go on with these rows alone, in this order."""
        index = torch.from_numpy(rows).to(self._next_position_B.device)
        self._cache.batch_select_indices(index)
        self._mask_BL, self._next_position_B, self._last_logits_BV = (
            self._mask_BL[index],
            self._next_position_B[index],
            self._last_logits_BV[index],
        )

    def trim(self) -> None:
        """Let go of the columns on the left that no row sees."""
        start = int(self._mask_BL.any(0).int().argmax())
        if start:
            self._mask_BL = self._mask_BL[:, start:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[..., start:, :], layer.values[..., start:, :]

    def append(self, other: KVBatch) -> None:
        """Take the rows of `other` in behind these; the narrower of both is padded on the left."""
        n_columns = max(self.n_columns, other.n_columns)

        def pad_left(tensor: torch.Tensor, length: int) -> torch.Tensor:
            return functional.pad(tensor, (0, 0, n_columns - length, 0))

        for layer, other_layer in zip(self._cache.layers, other._cache.layers, strict=True):
            layer.keys = torch.cat(
                [pad_left(layer.keys, self.n_columns), pad_left(other_layer.keys, other.n_columns)]
            )
            layer.values = torch.cat(
                [
                    pad_left(layer.values, self.n_columns),
                    pad_left(other_layer.values, other.n_columns),
                ]
            )
        masks = [
            functional.pad(rows._mask_BL, (n_columns - rows.n_columns, 0)) for rows in (self, other)
        ]
        self._mask_BL = torch.cat(masks)
        self._next_position_B = torch.cat([self._next_position_B, other._next_position_B])
        self._last_logits_BV = torch.cat([self._last_logits_BV, other._last_logits_BV])

    @torch.inference_mode()
    def advance(self, token_ids: np.ndarray) -> None:
        """Say one token in each row and look at what may follow."""
        model, device = self._loaded.model, self._next_position_B.device
        self._mask_BL = functional.pad(self._mask_BL, (0, 1), value=1)
        position = self._next_position_B[:, None]
        hidden = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(
                torch.from_numpy(token_ids).to(device)[:, None]
            ),
            attention_mask=self._mask_BL,
            position_ids=position.expand(3, -1, 1)
            if self._loaded.processor.family.has_mrope
            else position,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._next_position_B = self._next_position_B + 1
        self._last_logits_BV = model.lm_head(hidden[:, -1])


@torch.inference_mode()
def prefill(
    loaded: LoadedModel, prompts: Sequence[EncodedSample], prompt_indices: Sequence[int]
) -> KVBatch:
    """A row for each of `lines`, the number of the prompt it continues; each prompt is computed
    once.
    """
    model = loaded.model
    inputs = model_inputs(loaded, prompts, pad="left")
    del inputs["labels"]
    if "position_ids" not in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    output = model.model(**inputs, use_cache=True)
    index = torch.tensor(list(prompt_indices), device=model.device)
    cache = output.past_key_values
    cache.batch_select_indices(index)
    # Text goes on one position behind the largest one of its prompt, in every row of M-RoPE alike.
    next_position_B = (
        inputs["position_ids"].amax(dim=(0, 2) if inputs["position_ids"].ndim == 3 else 1)[index]
        + 1
    )
    return KVBatch(
        loaded,
        cache,
        inputs["attention_mask"][index],
        next_position_B,
        model.lm_head(output.last_hidden_state[:, -1])[index],
    )


def sample_tokens(
    logits_BV: torch.Tensor, sampling: Sampling, rngs: Sequence[np.random.Generator]
) -> np.ndarray:
    """The next token of each row: the likeliest at temperature 0, else drawn from the nucleus of
    `top_p` by one uniform number.
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(-1).cpu().numpy()
    probs_BV = (logits_BV / sampling.temperature).softmax(-1)
    # Between 0, which no token's share reaches, and 1.
    uniform_B1 = torch.tensor(
        [[1 - rng.random()] for rng in rngs], dtype=probs_BV.dtype, device=logits_BV.device
    )
    if sampling.top_p == 1:
        return _inverse_cdf(probs_BV, uniform_B1).squeeze(1).cpu().numpy()
    sorted_BV, order_BV = probs_BV.sort(descending=True, stable=True)
    nucleus_BV = torch.where(sorted_BV.cumsum(-1) - sorted_BV < sampling.top_p, sorted_BV, 0.0)
    return order_BV.gather(1, _inverse_cdf(nucleus_BV, uniform_B1)).squeeze(1).cpu().numpy()


def _inverse_cdf(probs_BV: torch.Tensor, uniform_B1: torch.Tensor) -> torch.Tensor:
    """Where the shares' running sum reaches `uniform` of its total: a place whose own share is
    above 0.
    """
    cumulative_BV = probs_BV.cumsum(-1)
    return (cumulative_BV < uniform_B1 * cumulative_BV[:, -1:]).sum(-1, keepdim=True)


def token_rng(seed: int, sample_id: str, copy: int) -> np.random.Generator:
    """The random numbers of one reply; they depend on nothing else."""
    entropy = np.frombuffer(
        hashlib.sha256(f"{seed}|{copy}|{sample_id}".encode()).digest(), np.uint32
    )
    return np.random.default_rng(entropy)
