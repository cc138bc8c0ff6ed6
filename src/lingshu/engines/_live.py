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

from lingshu.core.errors import EngineError, InputError, LingshuError, fault
from lingshu.core.nouns import Heard, Reply, Sample, Sampling
from lingshu.engines._decoding import Rows, draws, ends, pick, prefill, read
from lingshu.engines._speech import Speech
from lingshu.imaging.read import ShardReader
from lingshu.models.load import Loaded
from lingshu.models.processor import Encoded

# The widest prefill, padding included: replies that are being written wait for it.
PREFILL_TOKENS = 8192
CLOSED = "the engine was closed; ask again later."


class Question:
    """A question on its way to its reply; the handle that gives it up."""

    def __init__(
        self, sample: Sample, sampling: Sampling, heard: Heard, stop: Sequence[str]
    ) -> None:
        self.sample: Sample | None = sample  # let go of once it is encoded: uploads are large
        self.id, self.sampling, self.stop = sample.id, sampling, stop
        self._heard = heard
        self._turn = threading.Lock()
        self.over = False

    def cancel(self) -> None:
        with self._turn:
            self.over, self.sample = True, None

    def say(self, text: str) -> None:
        with self._turn:
            if text and not self.over:
                self._heard(text)

    def finish(self, end: Reply | LingshuError) -> None:
        with self._turn:
            if not self.over:
                self.over = True
                self._heard(end)


@dataclass
class _Line:
    """A question ready for the model, and its reply so far."""

    question: Question
    encoded: Encoded
    key: bytes
    speech: Speech
    rng: np.random.Generator
    tokens: list[int] = field(default_factory=list)


