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

from lingshu.apps._answering import Answer, answer_of, concerns, question_sample
from lingshu.apps._looking import Looked
from lingshu.apps.models import engine_name
from lingshu.core.errors import EngineError, InputError, LingshuError, ReleaseError
from lingshu.core.nouns import Live, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release, check_release, is_local

# Calls that may be answered or wait at a time; one more is told to come again.
MAX_ASKED = 32
# Images decoded and folders walked at a time: the machine belongs to others too.
WORKERS = 4
PROGRESS_S = 0.25
ON_THIS_MACHINE = ("hf", "echo", "scripted", "vllm")
NO_MODEL = (
    "this server was started without a model; start it with `lingshu mcp MODEL`, a checkpoint"
    " folder, a hub id or http(s)://host/v1#name."
)

Told = Callable[[float, float], Awaitable[None]]
T = TypeVar("T")


class Served:
    """A model by its name. It remembers the engine once it is open."""

    def __init__(
        self, name: str | None, options: EngineOptions, *, allow_remote: bool = False
    ) -> None:
        self.name, self.options, self.allow_remote = name, options, allow_remote
        self._turn = threading.Lock()
        self._live: Live | None = None
        self._asked = 0
        self._pool = ThreadPoolExecutor(WORKERS, "lingshu-mcp")
        # Loading may take minutes, and must not keep the others from their files meanwhile.
        self._opener = ThreadPoolExecutor(1, "lingshu-mcp-open")

    @property
    def opened(self) -> Live | None:
        """The engine, None where nobody needed it yet."""
        return self._live

    def open(self) -> Live:
        """The engine; the first call may take long.

        Raises:
            InputError: the server has no model. ArtefactError, MissingExtra, EngineError: it cannot
                be opened.
        """
        from lingshu.apps.models import live_for

        if self.name is None:
            raise InputError(NO_MODEL)
        with self._turn:
            if self._live is None:
                # Every question is released one by one below: the engine's own gate stays open for
                # those.
                self._live = live_for(
                    self.name, replace(self.options, release=Release(private=True))
                )
            return self._live

    def close(self) -> None:
        for pool in (self._pool, self._opener):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._turn:
            if self._live is not None:
                self._live.close()
                self._live = None

    async def live(self) -> Live:
        """The engine, opened in a thread of its own.

        Raises:
            As open.
        """
        return self._live or await asyncio.get_running_loop().run_in_executor(
            self._opener, self.open
        )

    async def elsewhere(self, work: Callable[[], T]) -> T:
        """Do blocking work in one of a few threads; a call that is cancelled waits no longer for
        it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def ask(
        self, question: str, looked: Looked, sampling: Sampling, *, permitted: bool, told: Told
    ) -> Answer:
        """Ask one question; a cancelled call frees its place in the engine at once.

        Raises:
            ReleaseError: it would leave this machine and nobody allowed that. EngineError: no
                answer came, or too many are asked.
        """
        live = await self.live()
        sample = question_sample(question, looked)
        check_release([sample], live.endpoint, Release(private=permitted))
        if self._asked >= MAX_ASKED:
            raise EngineError(f"{self._asked} questions are being answered; try again soon.")
        self._asked += 1
        try:
            return await _heard(live, sample, looked, sampling, told)
        finally:
            self._asked -= 1

    async def address(self) -> str | None:
        """The address that a question would go to; None for a model on this machine, which is not
        loaded to find out.

        Raises:
            InputError: the server has no model.
        """
        if self.name is not None and engine_name(self.name) in ON_THIS_MACHINE:
            return None
        endpoint = (await self.live()).endpoint
        return None if is_local(endpoint) else endpoint

    async def concerns(self, looked: Looked) -> list[str]:
        """What to know of images before they go to the model's address; nothing for a model on this
        machine.
        """
        endpoint = await self.address()
        if endpoint is None:
            return []
        sample = question_sample("?", looked)
        return await self.elsewhere(lambda: concerns(sample, endpoint))


def declined() -> ReleaseError:
    return ReleaseError("nothing was sent: you did not agree that it leaves this machine.")


async def _heard(
    live: Live, sample: Sample, looked: Looked, sampling: Sampling, told: Told
) -> Answer:
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[str | Reply | LingshuError] = asyncio.Queue()

    def hear(piece: str | Reply | LingshuError) -> None:
        # The engine's thread may still speak when a server's loop is over.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    asked = live.submit(sample, replace(sampling, copies=1), hear)
    count, last = 0, 0.0
    try:
        while isinstance(piece := await pieces.get(), str):
            count += 1
            if monotonic() - last >= PROGRESS_S:
                last = monotonic()
                await told(min(count, sampling.max_tokens), sampling.max_tokens)
    finally:
        asked.cancel()
    found = piece if isinstance(piece, LingshuError) else answer_of(live, piece, looked)
    if isinstance(found, LingshuError):
        raise found
    return found
