"""From the threads that answer to the event loop that tells: one wake-up for all that was said
since the last one.
"""

from __future__ import annotations

import asyncio
import threading

from lingshu.apps._serve_wire import Refused
from lingshu.core.errors import LingshuError
from lingshu.core.nouns import Reply

Told = str | Reply | LingshuError | Refused
# Words of one reply go out at most so often (seconds): a fast small model would else spend its time
# on telling them singly.
PACE_S = 0.02


class Box:
    """Where one request's words arrive. `whole` keeps its end alone."""

    def __init__(self, post: Post, *, whole: bool) -> None:
        self._post, self._whole = post, whole
        self._told: list[Told] = []
        self._bell = asyncio.Event()
        self._rung = -PACE_S
        self._timer: asyncio.TimerHandle | None = None

    def heard(self, told: str | Reply | LingshuError) -> None:
        """Called by an engine, from any thread."""
        if not (self._whole and isinstance(told, str)):
            self._post.carry(self, told)

    def arrived(self, told: Told) -> None:
        """Called in the event loop. The first words and the end are told at once."""
        self._told.append(told)
        wait = self._rung + PACE_S - self._post.loop.time()
        if not isinstance(told, str) or wait <= 0:
            self._ring()
        elif self._timer is None:
            self._timer = self._post.loop.call_later(wait, self._ring)

    def _ring(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rung = self._post.loop.time()
        self._bell.set()

    async def next(self) -> list[Told]:
        """All that was said since the last call, at least one thing.

        Raises:
            Refused: what arrived as such: the client went away.
        """
        while not self._told or not self._bell.is_set():
            self._bell.clear()
            await self._bell.wait()
        self._bell.clear()
        told, self._told = self._told, []
        for one in told:
            if isinstance(one, Refused):
                raise one
        return told


class Post:
    """Carries words into one event loop.

    It remembers what is on its way: a batch speaks in many rows at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._turn = threading.Lock()
        self._bag: list[tuple[Box, Told]] = []

    def carry(self, box: Box, told: Told) -> None:
        with self._turn:
            self._bag.append((box, told))
            first = len(self._bag) == 1
        if first and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._turn:
            bag, self._bag = self._bag, []
        for box, told in bag:
            box.arrived(told)
