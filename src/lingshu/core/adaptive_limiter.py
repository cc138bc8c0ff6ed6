"""How many requests may be under way: starts moderate, rises while that pays, halves when the
server pushes back.
"""

from __future__ import annotations

INITIAL_LIMIT = 32
# A refusal now and then is chance and is only repeated; a share above this one is a server that has
# too much to do.
PUSHBACK_FRACTION = 0.05
INCREASE_FRACTION = 0.1


class AdaptiveLimiter:
    """The limit of requests under way, between 1 and `ceiling`; it remembers one round of outcomes.

    A round is as many outcomes as the limit allows at once. By Little's law the speed of a round is
    limit / mean latency. While it does not fall, the limit doubles, until the first pushback; from
    then on it grows by a tenth a round. Outcomes of requests that were sent under another limit say
    nothing about this one and are passed over.
    """

    def __init__(self, max_limit: int) -> None:
        self.max_limit = max(1, max_limit)
        self.limit = min(INITIAL_LIMIT, self.max_limit)
        self.epoch = 0
        self.paused_until = 0.0
        self._doubling = True
        self._throughput = 0.0
        self._start_round()

    def _start_round(self) -> None:
        self._n_answered = self._n_pushback = 0
        self._total_seconds = self._max_wait_s = 0.0

    def record(
        self,
        epoch: int,
        seconds: float,
        *,
        pushback: bool,
        wait: float | None = None,
        now: float = 0.0,
    ) -> None:
        """Take in the outcome of a request that was sent under `epoch` and took `seconds`.

        `pushed`: the server said that it has too much to do, or did not answer in time; `wait`: the
        seconds it asks for.
        """
        if epoch != self.epoch:
            return
        if pushback:
            self._n_pushback += 1
            self._max_wait_s = max(self._max_wait_s, wait or 0.0)
            if self._n_pushback > max(1.0, PUSHBACK_FRACTION * self.limit):
                self._doubling = False
                self.paused_until = now + self._max_wait_s
                self._set_limit(max(1, self.limit // 2), 0.0)
                return
        else:
            self._n_answered += 1
            self._total_seconds += seconds
        if self._n_answered + self._n_pushback >= self.limit:
            self._end_round()

    def _end_round(self) -> None:
        throughput = (
            self.limit * self._n_answered / self._total_seconds if self._total_seconds else 0.0
        )
        if self.limit == self.max_limit or not self._n_answered or throughput < self._throughput:
            self._throughput = throughput
            self._start_round()
            return
        step = self.limit if self._doubling else max(1, int(self.limit * INCREASE_FRACTION))
        self._set_limit(min(self.max_limit, self.limit + step), throughput)

    def _set_limit(self, limit: int, throughput: float) -> None:
        self.limit, self._throughput = limit, throughput
        self.epoch += 1
        self._start_round()
