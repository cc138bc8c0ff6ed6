"""Requests answered as they arrive: the same replies as the engine that takes lists, whatever other
requests come and go.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from lingshu.core.errors import ImageError, InputError, LingshuError
from lingshu.core.messages import user_turn
from lingshu.core.types import EngineOptions, Image, Message, Reply, Sample, Sampling
from lingshu.engines import echo
from lingshu.engines.hf import ContinuousBatchingEngine, HfEngine
from lingshu.imaging.read import png_bytes
from lingshu.inference.engines import BlockingEngineAdapter
from lingshu.models.generation import IncrementalDetokenizer
from lingshu.models.load import LoadedModel
from tests.support.tiny import FAMILIES, make_image, tiny

LONG = 2000


class EventRecorder:
    """Records the events of one reply."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.result: Reply | LingshuError | None = None
        self.started, self.done = threading.Event(), threading.Event()

    def __call__(self, event: str | Reply | LingshuError) -> None:
        if isinstance(event, str):
            self.pieces.append(event)
            self.started.set()
        else:
            self.result = event
            self.done.set()

    def reply(self) -> Reply:
        assert self.done.wait(60)
        assert isinstance(self.result, Reply), self.result
        return self.result


def loaded(family: str) -> LoadedModel:
    return LoadedModel(*tiny(family), "tiny", "digest")


def question(index: int, images: int = 1) -> Sample:
    sample_images = tuple(
        Image(data=png_bytes(make_image(10 * index + i, 56 + 30 * (index % 3), 56)))
        for i in range(images)
    )
    return Sample(
        f"q{index}",
        (user_turn("Is there a lesion?" + " left" * (index % 4), images),),
        sample_images,
    )


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def live_engine() -> Iterator[Callable[..., ContinuousBatchingEngine]]:
    engines: list[ContinuousBatchingEngine] = []

    def make(family: str = "internvl", *, batch_size: int = 4) -> ContinuousBatchingEngine:
        engines.append(ContinuousBatchingEngine(loaded(family), batch_size=batch_size))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def submit_all(
    live_engine: ContinuousBatchingEngine,
    samples: Sequence[Sample],
    sampling: Sampling,
    *,
    stop: Sequence[str] = (),
) -> list[EventRecorder]:
    recorders = [EventRecorder() for _ in samples]
    for sample, recorder in zip(samples, recorders, strict=True):
        live_engine.submit(sample, sampling, recorder, stop=stop)
    return recorders


def batched_replies(family: str, samples: Sequence[Sample], sampling: Sampling) -> dict[str, Reply]:
    return {
        r.id: r
        for batch in HfEngine(loaded(family), batch_size=3).generate(samples, sampling)
        for r in batch
    }


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_equal_those_of_the_engine_that_takes_lists(
    family: str, temperature: float, live_engine: Callable[..., ContinuousBatchingEngine]
) -> None:
    # Nine questions of several lengths through three places: rows join and leave while others are
    # being written.
    samples = [question(index, images=index % 3) for index in range(9)]
    sampling = [
        Sampling(max_tokens=4 + 3 * (index % 4), temperature=temperature, top_p=0.9, seed=index)
        for index in range(9)
    ]
    engine, recorders = live_engine(family, batch_size=3), [EventRecorder() for _ in samples]
    for sample, settings, recorder in zip(samples, sampling, recorders, strict=True):
        engine.submit(sample, settings, recorder)
    for sample, settings, recorder in zip(samples, sampling, recorders, strict=True):
        expected = batched_replies(family, [sample], settings)[sample.id]
        assert recorder.reply() == expected
        assert recorder.reply().token_ids == expected.token_ids
        assert "".join(recorder.pieces) == expected.text


def test_a_reply_ends_at_every_end_token_that_the_checkpoint_names() -> None:
    first = next(
        iter(
            batched_replies("internvl", [question(0)], Sampling(max_tokens=3))["q0"].token_ids or ()
        )
    )
    model, processor = tiny("internvl")
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, first]
    engine = ContinuousBatchingEngine(LoadedModel(model, processor, "tiny", "digest"))
    reply = submit_all(engine, [question(0)], Sampling(max_tokens=3))[0].reply()
    engine.close()
    assert (reply.text, reply.finish, reply.token_ids) == ("", "stop", (first,))


def test_concurrent_equal_questions_share_a_prefill_and_are_sampled_independently(
    live_engine: Callable[..., ContinuousBatchingEngine],
) -> None:
    same = [replace(question(1), id=name) for name in "abcd"]
    sampling = Sampling(max_tokens=6, temperature=1.0)
    expected = batched_replies("internvl", same, sampling)
    replies = [recorder.reply() for recorder in submit_all(live_engine(), same, sampling)]
    assert [reply.text for reply in replies] == [expected[name].text for name in "abcd"]
    assert len({reply.text for reply in replies}) > 1


def test_a_cancelled_request_frees_its_slot_and_sends_nothing_more(
    live_engine: Callable[..., ContinuousBatchingEngine],
) -> None:
    engine, first, second = live_engine(batch_size=1), EventRecorder(), EventRecorder()
    endless = Sampling(max_tokens=LONG, temperature=2.0, seed=3)
    handle = engine.submit(question(1), endless, first)
    assert first.started.wait(60)
    engine.submit(question(2), Sampling(max_tokens=2), second)
    handle.cancel()
    n_pieces = len(first.pieces)
    assert second.reply().reply_tokens == 2
    assert first.result is None and len(first.pieces) == n_pieces
    assert (engine.running, engine.waiting) == (0, 0) or not second.done.is_set()


