"""How many requests may be under way: what raises the limit, what halves it, and what says nothing
about it.
"""

from __future__ import annotations

from lingshu.core.llm_client import INITIAL_LIMIT, AdaptiveLimiter


def record_outcomes(
    limiter: AdaptiveLimiter,
    count: int,
    *,
    seconds: float = 0.1,
    n_pushback: int = 0,
    wait: float = 0.0,
) -> None:
    """`count` outcomes of requests sent under the present limit, the first `n_pushback`
    of them refused.
    """
    epoch = limiter.epoch
    for number in range(count):
        limiter.record(epoch, seconds, pushback=number < n_pushback, wait=wait, now=100.0)


def test_it_never_exceeds_the_limit() -> None:
    limiter = AdaptiveLimiter(10)
    for _ in range(5):
        record_outcomes(limiter, 10)
    assert limiter.limit == 10


def test_it_doubles_while_latencies_hold() -> None:
    limiter = AdaptiveLimiter(200)
    seen = [limiter.limit]
    while limiter.limit < 200:
        record_outcomes(limiter, limiter.limit)
        seen.append(limiter.limit)
    assert seen == [INITIAL_LIMIT, 64, 128, 200]


def test_it_stays_where_more_concurrency_is_slower() -> None:
    limiter = AdaptiveLimiter(1000)
    record_outcomes(limiter, 32)
    record_outcomes(limiter, 64, seconds=0.25)
    assert limiter.limit == 64


def test_a_busy_server_halves_it_and_each_round_regains_a_tenth() -> None:
    limiter = AdaptiveLimiter(200)
    record_outcomes(limiter, 32)
    record_outcomes(limiter, 4, n_pushback=4)
    assert limiter.limit == 32
    record_outcomes(limiter, 32)
    assert limiter.limit == 35


def test_a_refusal_by_chance_changes_nothing() -> None:
    limiter = AdaptiveLimiter(100)
    record_outcomes(limiter, 32, n_pushback=1)
    assert limiter.limit == 64


def test_requests_sent_before_a_change_count_once() -> None:
    limiter = AdaptiveLimiter(64)
    record_outcomes(limiter, 32, n_pushback=32)
    assert limiter.limit == 16


def test_it_waits_as_long_as_the_server_asks_and_stops_at_one() -> None:
    limiter = AdaptiveLimiter(32)
    for _ in range(10):
        record_outcomes(limiter, 2, n_pushback=2, wait=7.0)
    assert (limiter.limit, limiter.paused_until) == (1, 107.0)
