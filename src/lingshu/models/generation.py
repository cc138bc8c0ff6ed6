"""Generation from a loaded model, step by step: prefill prompts, choose tokens, advance by one, and
turn tokens into text.

Shapes: B rows of a batch, N prompts, L columns of keys and values (prompts padded on the left), V
vocabulary.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from lingshu.core.types import Sample, Sampling
from lingshu.imaging.read import ShardReader, open_image
from lingshu.models.base import Tiles
from lingshu.models.load import LoadedModel
from lingshu.models.processor import EncodedSample

MASKED_LOGIT = -1e9
# An image shown with fewer than this share of its pixels is reported: sizes are always rounded to
# whole tokens.
SCALED_SHARE = 0.9
# What a decoder writes for bytes that are not a character, or not all of one yet.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# After these an answer may have another token: a space or a bracket joins it, SentencePiece has two.
_ANSWER_PREFIXES = ("", " ", "(", " (", "\n", "**", '"', "[", ":")


def encode_sample(loaded: LoadedModel, sample: Sample, shards: ShardReader) -> EncodedSample:
    """A sample as model input; its images are opened and scaled.

    Raises:
        ImageError, InputError: an image or a dialogue that cannot be used.
    """
    images = [open_image(image, shards=shards) for image in sample.images]
    tiles = loaded.processor.tiles(images)
    encoded = loaded.processor.encode(sample.messages, tiles)
    sizes = [image.size for image in images]
    return replace(encoded, scaled_images=tuple(_scaled_images(sizes, tiles)))


def _scaled_images(sizes: Sequence[tuple[int, int]], tiles: Sequence[Tiles]) -> Iterator[str]:
    for number, ((width, height), tile) in enumerate(zip(sizes, tiles, strict=True), 1):
        n_tiles, _, rows, columns = tile.pixels.shape
        # Of several tiles the last shows the whole image again.
        n_shown = max(1, n_tiles - 1) * rows * columns
        if n_shown < SCALED_SHARE * width * height:
            what = f"{rows} x {columns}" if n_tiles == 1 else f"{n_tiles - 1} tiles"
            yield (
                f"image {number} has {height} x {width} pixels and is shown with {n_shown:,} of"
                f" {width * height:,} ({what})."
            )


def context_length(loaded: LoadedModel) -> int:
    """The number of tokens that the positions of a model are made for."""
    return int(loaded.model.config.get_text_config().max_position_embeddings)


def stop_token_ids(loaded: LoadedModel) -> frozenset[int]:
    """The tokens that end a reply, by the tokenizer, the chat template and the generation settings."""
    eos = loaded.model.generation_config.eos_token_id
    extra = eos if isinstance(eos, list) else [eos]
    return loaded.processor.tokens.stop_ids.union(extra) - {None}


def model_inputs(
    loaded: LoadedModel, batch: Sequence[EncodedSample], *, pad: Literal["left", "right"]
) -> dict[str, torch.Tensor]:
    """A batch on the model's device with its labels, pixels in the precision of the model."""
    model, inputs = loaded.model, loaded.processor.collate(batch, pad=pad)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return inputs


