"""Answers from a checkpoint inside this process: batched, equal prompts prefilled once, no image
token ever sampled.

HfEngine takes lists. A reply depends on (seed, sample, generation) only, never on its neighbors in a
batch; batches are composed from the full list, so that an interrupted run and its continuation do
the same arithmetic.

ContinuousBatchingEngine takes requests as they arrive: new ones are prefilled together and join the
replies that are being generated. One thread runs the model and one prepares requests (images opened
and scaled, text tokenized). A row leaves the batch at the token that ends it, or at the one after
its cancellation. A greedy reply equals that of HfEngine: the neighbors of a row change its
arithmetic by rounding only.

Shapes: B rows of a batch, L prompt tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from lingshu.core.confidence import ANSWER_WORDS, answer_token, answer_word, text_log_prob
from lingshu.core.errors import (
    EngineError,
    ImageError,
    InputError,
    LingshuError,
    describe_error,
    one_line,
)
from lingshu.core.messages import image_to_json, message_to_json
from lingshu.core.types import (
    AnswerToken,
    AsyncEngine,
    Engine,
    EngineOptions,
    EventCallback,
    Reply,
    Sample,
    Sampling,
)
from lingshu.engines._requests import pending_requests
from lingshu.imaging.read import ShardReader
from lingshu.models.generation import (
    AnswerTokenIds,
    IncrementalDetokenizer,
    KVBatch,
    context_length,
    decode_with_offsets,
    encode_sample,
    model_inputs,
    prefill,
    reply_detokenizer,
    sample_tokens,
    stop_token_ids,
    token_rng,
)
from lingshu.models.inference_settings import open_model
from lingshu.models.load import LoadedModel
from lingshu.models.processor import IGNORE_INDEX, EncodedSample

# The widest prefill, padding included: replies that are being generated wait for it.
PREFILL_TOKENS = 8192
MAX_MARKS = 4  # characters of a token before its word, such as a bracket
ALREADY_ANSWERED = "the dialogue ends in an answer, so there is nothing to be answered"
CLOSED = "the engine was closed; ask again later."


def load(model: str, options: EngineOptions) -> Engine:
    """Open a checkpoint folder or hub id as an engine.

    Raises:
        ArtifactError: it cannot be used as a model.
    """
    return HfEngine(_open_model(model, options), batch_size=options.batch_size)


def live(model: str, options: EngineOptions) -> AsyncEngine:
    """Open a checkpoint folder or hub id for concurrent requests; `batch_size` replies are
    generated together.

    Raises:
        ArtifactError: it cannot be used as a model.
    """
    return ContinuousBatchingEngine(_open_model(model, options), batch_size=options.batch_size)


def _open_model(model: str, options: EngineOptions) -> LoadedModel:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return open_model(model, options.checkpoint, device=device)


class PreparedSample(NamedTuple):
    sample: Sample
    encoded: EncodedSample


@dataclass
class _TokenEvidence:
    """The log-probability of each token of a reply, and the probabilities of answers where a token
    is one, by its index.
    """

    log_probs: list[float] = field(default_factory=list)
    answers: dict[int, list[tuple[str, float]]] = field(default_factory=dict)

    def add(self, log_prob: float, answers: list[tuple[str, float]] | None) -> None:
        if answers is not None:
            self.answers[len(self.log_probs)] = answers
        self.log_probs.append(log_prob)

    def fields(
        self, text: str, ids: Sequence[int], offsets: Sequence[int], words: Mapping[int, str]
    ) -> dict[str, Any]:
        """The fields of a reply with `text`, whose tokens `ids` begin at `offsets`."""
        tokens: list[AnswerToken] = []
        for index, alternatives in self.answers.items():
            if index < len(offsets):
                word = words[ids[index]]
                start = text.find(word, offsets[index])
                if 0 <= start <= offsets[index] + MAX_MARKS:
                    tokens.append(answer_token(start, word, alternatives))
        n_tokens = sum(offset < len(text) for offset in offsets)
        return {
            "answer_tokens": tuple(tokens),
            "log_prob": text_log_prob(self.log_probs[:n_tokens]),
        }


class HfEngine:
    """An engine over a loaded model; see the module's first lines for what it guarantees."""

    endpoint: str | None = None

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int = 16,
        encode: Callable[[Sample], EncodedSample] | None = None,
    ) -> None:
        """`encode` returns the inputs of a sample; by default its images are read and scaled."""
        self.loaded, self.batch_size = loaded, batch_size
        self.model, self.digest = loaded.name, loaded.digest
        self.notes, self.settings = loaded.notes, loaded.settings
        self._shards = ShardReader()
        self._encode = encode or self._encode_sample
        self._answer_ids = _answer_token_ids(loaded)

    def _encode_sample(self, sample: Sample) -> EncodedSample:
        return encode_sample(self.loaded, sample, self._shards)

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        """Answer batch by batch, shortest prompts first; a bad sample gets an error reply."""
        for batch in self._batches(samples):
            requested = {
                (sample.id, generation)
                for sample, generation in pending_requests(batch, sampling, skip)
            }
            if not requested:
                continue
            prepared: list[PreparedSample] = []
            replies: list[Reply] = []
            for sample in batch:
                outcome = self._prepare(sample)
                if isinstance(outcome, PreparedSample):
                    prepared.append(outcome)
                else:
                    generations = range(sampling.num_generations)
                    replies += [
                        Reply(sample.id, None, generation, error=outcome)
                        for generation in generations
                    ]
            if prepared:
                replies += self._answer(prepared, sampling)
            yield [reply for reply in replies if (reply.id, reply.generation_index) in requested]

    def log_likelihoods(
        self, samples: Sequence[Sample], answers: Sequence[str]
    ) -> list[list[float]]:
        """Log-probability (natural, summed over its tokens, end token included) of each answer to
        each sample.

        Raises:
            ImageError, InputError: a sample that cannot be encoded.
        """
        rows = [sample.with_answer(answer) for sample in samples for answer in answers]
        values: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            values += self._score([self._encode(s) for s in rows[start : start + self.batch_size]])
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
        """Batches of similar length; equal prompts are neighbors and share a prefill."""

        def order(sample: Sample) -> tuple[int, int, str, str]:
            n_characters = sum(len(message.text) for message in sample.messages)
            return len(sample.images), n_characters, _prompt_key(sample), sample.id

        ordered = sorted(samples, key=order)
        return [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]

    def _prepare(self, sample: Sample) -> PreparedSample | str:
        """The encoded sample, or why it cannot be answered."""
        if sample.answered:
            return ALREADY_ANSWERED
        try:
            prepared = PreparedSample(sample, self._encode(sample))
        except (ImageError, InputError) as error:
            return one_line(error)
        n_tokens, limit = len(prepared.encoded), context_length(self.loaded)
        if n_tokens > limit:
            return (
                f"the prompt has {n_tokens} tokens, more than the {limit} of this model; show fewer"
                " or smaller images (--max-pixels, --max-tiles)"
            )
        return prepared

    def _answer(self, prepared: Sequence[PreparedSample], sampling: Sampling) -> list[Reply]:
        """Prefill each distinct prompt once, then decode one row for each sample and generation."""
        prompts, sample_prompts = _unique([_prompt_key(p.sample) for p in prepared])
        generations = range(sampling.num_generations)
        requests = [(p, generation) for p in prepared for generation in generations]
        evidence = [_TokenEvidence() for _ in requests]
        tokens = decode(
            self.loaded,
            [prepared[index].encoded for index in prompts],
            [prompt for prompt in sample_prompts for _ in generations],
            sampling,
            [token_rng(sampling.seed, p.sample.id, generation) for p, generation in requests],
            on_tokens=partial(_add_evidence, self._answer_ids, evidence),
        )
        tokenizer, stop_ids = self.loaded.processor.tokenizer, stop_token_ids(self.loaded)
        replies = []
        for (p, generation), ids, known in zip(requests, tokens, evidence, strict=True):
            stopped = bool(ids) and ids[-1] in stop_ids
            text, offsets = decode_with_offsets(tokenizer, ids[:-1] if stopped else ids)
            finish = "stop" if stopped else "length"
            counts = len(p.encoded), len(ids)
            replies.append(
                Reply(
                    p.sample.id,
                    text,
                    generation,
                    finish,
                    *counts,
                    scaled_images=p.encoded.scaled_images,
                    token_ids=tuple(ids),
                    **known.fields(text, ids, offsets, self._answer_ids.words),
                )
            )
        return replies


