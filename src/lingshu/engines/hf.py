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

from lingshu.core.errors import BadImage, InputError, one_line
from lingshu.core.messages import image_to_json, message_to_json
from lingshu.core.nouns import Engine, Live, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.engines._decoding import draws, ends, model_inputs, pick, prefill, read
from lingshu.engines._live import LiveModel
from lingshu.imaging.read import ShardReader
from lingshu.models.load import Loaded
from lingshu.models.load import load as load_model
from lingshu.models.processor import IGNORED, Encoded


def load(model: str, options: EngineOptions) -> Engine:
    """Open a checkpoint folder or hub id as an engine.

    Raises:
        ArtefactError: it cannot be used as a model.
    """
    return HfEngine(_opened(model, options), batch_size=options.batch_size)


def live(model: str, options: EngineOptions) -> Live:
    """Open a checkpoint folder or hub id to be asked by many at once; `batch_size` replies are
    written together.

    Raises:
        ArtefactError: it cannot be used as a model.
    """
    return LiveModel(_opened(model, options), batch_size=options.batch_size)


def _opened(model: str, options: EngineOptions) -> Loaded:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    return load_model(model, device=device, dtype=dtype)


@dataclass(frozen=True)
class Asked:
    """A sample ready to be answered, or why it cannot be."""

    sample: Sample
    encoded: Encoded | None
    error: str | None = None


class HfEngine:
    """An engine over a loaded model; see the module's first lines for what it promises."""

    endpoint: str | None = None

    def __init__(
        self,
        loaded: Loaded,
        *,
        batch_size: int = 16,
        encode: Callable[[Sample], Encoded] | None = None,
    ) -> None:
        """`encode` makes a sample's inputs where the caller keeps them; else images are read and
        scaled each time.
        """
        self.loaded, self.batch_size = loaded, batch_size
        self.model, self.digest = loaded.name, loaded.digest
        self._shards = ShardReader()
        self._encode = encode or self._read

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
        copies = range(sampling.copies)
        for batch in self._batches(samples):
            wanted = [
                (sample, copy)
                for sample in batch
                for copy in copies
                if (sample.id, copy) not in skip
            ]
            if not wanted:
                continue
            asked = [self._ask(sample) for sample in batch]
            replies = [
                Reply(a.sample.id, None, copy, error=a.error)
                for a in asked
                if a.error
                for copy in copies
            ]
            good = [a for a in asked if a.error is None]
            if good:
                replies += self._answer(good, sampling)
            missing = {(sample.id, copy) for sample, copy in wanted}
            yield [reply for reply in replies if (reply.id, reply.copy) in missing]

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
    def _score(self, batch: Sequence[Encoded]) -> list[float]:
        inputs = model_inputs(self.loaded, batch, pad="right")
        labels_BL = inputs.pop("labels")
        logits_BLV = self.loaded.model(**inputs, use_cache=False).logits.float()
        picked = -functional.cross_entropy(
            logits_BLV[:, :-1].transpose(1, 2),
            labels_BL[:, 1:],
            ignore_index=IGNORED,
            reduction="none",
        )
        return picked.sum(1).tolist()

    def _batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Batches of similar prompt length; equal prompts lie side by side, so that they share one
        prefill.
        """
        keyed = sorted(
            samples,
            key=lambda s: (
                len(s.images),
                sum(len(m.text) for m in s.messages),
                _prompt_key(s),
                s.id,
            ),
        )
        return [keyed[i : i + self.batch_size] for i in range(0, len(keyed), self.batch_size)]

    def _read(self, sample: Sample) -> Encoded:
        return read(self.loaded, sample, self._shards)

    def _ask(self, sample: Sample) -> Asked:
        if sample.answered:
            return Asked(
                sample, None, "the dialogue ends in an answer, there is nothing to be asked"
            )
        try:
            return Asked(sample, self._encode(sample))
        except (BadImage, InputError) as error:
            return Asked(sample, None, one_line(error))

    def _answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[Reply]:
        """Prefill each distinct prompt once, then decode one row for each sample and copy."""
        distinct: dict[str, int] = {}
        rows = [distinct.setdefault(_prompt_key(a.sample), len(distinct)) for a in asked]
        firsts = [asked[rows.index(number)] for number in range(len(distinct))]
        encoded = [a.encoded for a in firsts if a.encoded is not None]
        owners = [(a, copy) for a in asked for copy in range(sampling.copies)]
        lines = [rows[i] for i in range(len(asked)) for _ in range(sampling.copies)]
        tokens = decode(
            self.loaded,
            encoded,
            lines,
            sampling,
            [draws(sampling.seed, a.sample.id, copy) for a, copy in owners],
        )
        tokenizer, end = self.loaded.processor.tokenizer, ends(self.loaded)
        replies = []
        for (a, copy), line in zip(owners, tokens, strict=True):
            ended = bool(line) and line[-1] in end
            text = tokenizer.decode(line[:-1] if ended else line, skip_special_tokens=True)
            prompt = len(a.encoded) if a.encoded is not None else None
            finish = "stop" if ended else "length"
            replies.append(
                Reply(a.sample.id, text, copy, finish, prompt, len(line), token_ids=tuple(line))
            )
        return replies


@torch.inference_mode()
def decode(
    loaded: Loaded,
    prompts: Sequence[Encoded],
    lines: Sequence[int],
    sampling: Sampling,
    rngs: Sequence[np.random.Generator],
) -> list[list[int]]:
    """Reply tokens of each line, the end token included; `lines[i]` is the prompt that line i
    continues.

    Each prompt is prefilled once; its keys and values are then repeated for the lines that share
    it.
    """
    end, pad = sorted(ends(loaded)), loaded.processor.tokenizer.pad_token_id
    rows = prefill(loaded, prompts, lines)
    replies: list[list[int]] = [[] for _ in lines]
    live = np.arange(len(lines))  # the line of each row
    for step in range(sampling.max_tokens):
        chosen = pick(rows.logits_BV, sampling, [rngs[line] for line in live.tolist()])
        going = np.array(
            [not replies[line] or replies[line][-1] not in end for line in live.tolist()]
        )
        for line, token in zip(live[going], chosen[going], strict=True):
            replies[line].append(int(token))
        chosen, going = np.where(going, chosen, pad), going & ~np.isin(chosen, end)
        if not going.any() or step + 1 == sampling.max_tokens:
            break
        if 2 * going.sum() <= len(live):
            # Replies that ended take no further part once they are half of all; copying the cache
            # has its price too.
            rows.keep(np.flatnonzero(going))
            live, chosen = live[going], chosen[going]
        rows.advance(chosen)
    return replies


def _prompt_key(sample: Sample) -> str:
    """Equal for samples that a model sees alike."""
    seen = [
        [message_to_json(m) for m in sample.messages],
        [image_to_json(i) for i in sample.images],
    ]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()
