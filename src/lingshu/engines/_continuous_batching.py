"""Answers questions as they arrive: newcomers are prefilled together and join the replies that are
being written.

One thread works the model and one prepares questions (images opened and scaled, words turned into
tokens). A row leaves the batch at the token that ends it, or at the one after it was given up.
Equal prompts that arrive together are computed once. A greedy reply says what engines/hf.py says: a
row's neighbours change its arithmetic by rounding alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from lingshu.core.errors import EngineError, InputError, LingshuError, describe_error
from lingshu.core.types import EventCallback, Reply, Sample, Sampling
from lingshu.engines._decoding import (
    KVBatch,
    encode_sample,
    prefill,
    sample_tokens,
    stop_token_ids,
    token_rng,
)
from lingshu.engines._detokenize import IncrementalDetokenizer
from lingshu.imaging.read import ShardReader
from lingshu.models.load import LoadedModel
from lingshu.models.processor import EncodedSample

# The widest prefill, padding included: replies that are being written wait for it.
PREFILL_TOKENS = 8192
CLOSED = "the engine was closed; ask again later."


class GenerationRequest:
    """A question on its way to its reply; the handle that gives it up."""

    def __init__(
        self, sample: Sample, sampling: Sampling, on_event: EventCallback, stop: Sequence[str]
    ) -> None:
        self.sample: Sample | None = sample  # let go of once it is encoded: uploads are large
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
    """A question ready for the model, and its reply so far."""

    request: GenerationRequest
    encoded: EncodedSample
    key: bytes
    detokenizer: IncrementalDetokenizer
    rng: np.random.Generator
    tokens: list[int] = field(default_factory=list)


class ContinuousBatchingEngine:
    """A loaded model that many ask at once; see the module's first lines."""

    endpoint: str | None = None
    streams = True

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 16) -> None:
        self.model, self.digest = loaded.name, loaded.digest
        self._loaded, self._batch_size = loaded, batch_size
        self._max_context = int(loaded.model.config.get_text_config().max_position_embeddings)
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
        # What still waits to be prepared is told so one by one; a future that is cancelled would
        # tell nobody.
        self._encoder.shutdown()
        self._worker.join()

    # --- preparing, in its own thread
    # --------------------------------------------------------------------------------

    def _prepare(self, request: GenerationRequest) -> None:
        sequence = None
        try:
            sequence = None if self._closed else self._encode_request(request)
        except LingshuError as error:
            request.finish(error)
        except Exception as error:
            request.finish(
                EngineError(f"the question could not be prepared: {describe_error(error)}")
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
        if sample is None:  # given up meanwhile
            return None
        if sample.answered:
            raise InputError(
                "the dialogue ends in an answer, there is nothing to be asked; end it with a user"
                " turn."
            )
        with ShardReader() as shards:
            encoded = encode_sample(self._loaded, sample, shards)
        n_requested = request.sampling.max_tokens
        if len(encoded) + n_requested > self._max_context:
            raise InputError(
                f"the prompt has {len(encoded)} tokens and {n_requested} may follow, more than the"
                f" {self._max_context} of this model; show fewer or smaller images, or ask for fewer"
                " tokens."
            )
        prompt_hash = hashlib.sha256(encoded.ids.tobytes())
        for tile in encoded.tiles:
            prompt_hash.update(str(tile.pixels.shape).encode() + tile.pixels.tobytes())
        decode = self._loaded.processor.tokenizer.decode
        detokenizer = IncrementalDetokenizer(
            lambda tokens: decode(tokens, skip_special_tokens=True), request.stop
        )
        return _SequenceState(
            request,
            encoded,
            prompt_hash.digest(),
            detokenizer,
            token_rng(request.sampling.seed, request.id, 0),
        )

    # --- answering, in its own thread
    # --------------------------------------------------------------------------------

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
                # A model that failed once may answer the next question: memory may have been short.
                self._fail_all(
                    [*self._sequences, *admitted],
                    EngineError(f"the model failed: {describe_error(error)}"),
                )
        self._fail_all([*self._sequences, *self._ready], EngineError(CLOSED))

    def _schedule_ready(self) -> list[_SequenceState]:
        """The questions that come next, in the order of their arrival, as many as fit into the
        batch and one prefill.
        """
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
        """Prefill newcomers and let them join; where they fail together, each is tried alone, so
        that one cannot fail all.
        """
        unique_prompts: dict[bytes, int] = {}
        prompt_indices = [
            unique_prompts.setdefault(sequence.key, len(unique_prompts)) for sequence in admitted
        ]
        prompts = [
            admitted[prompt_indices.index(prompt_index)].encoded
            for prompt_index in range(len(unique_prompts))
        ]
        try:
            new_batch = prefill(self._loaded, prompts, prompt_indices)
        except Exception as error:
            if len(admitted) == 1:
                admitted[0].request.finish(
                    EngineError(f"the model failed: {describe_error(error)}")
                )
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
        """Say one token in every row; the rows that end with it leave."""
        assert self._kv_batch is not None
        token_ids = self._sample_next(self._kv_batch)
        active = [
            self._on_token(sequence, int(token))
            for sequence, token in zip(self._sequences, token_ids, strict=True)
        ]
        self._remove_finished(active)
        if self._kv_batch is not None:
            self._kv_batch.advance(token_ids[np.array(active)])

    def _sample_next(self, kv_batch: KVBatch) -> np.ndarray:
        """Rows of equal sampling are drawn together; which ones those are changes nothing, as each
        has its own numbers.
        """
        logits_BV = kv_batch.logits_BV
        by_sampling: dict[tuple[float, float], list[int]] = {}
        for row, sequence in enumerate(self._sequences):
            sampling = sequence.request.sampling
            by_sampling.setdefault((sampling.temperature, sampling.top_p), []).append(row)
        if len(by_sampling) == 1:
            return sample_tokens(
                logits_BV,
                self._sequences[0].request.sampling,
                [sequence.rng for sequence in self._sequences],
            )
        token_ids = np.empty(len(self._sequences), np.int64)
        for indices in by_sampling.values():
            sequences = [self._sequences[row] for row in indices]
            token_ids[indices] = sample_tokens(
                logits_BV[indices],
                sequences[0].request.sampling,
                [sequence.rng for sequence in sequences],
            )
        return token_ids

    def _on_token(self, sequence: _SequenceState, token: int) -> bool:
        """Take one token into a reply; False where the reply is over."""
        request, detokenizer = sequence.request, sequence.detokenizer
        sequence.tokens.append(token)
        hit_stop_token = token in self._stop_token_ids
        if not hit_stop_token:
            request.emit_text(detokenizer.add(token))
        is_done = (
            hit_stop_token
            or detokenizer.stopped
            or len(sequence.tokens) == request.sampling.max_tokens
        )
        if is_done:
            request.emit_text(detokenizer.flush())
            finish_reason = "stop" if hit_stop_token or detokenizer.stopped else "length"
            token_counts = len(sequence.encoded), len(sequence.tokens)
            request.finish(
                Reply(
                    request.id,
                    detokenizer.text,
                    0,
                    finish_reason,
                    *token_counts,
                    token_ids=tuple(sequence.tokens),
                )
            )
        return not (is_done or request.done)

    def _remove_finished(self, active: Sequence[bool]) -> None:
        """Keep the rows that go on."""
        if all(active):
            return
        self._sequences = [
            sequence
            for sequence, is_active in zip(self._sequences, active, strict=True)
            if is_active
        ]
        if not self._sequences:
            self._kv_batch = None
        elif self._kv_batch is not None:
            self._kv_batch.select_rows(np.flatnonzero(active))
            self._kv_batch.trim()

    def _fail_all(self, sequences: Sequence[_SequenceState], error: LingshuError) -> None:
        self._sequences, self._kv_batch = [], None
        for sequence in sequences:
            sequence.request.finish(error)
