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

from lingshu.core.errors import EngineError, LingshuError, describe_error
from lingshu.core.types import Engine, EventCallback, Reply, Sample, Sampling
from lingshu.engines._detokenize import truncate_at_stop
from lingshu.imaging.read import ShardReader, open_image


class _PendingRequest:
    def __init__(self, on_event: EventCallback) -> None:
        self._on_event, self._lock, self.done = on_event, threading.Lock(), False

    def cancel(self) -> None:
        with self._lock:
            self.done = True

    def finish(self, *events: str | Reply | LingshuError) -> None:
        with self._lock:
            if not self.done:
                self.done = True
                for event in events:
                    self._on_event(event)


class BlockingEngineAdapter:
    """An engine that answers whole lists, asked one question at a time; see the module's first
    lines.
    """

    streams = False

    def __init__(self, engine: Engine, *, max_concurrency: int = 1) -> None:
        self.engine, self.model, self.digest, self.endpoint = (
            engine,
            engine.model,
            engine.digest,
            engine.endpoint,
        )
        self._pool = ThreadPoolExecutor(max_concurrency if engine.endpoint else 1, "lingshu-ask")
        self._lock = threading.Lock()
        self._pending: set[_PendingRequest] = set()
        self.running = 0

    @property
    def waiting(self) -> int:
        with self._lock:
            return max(0, sum(not request.done for request in self._pending) - self.running)

    def submit(
        self,
        sample: Sample,
        sampling: Sampling,
        on_event: EventCallback,
        *,
        stop: Sequence[str] = (),
    ) -> _PendingRequest:
        request = _PendingRequest(on_event)
        with self._lock:
            self._pending.add(request)
        try:
            self._pool.submit(
                self._answer, request, sample, replace(sampling, num_generations=1), tuple(stop)
            )
        except RuntimeError as error:
            raise EngineError("the engine is closed; open it again.") from error
        return request

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            pending = list(self._pending)
        for request in pending:
            request.finish(EngineError("the engine was closed; ask again later."))

    def _answer(
        self, request: _PendingRequest, sample: Sample, sampling: Sampling, stop: Sequence[str]
    ) -> None:
        try:
            if request.done:
                return
            with self._lock:
                self.running += 1
            try:
                reply = self._reply(sample, sampling)
            finally:
                with self._lock:
                    self.running -= 1
            if reply.text is None:
                request.finish(EngineError(reply.error or "there is no reply."))
                return
            text, stopped = truncate_at_stop(reply.text, stop)
            request.finish(
                text,
                replace(reply, text=text, finish="stop" if stopped else reply.finish or "stop"),
            )
        except LingshuError as error:
            request.finish(error)
        except Exception as error:
            request.finish(EngineError(f"the engine failed: {describe_error(error)}"))
        finally:
            with self._lock:
                self._pending.discard(request)

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
