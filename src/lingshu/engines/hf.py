"""Answers from a checkpoint inside this process: batched, equal prompts prefilled once, no image
token ever sampled.

A draw depends on (seed, sample, copy) alone, never on its neighbours in a batch; batches are
composed from the whole list, so that an interrupted run and its continuation do the same
arithmetic.

Shapes: B rows of a batch, L prompt tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ImageError, InputError, one_line
from lingshu.core.messages import image_to_json, message_to_json
from lingshu.core.types import AsyncEngine, Engine, Reply, Sample, Sampling
from lingshu.engines._continuous_batching import ContinuousBatchingEngine
from lingshu.engines._decoding import (
    encode_sample,
    model_inputs,
    prefill,
    sample_tokens,
    stop_token_ids,
    token_rng,
)
from lingshu.imaging.read import ShardReader
from lingshu.models.load import LoadedModel
from lingshu.models.load import load as load_model
from lingshu.models.processor import IGNORE_INDEX, EncodedSample


def load(model: str, options: EngineOptions) -> Engine:
    """Open a checkpoint folder or hub id as an engine.

    Raises:
        ArtefactError: it cannot be used as a model.
    """
    return HfEngine(_open_model(model, options), batch_size=options.batch_size)


def live(model: str, options: EngineOptions) -> AsyncEngine:
    """Open a checkpoint folder or hub id to be asked by many at once; `batch_size` replies are
    written together.

    Raises:
        ArtefactError: it cannot be used as a model.
    """
    return ContinuousBatchingEngine(_open_model(model, options), batch_size=options.batch_size)


def _open_model(model: str, options: EngineOptions) -> LoadedModel:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    return load_model(model, device=device, dtype=dtype)


@dataclass(frozen=True)
class PreparedSample:
    """A sample ready to be answered, or why it cannot be."""

    sample: Sample
    encoded: EncodedSample | None
    error: str | None = None


class HfEngine:
    """An engine over a loaded model; see the module's first lines for what it promises."""

    endpoint: str | None = None

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int = 16,
        encode: Callable[[Sample], EncodedSample] | None = None,
    ) -> None:
        """`encode` makes a sample's inputs where the caller keeps them; else images are read and
        scaled each time.
        """
        self.loaded, self.batch_size = loaded, batch_size
        self.model, self.digest = loaded.name, loaded.digest
        self._shards = ShardReader()
        self._encode = encode or self._encode_sample

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        """Answer samples batch by batch, shortest prompts first; a sample that cannot be encoded
        gets an error reply.
        """
        copy_indices = range(sampling.num_generations)
        for batch in self._batches(samples):
            requested = [
                (sample, copy)
                for sample in batch
                for copy in copy_indices
                if (sample.id, copy) not in skip
            ]
            if not requested:
                continue
            prepared = [self._prepare(sample) for sample in batch]
            replies = [
                Reply(a.sample.id, None, copy, error=a.error)
                for a in prepared
                if a.error
                for copy in copy_indices
            ]
            encodable = [a for a in prepared if a.error is None]
            if encodable:
                replies += self._answer(encodable, sampling)
            requested_keys = {(sample.id, copy) for sample, copy in requested}
            yield [
                reply for reply in replies if (reply.id, reply.generation_index) in requested_keys
            ]

    def log_likelihoods(
        self, samples: Sequence[Sample], answers: Sequence[str]
    ) -> list[list[float]]:
        """Log-probability (natural, summed over its tokens, end token included) of each answer to
        each sample.

        Raises:
            BadImage, InputError: a sample that cannot be encoded.
        """
        rows = [(sample, answer) for sample in samples for answer in answers]
        values: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            batch = [
                self._encode(sample.with_answer(answer))
                for sample, answer in rows[start : start + self.batch_size]
            ]
            values += self._score(batch)
        return [values[i : i + len(answers)] for i in range(0, len(values), len(answers))]

    @torch.inference_mode()
    def _score(self, batch: Sequence[EncodedSample]) -> list[float]:
        inputs = model_inputs(self.loaded, batch, pad="right")
        labels_BL = inputs.pop("labels")
        logits_BLV = self.loaded.model(**inputs, use_cache=False).logits.float()
        log_probs_BL = -functional.cross_entropy(
            logits_BLV[:, :-1].transpose(1, 2),
            labels_BL[:, 1:],
            ignore_index=IGNORE_INDEX,
            reduction="none",
        )
        return log_probs_BL.sum(1).tolist()

    def _batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Batches of similar prompt length; equal prompts lie side by side, so that they share one
        prefill.
        """
        ordered = sorted(
            samples,
            key=lambda s: (
                len(s.images),
                sum(len(m.text) for m in s.messages),
                _prompt_key(s),
                s.id,
            ),
        )
        return [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]

    def _encode_sample(self, sample: Sample) -> EncodedSample:
        return encode_sample(self.loaded, sample, self._shards)

    def _prepare(self, sample: Sample) -> PreparedSample:
        if sample.answered:
            return PreparedSample(
                sample, None, "the dialogue ends in an answer, there is nothing to be asked"
            )
        try:
            return PreparedSample(sample, self._encode(sample))
        except (ImageError, InputError) as error:
            return PreparedSample(sample, None, one_line(error))

    def _answer(self, prepared: Sequence[PreparedSample], sampling: Sampling) -> list[Reply]:
        """Prefill each distinct prompt once, then decode one row for each sample and copy."""
        unique_prompts: dict[str, int] = {}
        sample_prompts = [
            unique_prompts.setdefault(_prompt_key(a.sample), len(unique_prompts)) for a in prepared
        ]
        unique_samples = [
            prepared[sample_prompts.index(index)] for index in range(len(unique_prompts))
        ]
        encoded = [a.encoded for a in unique_samples if a.encoded is not None]
        requests = [(a, copy) for a in prepared for copy in range(sampling.num_generations)]
        prompt_indices = [
            sample_prompts[i] for i in range(len(prepared)) for _ in range(sampling.num_generations)
        ]
        tokens = decode(
            self.loaded,
            encoded,
            prompt_indices,
            sampling,
            [token_rng(sampling.seed, a.sample.id, copy) for a, copy in requests],
        )
        tokenizer, stop_ids = self.loaded.processor.tokenizer, stop_token_ids(self.loaded)
        replies = []
        for (a, copy), reply_ids in zip(requests, tokens, strict=True):
            hit_stop_token = bool(reply_ids) and reply_ids[-1] in stop_ids
            text = tokenizer.decode(
                reply_ids[:-1] if hit_stop_token else reply_ids, skip_special_tokens=True
            )
            n_prompt_tokens = len(a.encoded) if a.encoded is not None else None
            finish_reason = "stop" if hit_stop_token else "length"
            replies.append(
                Reply(
                    a.sample.id,
                    text,
                    copy,
                    finish_reason,
                    n_prompt_tokens,
                    len(reply_ids),
                    token_ids=tuple(reply_ids),
                )
            )
        return replies


@torch.inference_mode()
def decode(
    loaded: LoadedModel,
    prompts: Sequence[EncodedSample],
    prompt_indices: Sequence[int],
    sampling: Sampling,
    rngs: Sequence[np.random.Generator],
) -> list[list[int]]:
    """Reply tokens of each line, the end token included; `lines[i]` is the prompt that line i
    continues.

    Each prompt is prefilled once; its keys and values are then repeated for the lines that share
    it.
    """
    stop_ids, pad = sorted(stop_token_ids(loaded)), loaded.processor.tokenizer.pad_token_id
    kv_batch = prefill(loaded, prompts, prompt_indices)
    replies: list[list[int]] = [[] for _ in prompt_indices]
    active_rows = np.arange(len(prompt_indices))  # the line of each row
    for step in range(sampling.max_tokens):
        next_tokens = sample_tokens(
            kv_batch.logits_BV, sampling, [rngs[row] for row in active_rows.tolist()]
        )
        is_active = np.array(
            [not replies[row] or replies[row][-1] not in stop_ids for row in active_rows.tolist()]
        )
        for row, token in zip(active_rows[is_active], next_tokens[is_active], strict=True):
            replies[row].append(int(token))
        next_tokens, is_active = (
            np.where(is_active, next_tokens, pad),
            is_active & ~np.isin(next_tokens, stop_ids),
        )
        if not is_active.any() or step + 1 == sampling.max_tokens:
            break
        if 2 * is_active.sum() <= len(active_rows):
            # Replies that ended take no further part once they are half of all; copying the cache
            # has its price too.
            kv_batch.select_rows(np.flatnonzero(is_active))
            active_rows, next_tokens = active_rows[is_active], next_tokens[is_active]
        kv_batch.advance(next_tokens)
    return replies


def _prompt_key(sample: Sample) -> str:
    """Equal for samples that a model sees alike."""
    content = [
        [message_to_json(m) for m in sample.messages],
        [image_to_json(i) for i in sample.images],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
