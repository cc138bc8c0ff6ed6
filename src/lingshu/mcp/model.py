"""The model behind `lingshu mcp`: loaded on first use; a cancelled call is cancelled in its engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from typing import TypeVar

from lingshu.core.data_policy import check_data_policy, is_local
from lingshu.core.errors import EngineError, InputError, LingshuError
from lingshu.core.types import AsyncEngine, DataPolicy, EngineOptions, Reply, Sample, Sampling
from lingshu.evaluate.calibration import Threshold
from lingshu.inference.answer import Answer, build_answer, build_question_sample, egress_warnings
from lingshu.inference.engines import engine_name, open_async_engine
from lingshu.inference.inputs import ModelInput

MAX_PENDING_REQUESTS = 32
WORKERS = 4  # images decoded and folders listed at a time
PROGRESS_S = 0.25
LOCAL_ENGINES = ("hf", "echo", "scripted", "vllm")
NO_MODEL_MESSAGE = (
    "this server was started without a model; start it with `lingshu mcp MODEL`, a checkpoint"
    " folder, a hub id or http(s)://host/v1#name."
)

ProgressCallback = Callable[[float, float], Awaitable[None]]
T = TypeVar("T")


class ModelHandle:
    """A model by its name; it keeps the engine once it is open."""

    def __init__(
        self,
        name: str | None,
        options: EngineOptions,
        *,
        allow_remote: bool,
        threshold: Threshold | None = None,
    ) -> None:
        self._threshold = threshold
        self.name, self.options, self.allow_remote = name, options, allow_remote
        self.engine: AsyncEngine | None = None
        self._lock = threading.Lock()
        self._n_pending = 0
        self._pool = ThreadPoolExecutor(WORKERS, "lingshu-mcp")
        # Loading may take minutes, and must not block the workers meanwhile.
        self._open_pool = ThreadPoolExecutor(1, "lingshu-mcp-open")

    def open(self) -> AsyncEngine:
        """The engine; the first call loads it.

        Raises:
            InputError: the server has no model, or the threshold is of another one.
            ArtifactError, MissingExtraError, EngineError: it cannot be opened.
        """
        if self.name is None:
            raise InputError(NO_MODEL_MESSAGE)
        with self._lock:
            if self.engine is None:
                # `ask` checks every question; the engine's own check lets those pass.
                options = replace(self.options, data_policy=DataPolicy(allow_private=True))
                engine = open_async_engine(self.name, options)
                try:
                    if self._threshold is not None:
                        self._threshold.check_model(engine)
                except LingshuError:
                    engine.close()
                    raise
                self.engine = engine
            return self.engine

    def close(self) -> None:
        for pool in (self._pool, self._open_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self.engine is not None:
                self.engine.close()
                self.engine = None

    async def get_engine(self) -> AsyncEngine:
        """As `open`, in a separate thread."""
        loop = asyncio.get_running_loop()
        return self.engine or await loop.run_in_executor(self._open_pool, self.open)

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Do blocking work in one of a few threads; a cancelled call stops waiting for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def ask(
        self,
        question: str,
        model_input: ModelInput,
        sampling: Sampling,
        *,
        has_consent: bool,
        on_progress: ProgressCallback,
    ) -> Answer:
        """Ask one question; `on_progress` gets the tokens so far and their maximum.

        Raises:
            DataPolicyError: it would leave this machine without consent.
            EngineError: no answer came, or too many requests are pending.
        """
        engine = await self.get_engine()
        sample = build_question_sample(question, model_input)
        check_data_policy([sample], engine.endpoint, DataPolicy(allow_private=has_consent))
        if self._n_pending >= MAX_PENDING_REQUESTS:
            raise EngineError(f"{self._n_pending} questions are being answered; try again soon.")
        self._n_pending += 1
        try:
            reply = await _generate(engine, sample, sampling, on_progress)
        finally:
            self._n_pending -= 1
        answer = build_answer(engine, reply, model_input, sample, self._threshold)
        if isinstance(answer, LingshuError):
            raise answer
        return answer

    async def remote_endpoint(self) -> str | None:
        """The address that a question would go to; None for a model here, which is not loaded."""
        if self.name is not None and engine_name(self.name) in LOCAL_ENGINES:
            return None
        endpoint = (await self.get_engine()).endpoint
        return None if is_local(endpoint) else endpoint

    async def egress_warnings(self, model_input: ModelInput) -> list[str]:
        """What a person should know before these images go to a model on another machine."""
        endpoint = await self.remote_endpoint()
        if endpoint is None:
            return []
        sample = build_question_sample("?", model_input)
        return await self.run_in_thread(lambda: egress_warnings(sample, endpoint))


async def _generate(
    engine: AsyncEngine, sample: Sample, sampling: Sampling, on_progress: ProgressCallback
) -> Reply:
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[str | Reply | LingshuError] = asyncio.Queue()

    def on_event(event: str | Reply | LingshuError) -> None:
        with contextlib.suppress(RuntimeError):  # the server's loop may be closed by now
            loop.call_soon_threadsafe(events.put_nowait, event)

    handle = engine.submit(sample, replace(sampling, num_generations=1), on_event)
    n_pieces, last_reported = 0, 0.0
    try:
        while isinstance(event := await events.get(), str):
            n_pieces += 1
            if monotonic() - last_reported >= PROGRESS_S:
                last_reported = monotonic()
                await on_progress(min(n_pieces, sampling.max_tokens), sampling.max_tokens)
    finally:
        handle.cancel()
    if isinstance(event, LingshuError):
        raise event
    return event