class LiveModel:
    """A loaded model that many ask at once; see the module's first lines."""

    endpoint: str | None = None
    streams = True

    def __init__(self, loaded: Loaded, *, batch_size: int = 16) -> None:
        self.model, self.digest = loaded.name, loaded.digest
        self._loaded, self._batch_size = loaded, batch_size
        self._context = int(loaded.model.config.get_text_config().max_position_embeddings)
        self._ends = ends(loaded)
        self._ready: deque[_Line] = deque()
        self._lines: list[_Line] = []
        self._rows: Rows | None = None
        self._preparing = 0
        self._closed = False
        self._turn = threading.Condition()
        self._encoder = ThreadPoolExecutor(1, "lingshu-encode")
        self._worker = threading.Thread(target=self._work, name="lingshu-decode", daemon=True)
        self._worker.start()

    @property
    def running(self) -> int:
        return len(self._lines)

    @property
    def waiting(self) -> int:
        with self._turn:
            return self._preparing + sum(not line.question.over for line in self._ready)

    def submit(
        self, sample: Sample, sampling: Sampling, heard: Heard, *, stop: Sequence[str] = ()
    ) -> Question:
        question = Question(sample, sampling, heard, stop)
        with self._turn:
            if self._closed:
                raise EngineError("the engine is closed; open it again.")
            self._preparing += 1
            self._encoder.submit(self._prepare, question)
        return question

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify()
        # What still waits to be prepared is told so one by one; a future that is cancelled would
        # tell nobody.
        self._encoder.shutdown()
        self._worker.join()

    # --- preparing, in its own thread
    # --------------------------------------------------------------------------------

    def _prepare(self, question: Question) -> None:
        line = None
        try:
            line = None if self._closed else self._line(question)
        except LingshuError as error:
            question.finish(error)
        except Exception as error:
            question.finish(EngineError(f"the question could not be prepared: {fault(error)}"))
        with self._turn:
            self._preparing -= 1
            closed = self._closed
            if line is not None and not closed:
                self._ready.append(line)
                self._turn.notify()
        if closed:
            question.finish(EngineError(CLOSED))

    def _line(self, question: Question) -> _Line | None:
        sample, question.sample = question.sample, None
        if sample is None:  # given up meanwhile
            return None
        if sample.answered:
            raise InputError(
                "the dialogue ends in an answer, there is nothing to be asked; end it with a user"
                " turn."
            )
        with ShardReader() as shards:
            encoded = read(self._loaded, sample, shards)
        asked = question.sampling.max_tokens
        if len(encoded) + asked > self._context:
            raise InputError(
                f"the prompt has {len(encoded)} tokens and {asked} may follow, more than the"
                f" {self._context} of this model; show fewer or smaller images, or ask for fewer"
                " tokens."
            )
        seen = hashlib.sha256(encoded.ids.tobytes())
        for tile in encoded.tiles:
            seen.update(str(tile.pixels.shape).encode() + tile.pixels.tobytes())
        decode = self._loaded.processor.tokenizer.decode
        speech = Speech(lambda tokens: decode(tokens, skip_special_tokens=True), question.stop)
        return _Line(
            question, encoded, seen.digest(), speech, draws(question.sampling.seed, question.id, 0)
        )

    # --- answering, in its own thread
    # --------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._turn:
                while not (self._ready or self._lines or self._closed):
                    self._turn.wait()
                if self._closed:
                    break
                fresh = self._newcomers()
            try:
                self._drop([not line.question.over for line in self._lines])
                if fresh:
                    self._admit(fresh)
                if self._lines:
                    self._advance()
            except Exception as error:
                # A model that failed once may answer the next question: memory may have been short.
                self._give_up(
                    [*self._lines, *fresh], EngineError(f"the model failed: {fault(error)}")
                )
        self._give_up([*self._lines, *self._ready], EngineError(CLOSED))

    def _newcomers(self) -> list[_Line]:
        """The questions that come next, in the order of their arrival, as many as fit into the
        batch and one prefill.
        """
        if any(line.question.over for line in self._ready):
            self._ready = deque(line for line in self._ready if not line.question.over)
        fresh: list[_Line] = []
        longest = 0
        room = self._batch_size - sum(not line.question.over for line in self._lines)
        while self._ready and len(fresh) < room:
            longest = max(longest, len(self._ready[0].encoded))
            if fresh and longest * (len(fresh) + 1) > PREFILL_TOKENS:
                break
            fresh.append(self._ready.popleft())
        return fresh

    def _admit(self, fresh: Sequence[_Line]) -> None:
        """Prefill newcomers and let them join; where they fail together, each is tried alone, so
        that one cannot fail all.
        """
        distinct: dict[bytes, int] = {}
        rows = [distinct.setdefault(line.key, len(distinct)) for line in fresh]
        prompts = [fresh[rows.index(number)].encoded for number in range(len(distinct))]
        try:
            joining = prefill(self._loaded, prompts, rows)
        except Exception as error:
            if len(fresh) == 1:
                fresh[0].question.finish(EngineError(f"the model failed: {fault(error)}"))
                return
            for line in fresh:
                self._admit([line])
            return
        if self._rows is None:
            self._rows = joining
        else:
            self._rows.join(joining)
        self._lines = [*self._lines, *fresh]

    def _advance(self) -> None:
        """Say one token in every row; the rows that end with it leave."""
        assert self._rows is not None
        chosen = self._choose(self._rows)
        going = [
            self._hear(line, int(token)) for line, token in zip(self._lines, chosen, strict=True)
        ]
        self._drop(going)
        if self._rows is not None:
            self._rows.advance(chosen[np.array(going)])

    def _choose(self, rows: Rows) -> np.ndarray:
        """Rows of equal sampling are drawn together; which ones those are changes nothing, as each
        has its own numbers.
        """
        logits_BV = rows.logits_BV
        alike: dict[tuple[float, float], list[int]] = {}
        for row, line in enumerate(self._lines):
            sampling = line.question.sampling
            alike.setdefault((sampling.temperature, sampling.top_p), []).append(row)
        if len(alike) == 1:
            return pick(
                logits_BV, self._lines[0].question.sampling, [line.rng for line in self._lines]
            )
        chosen = np.empty(len(self._lines), np.int64)
        for members in alike.values():
            lines = [self._lines[row] for row in members]
            chosen[members] = pick(
                logits_BV[members], lines[0].question.sampling, [line.rng for line in lines]
            )
        return chosen

    def _hear(self, line: _Line, token: int) -> bool:
        """Take one token into a reply; False where the reply is over."""
        question, speech = line.question, line.speech
        line.tokens.append(token)
        ended = token in self._ends
        if not ended:
            question.say(speech.add(token))
        over = ended or speech.stopped or len(line.tokens) == question.sampling.max_tokens
        if over:
            question.say(speech.end())
            finish = "stop" if ended or speech.stopped else "length"
            counts = len(line.encoded), len(line.tokens)
            question.finish(
                Reply(question.id, speech.text, 0, finish, *counts, token_ids=tuple(line.tokens))
            )
        return not (over or question.over)

    def _drop(self, going: Sequence[bool]) -> None:
        """Keep the rows that go on."""
        if all(going):
            return
        self._lines = [line for line, stays in zip(self._lines, going, strict=True) if stays]
        if not self._lines:
            self._rows = None
        elif self._rows is not None:
            self._rows.keep(np.flatnonzero(going))
            self._rows.trim()

    def _give_up(self, lines: Sequence[_Line], why: LingshuError) -> None:
        self._lines, self._rows = [], None
        for line in lines:
            line.question.finish(why)