class KVBatch:
    """Replies being generated: keys, values, visible columns and next logits of each row."""

    def __init__(
        self,
        loaded: LoadedModel,
        cache: Any,
        mask_BL: torch.Tensor,
        next_position_B: torch.Tensor,
        last_logits_BV: torch.Tensor,
        ids_BL: torch.Tensor,
    ) -> None:
        self._loaded, self._cache, self._mask_BL = loaded, cache, mask_BL
        self._next_position_B, self._last_logits_BV = next_position_B, last_logits_BV
        self._never_sampled = torch.tensor(
            loaded.processor.never_sampled, device=loaded.model.device
        )
        self._penalty = float(loaded.settings.get("repetition_penalty", 1.0))
        # Which tokens each row holds already, None where that makes no difference.
        self._seen_BV: torch.Tensor | None = None
        if self._penalty != 1:
            seen_BV = torch.zeros_like(last_logits_BV, dtype=torch.bool)
            # Padding repeats the row's last token, which is seen anyway.
            ids_BL = torch.where(mask_BL.bool(), ids_BL, ids_BL[:, -1:])
            self._seen_BV = seen_BV.scatter(1, ids_BL, value=True)

    def __len__(self) -> int:
        return len(self._next_position_B)

    @property
    def n_columns(self) -> int:
        return self._mask_BL.shape[1]

    @property
    def logits_BV(self) -> torch.Tensor:
        """Of the next token of each row, after the repetition penalty (CTRL, arXiv 1909.05858,
        section 4.1); tokens that stand for pixels cannot win.
        """
        logits_BV = self._last_logits_BV.float()
        if self._seen_BV is not None:
            scale = self._penalty
            penalized_BV = torch.where(logits_BV < 0, logits_BV * scale, logits_BV / scale)
            logits_BV = torch.where(self._seen_BV, penalized_BV, logits_BV)
        return logits_BV.index_fill(1, self._never_sampled, MASKED_LOGIT)

    def select_rows(self, rows: np.ndarray) -> None:
        """Keep only these rows, in this order."""
        index = torch.from_numpy(rows).to(self._next_position_B.device)
        self._cache.batch_select_indices(index)
        self._mask_BL, self._next_position_B = self._mask_BL[index], self._next_position_B[index]
        self._last_logits_BV = self._last_logits_BV[index]
        if self._seen_BV is not None:
            self._seen_BV = self._seen_BV[index]

    def trim(self) -> None:
        """Drop the columns on the left that no row sees."""
        start = int(self._mask_BL.any(0).int().argmax())
        if start:
            self._mask_BL = self._mask_BL[:, start:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[..., start:, :], layer.values[..., start:, :]

    def append(self, other: KVBatch) -> None:
        """Append the rows of `other`; the narrower of both is padded on the left."""
        n_columns = max(self.n_columns, other.n_columns)
        pads = [n_columns - rows.n_columns for rows in (self, other)]

        def join(*tensors: torch.Tensor) -> torch.Tensor:
            return torch.cat(
                [functional.pad(t, (0, 0, pad, 0)) for t, pad in zip(tensors, pads, strict=True)]
            )

        for layer, other_layer in zip(self._cache.layers, other._cache.layers, strict=True):
            layer.keys = join(layer.keys, other_layer.keys)
            layer.values = join(layer.values, other_layer.values)
        masks = zip((self._mask_BL, other._mask_BL), pads, strict=True)
        self._mask_BL = torch.cat([functional.pad(mask_BL, (pad, 0)) for mask_BL, pad in masks])
        self._next_position_B = torch.cat([self._next_position_B, other._next_position_B])
        self._last_logits_BV = torch.cat([self._last_logits_BV, other._last_logits_BV])
        if self._seen_BV is not None and other._seen_BV is not None:
            self._seen_BV = torch.cat([self._seen_BV, other._seen_BV])

    @torch.inference_mode()
    def advance(self, token_ids: np.ndarray) -> None:
        """Append one token to each row and compute the logits of the next."""
        model = self._loaded.model
        tokens_B1 = torch.from_numpy(token_ids).to(self._next_position_B.device)[:, None]
        self._mask_BL = functional.pad(self._mask_BL, (0, 1), value=1)
        if self._seen_BV is not None:
            self._seen_BV = self._seen_BV.scatter(1, tokens_B1, value=True)
        position = self._next_position_B[:, None]
        has_mrope = self._loaded.processor.family.has_mrope
        hidden = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(tokens_B1),
            attention_mask=self._mask_BL,
            position_ids=position.expand(3, -1, 1) if has_mrope else position,
            use_cache=True,
            **{cache_argument(type(model.model.language_model)): self._cache},
        ).last_hidden_state
        self._next_position_B = self._next_position_B + 1
        self._last_logits_BV = model.lm_head(hidden[:, -1])


