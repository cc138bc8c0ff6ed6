"""Asking for material: nothing twice, nothing beyond the budget, nothing that may not leave, every
reply kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lingshu.core.cached_client import (
    CALLS_FILE,
    TEXT_FORMAT,
    Budget,
    CachedClient,
    Request,
    json_format,
)
from lingshu.core.errors import ConfigError, EngineError, StorageError
from lingshu.core.messages import user_turn
from lingshu.core.types import Image, Meta, Reply, Sample, Sampling
from lingshu.engines.scripted import REFUSAL, engine_from_rules
from lingshu.imaging.read import image_bytes

JSON_RULES = [{"pattern": "shape (?P<n>\\d+)", "reply": {"name": "shape {n}", "size": 3}}]


@dataclass(frozen=True)
class Shape:
    name: str
    size: int


@dataclass
class CountingEngine:
    """Says the same reply to everything, with `tokens` of each kind, and counts; breaks after
    `whole` replies.
    """

    text: str = "fine"
    tokens: int | None = 10
    fails_after: int | None = None
    endpoint: str | None = None
    model: str = "counting"
    digest: str = "1"
    seen: list[Sample] = field(default_factory=list)

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, *, skip: object = ()
    ) -> Iterator[list[Reply]]:
        for sample in samples:
            if self.fails_after is not None and len(self.seen) >= self.fails_after:
                raise EngineError("it went away")
            self.seen.append(sample)
            yield [Reply(sample.id, self.text, 0, "stop", self.tokens, self.tokens)]


def question(text: str, *, access: str = "open", images: tuple[Image, ...] = ()) -> Sample:
    return Sample(text, (user_turn(text, len(images)),), images, meta=Meta(access=access))  # type: ignore[arg-type]


def texts(count: int, *, access: str = "open") -> list[Request]:
    return [
        Request(question(f"question {number}", access=access), TEXT_FORMAT)
        for number in range(count)
    ]


def open_client(engine: object, folder: Path, **options: object) -> CachedClient:
    return CachedClient(engine, folder, images=image_bytes, **options)  # type: ignore[arg-type]


def test_a_recorded_call_is_not_made_again(tmp_path: Path) -> None:
    engine = CountingEngine()
    with open_client(engine, tmp_path) as calls:
        first = calls.ask(texts(3), Sampling())
        assert [outcome.value for outcome in first] == ["fine"] * 3
        assert calls.ask(texts(3), Sampling()) == first
    with open_client(engine, tmp_path) as calls:
        assert calls.ask(texts(4), Sampling())[:3] == first
        assert calls.counts() == {
            "requests": 4,
            "calls": 1,
            "cached": 3,
            "retries": 0,
            "tokens": 80,
            "cost": 0.0,
        }
    assert len(engine.seen) == 4


def test_equal_requests_are_one_call(tmp_path: Path) -> None:
    engine = CountingEngine()
    with open_client(engine, tmp_path) as calls:
        assert len(calls.ask([*texts(2), *texts(2)], Sampling())) == 4
    assert len(engine.seen) == 2


@pytest.mark.parametrize("change", ["text", "model", "digest", "sampling", "form", "image"])
def test_whatever_decides_a_reply_makes_another_call(tmp_path: Path, change: str) -> None:
    engine, sampling, image = (
        CountingEngine(text='{"name": "a", "size": 1}'),
        Sampling(),
        Image(data=b"one"),
    )
    request = Request(question("question", images=(image,)), TEXT_FORMAT)
    with open_client(engine, tmp_path) as calls:
        calls.ask([request], sampling)
    if change in ("model", "digest"):
        setattr(engine, change, "another")
    request = {
        "text": Request(question("question?", images=(image,)), TEXT_FORMAT),
        "form": Request(request.sample, json_format(Shape)),
        "image": Request(question("question", images=(Image(data=b"two"),)), TEXT_FORMAT),
    }.get(change, request)
    with open_client(engine, tmp_path) as calls:
        calls.ask([request], Sampling(max_tokens=9) if change == "sampling" else sampling)
    assert len(engine.seen) == 2


def test_a_json_reply_becomes_the_requested_value(tmp_path: Path) -> None:
    with open_client(engine_from_rules(JSON_RULES), tmp_path) as calls:
        (outcome,) = calls.ask([Request(question("shape 7"), json_format(Shape))], Sampling())
    assert outcome.value == Shape("shape 7", 3) and outcome.reject_reason is None


@pytest.mark.parametrize(
    "text",
    [
        '<think>Is {this} it?</think>\n{"name": "a", "size": 1}',
        '```json\n{"name": "a", "size": 1}\n```',
        'Here it is:\n```\n{"name": "a", "size": 1}\n```',
    ],
)
def test_a_fence_around_json_or_a_thought_before_it_is_accepted(tmp_path: Path, text: str) -> None:
    with open_client(CountingEngine(text=text), tmp_path) as calls:
        assert calls.ask([Request(question("x"), json_format(Shape))], Sampling())[
            0
        ].value == Shape("a", 1)


def test_a_fence_inside_an_object_is_text() -> None:
    text = '{"name": "it said ```{}```", "size": 1}'
    assert json_format(Shape).parse(text) == Shape("it said ```{}```", 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "a"', "malformed"),
        ('{"name": "a", "size": "1"}', "malformed"),
        ("plain words", "malformed"),
        (" ", "empty"),
        (REFUSAL, "refused"),
    ],
)
def test_a_reply_without_the_format_is_retried_and_then_rejected_with_its_text(
    tmp_path: Path, text: str, reason: str
) -> None:
    engine = CountingEngine(text=text)
    with open_client(
        engine, tmp_path, max_attempts=3, is_refusal=lambda output: "sorry" in output
    ) as calls:
        (outcome,) = calls.ask([Request(question("x"), json_format(Shape))], Sampling())
        assert calls.counts()["retries"] == 2
    assert (outcome.value, outcome.reject_reason, outcome.raw_text) == (None, reason, text)
    assert len(engine.seen) == 3


def test_planted_faults_are_fixed_by_a_retry(tmp_path: Path) -> None:
    engine = engine_from_rules([*JSON_RULES, {"malformed": 0.05, "refused": 0.05, "seed": 1}])
    requests = [Request(question(f"shape {number}"), json_format(Shape)) for number in range(200)]
    with open_client(engine, tmp_path, is_refusal=lambda output: "sorry" in output) as calls:
        outcomes = calls.ask(requests, Sampling())
        counts = calls.counts()
    assert all(
        outcome.value == Shape(f"shape {number}", 3)
        for number, outcome in enumerate(outcomes)
        if outcome.reject_reason is None
    )
    assert 5 <= counts["retries"] <= 50 and counts["calls"] == 200 + counts["retries"]
    assert sum(outcome.reject_reason is not None for outcome in outcomes) <= 3


def test_no_call_goes_beyond_the_token_budget(tmp_path: Path) -> None:
    engine = CountingEngine(tokens=50)
    with open_client(engine, tmp_path, budget=Budget(tokens=5000)) as calls:
        outcomes = calls.ask(texts(100), Sampling(max_tokens=100))
        assert calls.usage.tokens == 100 * len(engine.seen) <= 5000
        # What is left is too little for the worst case of one more call.
        assert calls.usage.tokens + 64 + 16 + len("question 99") + 100 > 5000
        assert calls.counts()["budget"] == 100 - len(engine.seen)
    assert [outcome.reject_reason for outcome in outcomes] == [None] * len(engine.seen) + [
        "budget"
    ] * (100 - len(engine.seen))


def test_a_budget_in_money_holds_over_several_runs(tmp_path: Path) -> None:
    budget = Budget(cost=0.01, prompt_price=10.0, reply_price=10.0)
    engine = CountingEngine(tokens=50)
    for _ in range(3):
        with open_client(engine, tmp_path, budget=budget) as calls:
            calls.ask(texts(40), Sampling(max_tokens=100))
            assert calls.usage.cost <= 0.01 + 1e-12
    assert (
        len(engine.seen) == 9
    )  # a tenth of a cent each, and the worst case of a tenth does not fit


def test_a_call_without_a_report_counts_at_its_upper_bound(tmp_path: Path) -> None:
    with open_client(CountingEngine(tokens=None), tmp_path) as calls:
        calls.ask(texts(1), Sampling(max_tokens=50))
        assert calls.usage.tokens == 64 + 16 + len("question 0") + 50


def test_a_budget_in_money_needs_prices() -> None:
    with pytest.raises(ConfigError, match="prices"):
        Budget(cost=1.0)


@pytest.mark.parametrize("access", ["credentialed", "form", "private"])
def test_what_may_not_leave_is_never_sent(tmp_path: Path, access: str) -> None:
    engine = CountingEngine(endpoint="https://teacher.example/v1")
    with open_client(engine, tmp_path) as calls:
        outcomes = calls.ask([*texts(2, access=access), *texts(1)], Sampling())
    assert [outcome.reject_reason for outcome in outcomes] == ["data_policy", "data_policy", None]
    assert [sample.meta.access for sample in engine.seen] == ["open"]


def test_an_unreadable_image_is_a_reject(tmp_path: Path) -> None:
    with open_client(CountingEngine(), tmp_path) as calls:
        (outcome,) = calls.ask(
            [Request(question("x", images=(Image(path=str(tmp_path / "none.png")),)), TEXT_FORMAT)],
            Sampling(),
        )
    assert outcome.reject_reason == "bad_image"


def test_an_interrupted_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    with open_client(CountingEngine(fails_after=5), tmp_path) as calls, pytest.raises(EngineError):
        calls.ask(texts(8), Sampling())
    log = tmp_path / CALLS_FILE
    log.write_bytes(log.read_bytes()[:-3])  # and its last line was torn
    engine = CountingEngine()
    with open_client(engine, tmp_path) as calls:
        assert all(outcome.value for outcome in calls.ask(texts(8), Sampling()))
    assert len(engine.seen) == 4
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_a_failed_call_is_recorded_and_made_again_by_the_next_run(tmp_path: Path) -> None:
    with open_client(engine_from_rules([{"pattern": "another", "reply": "x"}]), tmp_path) as calls:
        (outcome,) = calls.ask(texts(1), Sampling())
        assert outcome.reject_reason == "failed" and "no rule" in outcome.detail
    assert "no rule" in (tmp_path / CALLS_FILE).read_text()


def test_the_reply_of_a_later_try_is_reused_where_the_first_failed(tmp_path: Path) -> None:
    class FailsFirstEngine(CountingEngine):
        def generate(
            self, samples: Sequence[Sample], sampling: Sampling, *, skip: object = ()
        ) -> Iterator[list[Reply]]:
            if sampling.seed == 0:
                yield [Reply(sample.id, None, error="no route") for sample in samples]
            else:
                yield from super().generate(samples, sampling, skip=skip)

    engine = FailsFirstEngine()
    for calls_made in (2, 0):
        with open_client(engine, tmp_path) as calls:
            assert [outcome.value for outcome in calls.ask(texts(1), Sampling())] == ["fine"]
            assert calls.counts()["calls"] == calls_made


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        open_client(CountingEngine(), tmp_path),
        pytest.raises(StorageError, match="another process"),
    ):
        open_client(CountingEngine(), tmp_path)


def test_a_reply_above_the_estimated_maximum_is_counted(tmp_path: Path) -> None:
    with open_client(CountingEngine(tokens=9999), tmp_path) as calls:
        calls.ask(texts(1), Sampling())
        assert calls.counts()["exceeds_upper_bound"] == 1


def test_a_try_that_failed_counts_as_a_full_call(tmp_path: Path) -> None:
    class LossyEngine(CountingEngine):
        def generate(
            self, samples: Sequence[Sample], sampling: Sampling, *, skip: object = ()
        ) -> Iterator[list[Reply]]:
            for replies in super().generate(samples, sampling, skip=skip):
                yield [replace(reply, failed_attempts=2) for reply in replies]

    upper_bound = 64 + 16 + len("question 0") + 50
    with open_client(
        LossyEngine(), tmp_path, budget=Budget(tokens=3 * upper_bound), engine_retries=2
    ) as calls:
        assert [
            outcome.reject_reason for outcome in calls.ask(texts(2), Sampling(max_tokens=50))
        ] == [
            None,
            "budget",
        ]
        assert calls.usage.tokens == 20 + 2 * upper_bound <= 3 * upper_bound