def test_an_invalid_request_fails_alone(
    live_engine: Callable[..., ContinuousBatchingEngine],
) -> None:
    bad = Sample("bad", (user_turn("?", 1),), (Image(data=b"no image"),))
    answered = Sample("done", (Message("user", ("?",)), Message("assistant", ("yes",))))
    engine = live_engine()
    recorders = submit_all(engine, [bad, answered, question(1)], Sampling(max_tokens=3))
    too_long = submit_all(engine, [question(1)], Sampling(max_tokens=10**9))[0]
    assert recorders[2].reply().text is not None
    assert recorders[0].done.wait(60) and isinstance(recorders[0].result, ImageError)
    assert recorders[1].done.wait(60) and isinstance(recorders[1].result, InputError)
    assert too_long.done.wait(60) and "of this model" in str(too_long.result)


def test_a_stop_text_ends_the_reply_before_it(
    live_engine: Callable[..., ContinuousBatchingEngine],
) -> None:
    sampling = Sampling(max_tokens=40, temperature=1.5, seed=1)
    text = batched_replies("internvl", [question(1)], sampling)["q1"].text or ""
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    recorder = submit_all(live_engine(), [question(1)], sampling, stop=[stop])[0]
    assert recorder.reply().finish == "stop"
    assert "".join(recorder.pieces) == recorder.reply().text == text[: text.index(stop)]


def test_a_model_that_fails_once_answers_the_next_question(
    live_engine: Callable[..., ContinuousBatchingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live_engine()
    with monkeypatch.context() as broken:
        broken.setattr("lingshu.engines.hf.prefill", lambda *_: 1 / 0)
        recorder = submit_all(engine, [question(1)], Sampling(max_tokens=2))[0]
        assert recorder.done.wait(60) and "the model failed: ZeroDivisionError" in str(
            recorder.result
        )
    assert submit_all(engine, [question(1)], Sampling(max_tokens=2))[0].reply().reply_tokens == 2


def test_closing_ends_every_open_question() -> None:
    engine = ContinuousBatchingEngine(loaded("internvl"), batch_size=1)
    recorders = submit_all(
        engine, [question(1), question(2)], Sampling(max_tokens=LONG, temperature=2.0)
    )
    assert recorders[0].started.wait(60)
    engine.close()
    assert all(
        recorder.done.is_set() and "closed" in str(recorder.result) for recorder in recorders
    )


def test_closing_also_ends_questions_that_were_not_prepared() -> None:
    engine = ContinuousBatchingEngine(loaded("internvl"), batch_size=1)
    recorders = submit_all(
        engine,
        [question(index) for index in range(24)],
        Sampling(max_tokens=LONG, temperature=2.0),
    )
    engine.close()
    assert all(recorder.done.is_set() for recorder in recorders) and "closed" in str(
        recorders[-1].result
    )


def test_other_engines_reply_in_one_piece() -> None:
    engine = BlockingEngineAdapter(
        echo.load("echo:yes, there is", EngineOptions()), max_concurrency=2
    )
    recorders = submit_all(engine, [question(1)], Sampling(), stop=[", "])  # type: ignore[arg-type]
    assert recorders[0].reply() == Reply("q1", "yes", 0, "stop")
    assert recorders[0].pieces == ["yes"] and not engine.streams
    bad = submit_all(
        engine,  # pyright: ignore[reportArgumentType]
        [Sample("bad", (user_turn("?", 1),), (Image(data=b"no image"),))],
        Sampling(),
    )[0]
    assert bad.done.wait(60) and isinstance(bad.result, ImageError)
    engine.close()


def detokenize_bytes(text: str, stop: Sequence[str] = ()) -> list[str]:
    """The pieces of a text whose every byte is a token."""
    detokenizer = IncrementalDetokenizer(
        lambda tokens: bytes(tokens).decode("utf-8", "replace"), stop
    )
    pieces = [detokenizer.add(byte) for byte in text.encode()]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == detokenizer.text
    return [piece for piece in pieces if piece]


def test_characters_are_never_broken() -> None:
    assert detokenize_bytes("肺 ok 🫁!") == ["肺", " ", "o", "k", " ", "🫁", "!"]


def test_the_start_of_a_stop_text_is_held_back() -> None:
    assert detokenize_bytes("abcXabcY", ["abcY"]) == ["abcX"]
    assert detokenize_bytes("ab", ["abc"]) == ["ab"]
    assert detokenize_bytes("肺。结论", ["。"]) == ["肺"]


def test_words_keep_the_space_before_them_where_a_decoder_drops_the_first() -> None:
    words = [" no", " lesion", ".", " é", " left"]
    detokenizer = IncrementalDetokenizer(
        lambda tokens: "".join(words[token] for token in tokens).removeprefix(" ")
    )
    pieces = [detokenizer.add(token) for token in range(len(words))]
    assert pieces == ["no", " lesion", ".", " é", " left"]


def test_invalid_bytes_are_shown_as_such_at_the_end() -> None:
    detokenizer = IncrementalDetokenizer(lambda tokens: bytes(tokens).decode("utf-8", "replace"))
    assert [detokenizer.add(byte) for byte in b"a\xff\xffb\xe8"] == [
        "a",
        "",
        "\ufffd",
        "\ufffdb",
        "",
    ]
    assert detokenizer.flush() == "\ufffd"