@functools.cache
def cache_argument(language_model_class: Any) -> str:
    """How the installed transformers names keys and values: `cache` from 5.24 on, which warns of the
    older name.
    """
    parameters = inspect.signature(language_model_class.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


@torch.inference_mode()
def prefill(
    loaded: LoadedModel, prompts: Sequence[EncodedSample], prompt_indices: Sequence[int]
) -> KVBatch:
    """A row for each of `prompt_indices`, the prompt it continues; each prompt is computed once."""
    from transformers import DynamicCache

    model = loaded.model
    inputs = model_inputs(loaded, prompts, pad="left")
    del inputs["labels"]
    if "position_ids" not in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    # Every layer keeps every column, those with a window too: rows are joined and trimmed by column.
    cache = DynamicCache()
    output = model.model(
        **inputs, use_cache=True, **{cache_argument(type(model.model.language_model)): cache}
    )
    index = torch.tensor(list(prompt_indices), device=model.device)
    cache.batch_select_indices(index)
    # Text continues one position after the largest one of its prompt, in every row of M-RoPE alike.
    positions = inputs["position_ids"]
    next_position_B = positions.amax(dim=(0, 2) if positions.ndim == 3 else 1)[index] + 1
    logits_BV = model.lm_head(output.last_hidden_state[:, -1])[index]
    mask_BL, ids_BL = inputs["attention_mask"][index], inputs["input_ids"][index]
    return KVBatch(loaded, cache, mask_BL, next_position_B, logits_BV, ids_BL)


def sample_tokens(
    logits_BV: torch.Tensor, sampling: Sampling, rngs: Sequence[np.random.Generator]
) -> np.ndarray:
    """The next token of each row: greedy at temperature 0, else by nucleus sampling."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1).cpu().numpy()
    probs_BV = (logits_BV / sampling.temperature).softmax(-1)
    # In (0, 1], so that a token of probability 0 is never reached.
    uniform_B1 = torch.tensor(
        [[1 - rng.random()] for rng in rngs], dtype=probs_BV.dtype, device=logits_BV.device
    )
    if sampling.top_p == 1:
        return _inverse_cdf(probs_BV, uniform_B1).squeeze(1).cpu().numpy()
    sorted_BV, order_BV = probs_BV.sort(descending=True, stable=True)
    nucleus_BV = torch.where(sorted_BV.cumsum(-1) - sorted_BV < sampling.top_p, sorted_BV, 0.0)
    return order_BV.gather(1, _inverse_cdf(nucleus_BV, uniform_B1)).squeeze(1).cpu().numpy()


class AnswerTokenIds:
    """The tokens of a tokenizer that may be an answer by themselves, such as B, (B, yes and No."""

    def __init__(self, tokenizer: Any, words: Iterable[str], word_of: Callable[[str], str | None]):
        """`word_of` gives the word that a token's text is, None for other text."""
        ids: dict[int, str] = {}
        for word in sorted(words):
            for form in {word, word.upper(), word.capitalize()}:
                for prefix in _ANSWER_PREFIXES:
                    token_ids = tokenizer.encode(prefix + form, add_special_tokens=False)
                    if token_ids and word_of(tokenizer.decode(token_ids[-1:])) == form:
                        ids[token_ids[-1]] = form
        self.words = ids
        self._ids_K = torch.tensor(sorted(ids), dtype=torch.long)

    def log_probs(
        self, logits_BV: torch.Tensor, token_ids: np.ndarray
    ) -> tuple[list[float], dict[int, list[tuple[str, float]]]]:
        """The natural log-probability of the token chosen in each row, and for the rows whose token
        may be an answer the probability of every such token with its word.
        """
        logits_BV = logits_BV.float()
        total_B = logits_BV.logsumexp(-1)
        chosen_B1 = torch.from_numpy(token_ids).to(logits_BV.device)[:, None]
        chosen = (logits_BV.gather(1, chosen_B1)[:, 0] - total_B).tolist()
        rows = [row for row, token in enumerate(token_ids.tolist()) if token in self.words]
        if not rows:
            return chosen, {}
        ids_K = self._ids_K = self._ids_K.to(logits_BV.device)
        probabilities_RK = (logits_BV[rows][:, ids_K] - total_B[rows][:, None]).exp().tolist()
        words = [self.words[token] for token in ids_K.tolist()]
        return chosen, {
            row: list(zip(words, values, strict=True))
            for row, values in zip(rows, probabilities_RK, strict=True)
        }


def _inverse_cdf(probs_BV: torch.Tensor, uniform_B1: torch.Tensor) -> torch.Tensor:
    """The first index where the cumulative sum reaches the uniform share of its total."""
    cumulative_BV = probs_BV.cumsum(-1)
    return (cumulative_BV < uniform_B1 * cumulative_BV[:, -1:]).sum(-1, keepdim=True)


def token_rng(seed: int, sample_id: str, generation: int) -> np.random.Generator:
    """The random numbers of one reply; they depend on nothing else."""
    seed_digest = hashlib.sha256(f"{seed}|{generation}|{sample_id}".encode()).digest()
    return np.random.default_rng(np.frombuffer(seed_digest, np.uint32))


class IncrementalDetokenizer:
    """The text of a reply while its tokens arrive: pieces that never hold half a character, a
    special token, or the start of a stop string.

    `decode` converts tokens to text without special ones. One character may take several tokens,
    and a stop string several pieces.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._decode, self._stop = decode, tuple(text for text in stop if text)
        self._pending_tokens: list[int] = []  # tokens since the last complete character
        # The tokens before those, and their text: SentencePiece tokenizers drop the space before
        # the first word that they are given.
        self._context: list[int] = []
        self._context_text = ""
        self._n_emitted = 0  # characters of the pending tokens that were emitted already
        self._buffer = ""  # perhaps the start of a stop string

    def add(self, token: int) -> str:
        """The text that may be shown after one more token; empty while nothing can be."""
        self._pending_tokens.append(token)
        decoded = self._pending_text()
        # Of the pending bytes at most the last character is incomplete; what precedes it will not
        # change.
        complete = decoded.removesuffix(REPLACEMENT)
        new_text, self._n_emitted = complete[self._n_emitted :], len(complete)
        if len(complete) == len(decoded):
            self._context = self._pending_tokens
            self._context_text = self._decode(self._context)
            self._pending_tokens, self._n_emitted = [], 0
        return self._emit(new_text, is_final=False)

    def _pending_text(self) -> str:
        together = self._decode([*self._context, *self._pending_tokens])
        if together.startswith(self._context_text):
            return together[len(self._context_text) :]
        # Bytes that make the characters before them invalid where a decoder takes all in one.
        return self._decode(self._pending_tokens)

    def flush(self) -> str:
        """The rest, once no token follows."""
        tail = self._pending_text()[self._n_emitted :] if self._pending_tokens else ""
        self._pending_tokens, self._n_emitted = [], 0
        return self._emit(tail, is_final=True)

    def _emit(self, new_text: str, *, is_final: bool) -> str:
        if self.stopped:
            return ""
        buffer = self._buffer + new_text
        stop_offsets = [offset for text in self._stop if (offset := buffer.find(text)) >= 0]
        if stop_offsets:
            self.stopped, end, self._buffer = True, min(stop_offsets), ""
        else:
            held_back = [0] if is_final else [_suffix_overlap(buffer, text) for text in self._stop]
            end = len(buffer) - max(held_back, default=0)
            self._buffer = buffer[end:]
        self.text += buffer[:end]
        return buffer[:end]


def reply_detokenizer(tokenizer: Any, stop: Sequence[str] = ()) -> IncrementalDetokenizer:
    return IncrementalDetokenizer(
        lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True), stop
    )


def decode_with_offsets(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of a whole reply, and its length before each token."""
    detokenizer = reply_detokenizer(tokenizer)
    offsets: list[int] = []
    for token in token_ids:
        offsets.append(len(detokenizer.text))
        detokenizer.add(token)
    detokenizer.flush()
    return detokenizer.text, offsets


def _suffix_overlap(buffer: str, text: str) -> int:
    """The number of characters at the end of `buffer` that begin `text`."""
    sizes = range(min(len(buffer), len(text) - 1), 0, -1)
    return next((size for size in sizes if text.startswith(buffer[-size:])), 0)