def _answer_token_ids(loaded: LoadedModel) -> AnswerTokenIds:
    return AnswerTokenIds(loaded.processor.tokenizer, ANSWER_WORDS, answer_word)


def _add_evidence(
    answer_ids: AnswerTokenIds,
    evidence: Sequence[_TokenEvidence],
    rows: Sequence[int],
    logits_BV: torch.Tensor,
    token_ids: np.ndarray,
) -> None:
    """Add what the logits say of the token chosen in each row, to the evidence of its reply."""
    log_probs, answers = answer_ids.log_probs(logits_BV, token_ids)
    for row, log_prob in enumerate(log_probs):
        evidence[rows[row]].add(log_prob, answers.get(row))


@torch.inference_mode()
def decode(
    loaded: LoadedModel,
    prompts: Sequence[EncodedSample],
    prompt_indices: Sequence[int],
    sampling: Sampling,
    rngs: Sequence[np.random.Generator],
    *,
    on_tokens: Callable[[Sequence[int], torch.Tensor, np.ndarray], None] | None = None,
) -> list[list[int]]:
    """The tokens of each reply, the end token included; `prompt_indices[i]` is the prompt of reply
    i. Each prompt is prefilled once; its keys and values are then repeated.

    `on_tokens` gets, at each step, the reply of each row, the logits and the tokens chosen; rows of
    replies that have ended are among them.
    """
    stop_ids, pad = sorted(stop_token_ids(loaded)), loaded.processor.tokens.pad_id
    kv_batch = prefill(loaded, prompts, prompt_indices)
    replies: list[list[int]] = [[] for _ in prompt_indices]
    active_rows = np.arange(len(prompt_indices))  # the reply of each row
    for step in range(sampling.max_tokens):
        next_tokens = sample_tokens(
            kv_batch.logits_BV, sampling, [rngs[row] for row in active_rows.tolist()]
        )
        if on_tokens is not None:
            on_tokens(active_rows.tolist(), kv_batch.logits_BV, next_tokens)
        is_active = np.array(
            [not replies[row] or replies[row][-1] not in stop_ids for row in active_rows.tolist()]
        )
        for row, token in zip(active_rows[is_active], next_tokens[is_active], strict=True):
            replies[row].append(int(token))
        still_active = is_active & ~np.isin(next_tokens, stop_ids)
        next_tokens, is_active = np.where(is_active, next_tokens, pad), still_active
        if not is_active.any() or step + 1 == sampling.max_tokens:
            break
        if 2 * is_active.sum() <= len(active_rows):
            # Replies that ended are removed once they are half of all: copying the cache has its
            # cost too.
            kv_batch.select_rows(np.flatnonzero(is_active))
            active_rows, next_tokens = active_rows[is_active], next_tokens[is_active]
        kv_batch.advance(next_tokens)
    return replies


