"""From the threads that answer to the event loop that tells: one wake-up for all that was said
since the last one.
"""

from __future__ import annotations

import asyncio
import threading

from lingshu.core.errors import LingshuError
from lingshu.core.types import Reply
from lingshu.serve.schema import HTTPError

ReplyEvent = str | Reply | LingshuError | HTTPError
# Words of one reply go out at most so often (seconds): a fast small model would else spend its time
# on telling them singly.
MIN_NOTIFY_INTERVAL_S = 0.02


class EventQueue:
    """Where one request's words arrive. `whole` keeps its end alone."""

    def __init__(self, dispatcher: EventDispatcher, *, final_only: bool) -> None:
        self._dispatcher, self._final_only = dispatcher, final_only
        self._events: list[ReplyEvent] = []
        self._ready = asyncio.Event()
        self._last_notified = -MIN_NOTIFY_INTERVAL_S
        self._timer: asyncio.TimerHandle | None = None

    def on_event(self, event: str | Reply | LingshuError) -> None:
        """Called by an engine, from any thread."""
        if not (self._final_only and isinstance(event, str)):
            self._dispatcher.publish(self, event)

    def put(self, event: ReplyEvent) -> None:
        """Called in the event loop. The first words and the end are told at once."""
        self._events.append(event)
        wait = self._last_notified + MIN_NOTIFY_INTERVAL_S - self._dispatcher.loop.time()
        if not isinstance(event, str) or wait <= 0:
            self._notify()
        elif self._timer is None:
            self._timer = self._dispatcher.loop.call_later(wait, self._notify)

    def _notify(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._last_notified = self._dispatcher.loop.time()
        self._ready.set()

    async def next_events(self) -> list[ReplyEvent]:
        """All that was said since the last call, at least one thing.

        Raises:
            Refused: what arrived as such: the client went away.
        """
        while not self._events or not self._ready.is_set():
            self._ready.clear()
            await self._ready.wait()
        self._ready.clear()
        events, self._events = self._events, []
        for event in events:
            if isinstance(event, HTTPError):
                raise event
        return events


class EventDispatcher:
    """Carries words into one event loop.

    It remembers what is on its way: a batch speaks in many rows at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._pending: list[tuple[EventQueue, ReplyEvent]] = []

    def publish(self, queue: EventQueue, event: ReplyEvent) -> None:
        with self._lock:
            self._pending.append((queue, event))
            is_first = len(self._pending) == 1
        if is_first and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
        for queue, event in pending:
            queue.put(event)
