"""How many requests may be under way: starts moderate, rises while that pays, halves when the
server pushes back.
"""

from __future__ import annotations

START = 32
# A refusal now and then is chance and is only repeated; a share above this one is a server that has
# too much to do.
PUSHED_SHARE = 0.05
ADDED_SHARE = 0.1


class Pace:
    """The limit of requests under way, between 1 and `ceiling`; it remembers one round of outcomes.

    A round is as many outcomes as the limit allows at once. By Little's law the speed of a round is
    limit / mean latency. While it does not fall, the limit doubles, until the first pushback; from
    then on it grows by a tenth a round. Outcomes of requests that were sent under another limit say
    nothing about this one and are passed over.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self.limit = min(START, self.ceiling)
        self.epoch = 0
        self.paused_until = 0.0
        self._doubling = True
        self._speed = 0.0
        self._start_round()

    def _start_round(self) -> None:
        self._answered = self._pushed = 0
        self._seconds = self._wait = 0.0

    def note(
        self,
        epoch: int,
        seconds: float,
        *,
        pushed: bool,
        wait: float | None = None,
        now: float = 0.0,
    ) -> None:
        """Take in the outcome of a request that was sent under `epoch` and took `seconds`.

        `pushed`: the server said that it has too much to do, or did not answer in time; `wait`: the
        seconds it asks for.
        """
        if epoch != self.epoch:
            return
        if pushed:
            self._pushed += 1
            self._wait = max(self._wait, wait or 0.0)
            if self._pushed > max(1.0, PUSHED_SHARE * self.limit):
                self._doubling = False
                self.paused_until = now + self._wait
                self._turn_to(max(1, self.limit // 2), 0.0)
                return
        else:
            self._answered += 1
            self._seconds += seconds
        if self._answered + self._pushed >= self.limit:
            self._end_round()

    def _end_round(self) -> None:
        speed = self.limit * self._answered / self._seconds if self._seconds else 0.0
        if self.limit == self.ceiling or not self._answered or speed < self._speed:
            self._speed = speed
            self._start_round()
            return
        step = self.limit if self._doubling else max(1, int(self.limit * ADDED_SHARE))
        self._turn_to(min(self.ceiling, self.limit + step), speed)

    def _turn_to(self, limit: int, speed: float) -> None:
        self.limit, self._speed = limit, speed
        self.epoch += 1
        self._start_round()
