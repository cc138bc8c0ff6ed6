"""The model behind `lingshu mcp`: opened when it is first needed; a cancelled call is given up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from typing import TypeVar

from lingshu.core.data_policy import DataPolicy, check_data_policy, is_local
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import DataPolicyError, EngineError, InputError, LingshuError
from lingshu.core.types import AsyncEngine, Reply, Sample, Sampling
from lingshu.inference.answer import Answer, build_answer, build_question_sample, egress_warnings
from lingshu.inference.engines import engine_name
from lingshu.inference.inputs import ModelInput

# Calls that may be answered or wait at a time; one more is told to come again.
MAX_PENDING_REQUESTS = 32
# Images decoded and folders walked at a time: the machine belongs to others too.
WORKERS = 4
PROGRESS_S = 0.25
LOCAL_ENGINES = ("hf", "echo", "scripted", "vllm")
NO_MODEL_MESSAGE = (
    "this server was started without a model; start it with `lingshu mcp MODEL`, a checkpoint"
    " folder, a hub id or http(s)://host/v1#name."
)

ProgressCallback = Callable[[float, float], Awaitable[None]]
T = TypeVar("T")


class ModelHandle:
    """A model by its name. It remembers the engine once it is open."""

    def __init__(
        self, name: str | None, options: EngineOptions, *, allow_remote: bool = False
    ) -> None:
        self.name, self.options, self.allow_remote = name, options, allow_remote
        self._lock = threading.Lock()
        self._engine: AsyncEngine | None = None
        self._n_pending = 0
        self._pool = ThreadPoolExecutor(WORKERS, "lingshu-mcp")
        # Loading may take minutes, and must not keep the others from their files meanwhile.
        self._open_pool = ThreadPoolExecutor(1, "lingshu-mcp-open")

    @property
    def engine(self) -> AsyncEngine | None:
        """The engine, None where nobody needed it yet."""
        return self._engine

    def open(self) -> AsyncEngine:
        """The engine; the first call may take long.

        Raises:
            InputError: the server has no model. ArtefactError, MissingExtra, EngineError: it cannot
                be opened.
        """
        from lingshu.inference.engines import open_async_engine

        if self.name is None:
            raise InputError(NO_MODEL_MESSAGE)
        with self._lock:
            if self._engine is None:
                # Every question is released one by one below: the engine's own gate stays open for
                # those.
                self._engine = open_async_engine(
                    self.name, replace(self.options, data_policy=DataPolicy(allow_private=True))
                )
            return self._engine

    def close(self) -> None:
        for pool in (self._pool, self._open_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    async def get_engine(self) -> AsyncEngine:
        """The engine, opened in a thread of its own.

        Raises:
            As open.
        """
        return self._engine or await asyncio.get_running_loop().run_in_executor(
            self._open_pool, self.open
        )

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Do blocking work in one of a few threads; a call that is cancelled waits no longer for
        it.
        """
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
        """Ask one question; a cancelled call frees its place in the engine at once.

        Raises:
            ReleaseError: it would leave this machine and nobody allowed that. EngineError: no
                answer came, or too many are asked.
        """
        engine = await self.get_engine()
        sample = build_question_sample(question, model_input)
        check_data_policy([sample], engine.endpoint, DataPolicy(allow_private=has_consent))
        if self._n_pending >= MAX_PENDING_REQUESTS:
            raise EngineError(f"{self._n_pending} questions are being answered; try again soon.")
        self._n_pending += 1
        try:
            return await _generate_answer(engine, sample, model_input, sampling, on_progress)
        finally:
            self._n_pending -= 1

    async def remote_endpoint(self) -> str | None:
        """The address that a question would go to; None for a model on this machine, which is not
        loaded to find out.

        Raises:
            InputError: the server has no model.
        """
        if self.name is not None and engine_name(self.name) in LOCAL_ENGINES:
            return None
        endpoint = (await self.get_engine()).endpoint
        return None if is_local(endpoint) else endpoint

    async def egress_warnings(self, model_input: ModelInput) -> list[str]:
        """What to know of images before they go to the model's address; nothing for a model on this
        machine.
        """
        endpoint = await self.remote_endpoint()
        if endpoint is None:
            return []
        sample = build_question_sample("?", model_input)
        return await self.run_in_thread(lambda: egress_warnings(sample, endpoint))


def consent_declined_error() -> DataPolicyError:
    return DataPolicyError("nothing was sent: you did not agree that it leaves this machine.")


async def _generate_answer(
    engine: AsyncEngine,
    sample: Sample,
    model_input: ModelInput,
    sampling: Sampling,
    on_progress: ProgressCallback,
) -> Answer:
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[str | Reply | LingshuError] = asyncio.Queue()

    def on_event(event: str | Reply | LingshuError) -> None:
        # The engine's thread may still speak when a server's loop is over.
        with contextlib.suppress(RuntimeError):
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
    result = event if isinstance(event, LingshuError) else build_answer(engine, event, model_input)
    if isinstance(result, LingshuError):
        raise result
    return result
