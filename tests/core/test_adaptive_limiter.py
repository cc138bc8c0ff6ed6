"""How many requests may be under way: what raises the limit, what halves it, and what says nothing
about it.
"""

from __future__ import annotations

from lingshu.core.llm_client import INITIAL_LIMIT, AdaptiveLimiter


def record_outcomes(
    pace: AdaptiveLimiter,
    count: int,
    *,
    seconds: float = 0.1,
    n_pushback: int = 0,
    wait: float | None = None,
) -> None:
    """`count` outcomes of requests sent under the present limit, the first `pushed` of them
    refused.
    """
    epoch = pace.epoch
    for number in range(count):
        pace.record(epoch, seconds, pushback=number < n_pushback, wait=wait, now=100.0)


def test_it_never_exceeds_the_limit() -> None:
    pace = AdaptiveLimiter(10)
    for _ in range(5):
        record_outcomes(pace, 10)
    assert pace.limit == 10


def test_it_doubles_while_latencies_hold() -> None:
    pace = AdaptiveLimiter(200)
    seen = [pace.limit]
    while pace.limit < 200:
        record_outcomes(pace, pace.limit)
        seen.append(pace.limit)
    assert seen == [INITIAL_LIMIT, 64, 128, 200]


def test_it_stays_where_more_concurrency_is_slower() -> None:
    pace = AdaptiveLimiter(1000)
    record_outcomes(pace, 32)
    record_outcomes(pace, 64, seconds=0.25)
    assert pace.limit == 64


def test_a_busy_server_halves_it_and_each_round_regains_a_tenth() -> None:
    pace = AdaptiveLimiter(200)
    record_outcomes(pace, 32)
    record_outcomes(pace, 4, n_pushback=4)
    assert pace.limit == 32
    record_outcomes(pace, 32)
    assert pace.limit == 35


def test_a_refusal_by_chance_changes_nothing() -> None:
    pace = AdaptiveLimiter(100)
    record_outcomes(pace, 32, n_pushback=1)
    assert pace.limit == 64


def test_requests_sent_before_a_change_count_once() -> None:
    pace = AdaptiveLimiter(64)
    record_outcomes(pace, 32, n_pushback=32)
    assert pace.limit == 16


def test_it_waits_as_long_as_the_server_asks_and_stops_at_one() -> None:
    pace = AdaptiveLimiter(32)
    for _ in range(10):
        record_outcomes(pace, 2, n_pushback=2, wait=7.0)
    assert (pace.limit, pace.paused_until) == (1, 107.0)
