"""Lets any engine be asked by many at once: each question is handed to it alone, and its reply is
heard in one piece.

Engines behind an address are asked side by side, others one question after the other. A question
that was given up is forgotten here; an address that is answering it may go on to its end.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lingshu.core.errors import EngineError, LingshuError, fault
from lingshu.core.nouns import Engine, Heard, Reply, Sample, Sampling
from lingshu.engines._speech import cut_at
from lingshu.imaging.read import ShardReader, open_image


class _Question:
    def __init__(self, heard: Heard) -> None:
        self._heard, self._turn, self.over = heard, threading.Lock(), False

    def cancel(self) -> None:
        with self._turn:
            self.over = True

    def finish(self, *told: str | Reply | LingshuError) -> None:
        with self._turn:
            if not self.over:
                self.over = True
                for one in told:
                    self._heard(one)


class WholeReplies:
    """An engine that answers whole lists, asked one question at a time; see the module's first
    lines.
    """

    streams = False

    def __init__(self, engine: Engine, *, at_once: int = 1) -> None:
        self.engine, self.model, self.digest, self.endpoint = (
            engine,
            engine.model,
            engine.digest,
            engine.endpoint,
        )
        self._pool = ThreadPoolExecutor(at_once if engine.endpoint else 1, "lingshu-ask")
        self._turn = threading.Lock()
        self._open: set[_Question] = set()
        self.running = 0

    @property
    def waiting(self) -> int:
        with self._turn:
            return max(0, sum(not question.over for question in self._open) - self.running)

    def submit(
        self, sample: Sample, sampling: Sampling, heard: Heard, *, stop: Sequence[str] = ()
    ) -> _Question:
        question = _Question(heard)
        with self._turn:
            self._open.add(question)
        try:
            self._pool.submit(
                self._answer, question, sample, replace(sampling, copies=1), tuple(stop)
            )
        except RuntimeError as error:
            raise EngineError("the engine is closed; open it again.") from error
        return question

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._turn:
            left = list(self._open)
        for question in left:
            question.finish(EngineError("the engine was closed; ask again later."))

    def _answer(
        self, question: _Question, sample: Sample, sampling: Sampling, stop: Sequence[str]
    ) -> None:
        try:
            if question.over:
                return
            with self._turn:
                self.running += 1
            try:
                reply = self._reply(sample, sampling)
            finally:
                with self._turn:
                    self.running -= 1
            if reply.text is None:
                question.finish(EngineError(reply.error or "there is no reply."))
                return
            text, stopped = cut_at(reply.text, stop)
            question.finish(
                text,
                replace(reply, text=text, finish="stop" if stopped else reply.finish or "stop"),
            )
        except LingshuError as error:
            question.finish(error)
        except Exception as error:
            question.finish(EngineError(f"the engine failed: {fault(error)}"))
        finally:
            with self._turn:
                self._open.discard(question)

    def _reply(self, sample: Sample, sampling: Sampling) -> Reply:
        with ShardReader() as shards:
            # An engine tells of a bad image in its reply, where it cannot be told from a failure of
            # its own.
            for image in sample.images:
                open_image(image, shards=shards)
        for replies in self.engine.generate([sample], sampling):
            for reply in replies:
                return reply
        raise EngineError(f"{self.model} gave no reply.")