def _prompt_key(sample: Sample) -> str:
    """Equal for samples with equal model inputs."""
    messages = [message_to_json(m) for m in sample.messages]
    content = [messages, [image_to_json(i) for i in sample.images]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _unique(keys: Sequence[str | bytes]) -> tuple[list[int], list[int]]:
    """The index of the first of each distinct key, and for each key its number among those."""
    numbers: dict[str | bytes, int] = {}
    indices = [numbers.setdefault(key, len(numbers)) for key in keys]
    return [indices.index(number) for number in range(len(numbers))], indices


class GenerationRequest:
    """A request until its reply; the handle that cancels it."""

    def __init__(
        self, sample: Sample, sampling: Sampling, on_event: EventCallback, stop: Sequence[str]
    ) -> None:
        self.sample: Sample | None = sample  # released once it is encoded: uploads are large
        self.id, self.sampling, self.stop = sample.id, sampling, stop
        self._on_event = on_event
        self._lock = threading.Lock()
        self.done = False

    def cancel(self) -> None:
        with self._lock:
            self.done, self.sample = True, None

    def emit_text(self, text: str) -> None:
        with self._lock:
            if text and not self.done:
                self._on_event(text)

    def finish(self, result: Reply | LingshuError) -> None:
        with self._lock:
            if not self.done:
                self.done = True
                self._on_event(result)


@dataclass
class _SequenceState:
    """An encoded request and its reply so far."""

    request: GenerationRequest
    encoded: EncodedSample
    key: bytes
    detokenizer: IncrementalDetokenizer
    rng: np.random.Generator
    tokens: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # the length of the text before each token
    evidence: _TokenEvidence = field(default_factory=_TokenEvidence)


class ContinuousBatchingEngine:
    """A loaded model for concurrent requests; see the module's first lines."""

    endpoint: str | None = None
    streams = True

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 16) -> None:
        self.model, self.digest = loaded.name, loaded.digest
        self.notes, self.settings = loaded.notes, loaded.settings
        self._loaded, self._batch_size = loaded, batch_size
        self._answer_ids = _answer_token_ids(loaded)
        self._max_context = context_length(loaded)
        self._stop_token_ids = stop_token_ids(loaded)
        self._ready: deque[_SequenceState] = deque()
        self._sequences: list[_SequenceState] = []
        self._kv_batch: KVBatch | None = None
        self._preparing = 0
        self._closed = False
        self._condition = threading.Condition()
        self._encoder = ThreadPoolExecutor(1, "lingshu-encode")
        self._worker = threading.Thread(
            target=self._decode_loop, name="lingshu-decode", daemon=True
        )
        self._worker.start()

    @property
    def running(self) -> int:
        return len(self._sequences)

    @property
    def waiting(self) -> int:
        with self._condition:
            return self._preparing + sum(not sequence.request.done for sequence in self._ready)

    def submit(
        self,
        sample: Sample,
        sampling: Sampling,
        on_event: EventCallback,
        *,
        stop: Sequence[str] = (),
    ) -> GenerationRequest:
        request = GenerationRequest(sample, sampling, on_event, stop)
        with self._condition:
            if self._closed:
                raise EngineError("the engine is closed; open it again.")
            self._preparing += 1
            self._encoder.submit(self._prepare, request)
        return request

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()
        # What still waits to be prepared is notified one by one; a cancelled future would notify
        # nothing.
        self._encoder.shutdown()
        self._worker.join()

    # In the thread that prepares requests.

    def _prepare(self, request: GenerationRequest) -> None:
        sequence = None
        try:
            sequence = None if self._closed else self._encode_request(request)
        except LingshuError as error:
            request.finish(error)
        except Exception as error:
            request.finish(
                EngineError(f"the request could not be prepared: {describe_error(error)}")
            )
        with self._condition:
            self._preparing -= 1
            closed = self._closed
            if sequence is not None and not closed:
                self._ready.append(sequence)
                self._condition.notify()
        if closed:
            request.finish(EngineError(CLOSED))

    def _encode_request(self, request: GenerationRequest) -> _SequenceState | None:
        sample, request.sample = request.sample, None
        if sample is None:  # cancelled meanwhile
            return None
        if sample.answered:
            raise InputError(f"{ALREADY_ANSWERED}; end it with a user turn.")
        with ShardReader() as shards:
            encoded = encode_sample(self._loaded, sample, shards)
        max_tokens = request.sampling.max_tokens
        if len(encoded) + max_tokens > self._max_context:
            raise InputError(
                f"the prompt has {len(encoded)} tokens and {max_tokens} may follow, more than the"
                f" {self._max_context} of this model; show fewer or smaller images, or ask for fewer"
                " tokens."
            )
        prompt_hash = hashlib.sha256(encoded.ids.tobytes())
        for tile in encoded.tiles:
            prompt_hash.update(str(tile.pixels.shape).encode() + tile.pixels.tobytes())
        detokenizer = reply_detokenizer(self._loaded.processor.tokenizer, request.stop)
        rng = token_rng(request.sampling.seed, request.id, 0)
        return _SequenceState(request, encoded, prompt_hash.digest(), detokenizer, rng)

    # In the thread that runs the model.

    def _decode_loop(self) -> None:
        while True:
            with self._condition:
                while not (self._ready or self._sequences or self._closed):
                    self._condition.wait()
                if self._closed:
                    break
                admitted = self._schedule_ready()
            try:
                self._remove_finished([not sequence.request.done for sequence in self._sequences])
                if admitted:
                    self._admit(admitted)
                if self._sequences:
                    self._advance()
            except Exception as error:
                # A model that failed once may answer the next request: memory may have been short.
                self._fail_all(
                    [*self._sequences, *admitted],
                    EngineError(f"the model failed: {describe_error(error)}"),
                )
        self._fail_all([*self._sequences, *self._ready], EngineError(CLOSED))

    def _schedule_ready(self) -> list[_SequenceState]:
        """The next requests in order of arrival that fit into the batch and one prefill."""
        if any(sequence.request.done for sequence in self._ready):
            self._ready = deque(sequence for sequence in self._ready if not sequence.request.done)
        admitted: list[_SequenceState] = []
        max_length = 0
        n_free = self._batch_size - sum(not sequence.request.done for sequence in self._sequences)
        while self._ready and len(admitted) < n_free:
            max_length = max(max_length, len(self._ready[0].encoded))
            if admitted and max_length * (len(admitted) + 1) > PREFILL_TOKENS:
                break
            admitted.append(self._ready.popleft())
        return admitted

    def _admit(self, admitted: Sequence[_SequenceState]) -> None:
        """Prefill new requests; if they fail together, each is tried alone."""
        prompts, prompt_indices = _unique([sequence.key for sequence in admitted])
        try:
            new_batch = prefill(
                self._loaded, [admitted[index].encoded for index in prompts], prompt_indices
            )
        except Exception as error:
            if len(admitted) == 1:
                failure = EngineError(f"the model failed: {describe_error(error)}")
                admitted[0].request.finish(failure)
                return
            for sequence in admitted:
                self._admit([sequence])
            return
        if self._kv_batch is None:
            self._kv_batch = new_batch
        else:
            self._kv_batch.append(new_batch)
        self._sequences = [*self._sequences, *admitted]

    def _advance(self) -> None:
        """Generate one token in every row; the rows that end with it leave."""
        assert self._kv_batch is not None
        logits_BV = self._kv_batch.logits_BV
        token_ids = self._sample_next(logits_BV)
        evidence = [sequence.evidence for sequence in self._sequences]
        _add_evidence(self._answer_ids, evidence, range(len(evidence)), logits_BV, token_ids)
        active = [
            self._on_token(sequence, int(token))
            for sequence, token in zip(self._sequences, token_ids, strict=True)
        ]
        self._remove_finished(active)
        if self._kv_batch is not None:
            self._kv_batch.advance(token_ids[np.array(active)])

    def _sample_next(self, logits_BV: torch.Tensor) -> np.ndarray:
        """Sample rows of equal settings together; each row has its own random numbers."""
        by_sampling: dict[tuple[float, float], list[int]] = {}
        for row, sequence in enumerate(self._sequences):
            sampling = sequence.request.sampling
            by_sampling.setdefault((sampling.temperature, sampling.top_p), []).append(row)
        if len(by_sampling) == 1:
            rngs = [sequence.rng for sequence in self._sequences]
            return sample_tokens(logits_BV, self._sequences[0].request.sampling, rngs)
        token_ids = np.empty(len(self._sequences), np.int64)
        for rows in by_sampling.values():
            rngs = [self._sequences[row].rng for row in rows]
            sampling = self._sequences[rows[0]].request.sampling
            token_ids[rows] = sample_tokens(logits_BV[rows], sampling, rngs)
        return token_ids

    def _on_token(self, sequence: _SequenceState, token: int) -> bool:
        """Append one token to a reply; False if that ends it."""
        request, detokenizer, tokens = sequence.request, sequence.detokenizer, sequence.tokens
        tokens.append(token)
        stopped = token in self._stop_token_ids
        if not stopped:
            sequence.offsets.append(len(detokenizer.text))
            request.emit_text(detokenizer.add(token))
            stopped = detokenizer.stopped
        is_done = stopped or len(tokens) == request.sampling.max_tokens
        if is_done:
            request.emit_text(detokenizer.flush())
            finish = "stop" if stopped or detokenizer.stopped else "length"
            counts = len(sequence.encoded), len(tokens)
            request.finish(
                Reply(
                    request.id,
                    detokenizer.text,
                    0,
                    finish,
                    *counts,
                    scaled_images=sequence.encoded.scaled_images,
                    token_ids=tuple(tokens),
                    **sequence.evidence.fields(
                        detokenizer.text, tokens, sequence.offsets, self._answer_ids.words
                    ),
                )
            )
        return not (is_done or request.done)

    def _remove_finished(self, active: Sequence[bool]) -> None:
        if all(active):
            return
        sequences = zip(self._sequences, active, strict=True)
        self._sequences = [sequence for sequence, is_active in sequences if is_active]
        if not self._sequences:
            self._kv_batch = None
        elif self._kv_batch is not None:
            self._kv_batch.select_rows(np.flatnonzero(active))
            self._kv_batch.trim()

    def _fail_all(self, sequences: Sequence[_SequenceState], error: LingshuError) -> None:
        self._sequences, self._kv_batch = [], None
        for sequence in sequences:
            sequence.request.finish(error)
