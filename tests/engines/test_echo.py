"""The echo engine: returns the gold answer or a given text, and refuses unreadable images."""

from __future__ import annotations

import numpy as np
import pytest

from lingshu.core.errors import InputError
from lingshu.core.messages import user_turn
from lingshu.core.types import EngineOptions, Image, Sample, Sampling
from lingshu.engines.echo import load
from lingshu.imaging.read import encode_png

IMAGE_4X4 = Image(data=encode_png(np.zeros((4, 4), np.uint8)))


def sample(name: str, *gold: str, image: Image = IMAGE_4X4) -> Sample:
    return Sample(name, (user_turn("Is it?", 1),), (image,), gold or None)


def test_echo_returns_the_preferred_gold() -> None:
    replies = list(
        load("echo", EngineOptions()).generate(
            [sample("a", "yes", "true"), sample("b")], Sampling()
        )
    )
    assert [(r.id, r.text, r.finish) for r in replies[0]] == [
        ("a", "yes", "stop"),
        ("b", None, None),
    ]
    assert "no gold" in (replies[0][1].error or "")


def test_echo_returns_the_given_text() -> None:
    assert [
        r.text
        for r in next(load("echo:no: never", EngineOptions()).generate([sample("b")], Sampling()))
    ] == ["no: never"]
    assert next(load("echo:", EngineOptions()).generate([sample("b")], Sampling()))[0].text == ""


def test_replies_come_in_batches_that_skipping_does_not_shift() -> None:
    engine = load("echo", EngineOptions(batch_size=2))
    samples = [sample(name, "yes") for name in "abc"]
    all_batches = [
        [(r.id, r.generation_index) for r in batch]
        for batch in engine.generate(samples, Sampling(num_generations=2))
    ]
    assert all_batches == [[("a", 0), ("a", 1)], [("b", 0), ("b", 1)], [("c", 0), ("c", 1)]]
    remaining = [
        [(r.id, r.generation_index) for r in batch]
        for batch in engine.generate(
            samples, Sampling(num_generations=2), skip={("a", 1), ("b", 0), ("b", 1)}
        )
    ]
    assert remaining == [[("a", 0)], [("c", 0), ("c", 1)]]


def test_an_unreadable_image_is_an_error_reply() -> None:
    (reply,) = next(
        load("echo:yes", EngineOptions()).generate(
            [sample("a", image=Image(data=b"junk"))], Sampling()
        )
    )
    assert reply.text is None and "cannot be decoded" in (reply.error or "")


def test_the_digest_depends_on_the_text_and_the_engine_is_local() -> None:
    engines = [load(model, EngineOptions()) for model in ("echo", "echo:", "echo:yes")]
    assert len({engine.digest for engine in engines}) == 3
    assert {engine.endpoint for engine in engines} == {None}
    with pytest.raises(InputError, match="echo:TEXT"):
        load("parrot", EngineOptions())
