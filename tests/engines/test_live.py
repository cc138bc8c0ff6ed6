"""Questions answered as they arrive: the same words as the engine that takes lists, whoever comes
and goes beside them.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from lingshu.core.errors import BadImage, InputError, LingshuError
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Image, Message, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.engines import echo
from lingshu.engines._live import LiveModel
from lingshu.engines._speech import Speech
from lingshu.engines._whole import WholeReplies
from lingshu.engines.hf import HfEngine
from lingshu.imaging.read import png_bytes
from lingshu.models.load import Loaded
from lingshu.models.spec import FamilyName
from tests.tiny import FAMILIES, picture, tiny

LONG = 2000


class Ear:
    """Hears one reply."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.end: Reply | LingshuError | None = None
        self.began, self.over = threading.Event(), threading.Event()

    def __call__(self, told: str | Reply | LingshuError) -> None:
        if isinstance(told, str):
            self.pieces.append(told)
            self.began.set()
        else:
            self.end = told
            self.over.set()

    def reply(self) -> Reply:
        assert self.over.wait(60)
        assert isinstance(self.end, Reply), self.end
        return self.end


def loaded(family: FamilyName) -> Loaded:
    return Loaded(*tiny(family), "tiny", "digest")


def question(number: int, images: int = 1) -> Sample:
    shown = tuple(
        Image(data=png_bytes(picture(10 * number + i, 56 + 30 * (number % 3), 56)))
        for i in range(images)
    )
    return Sample(
        f"q{number}", (user_turn("Is there a lesion?" + " left" * (number % 4), images),), shown
    )


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> FamilyName:
    return request.param


@pytest.fixture
def live() -> Iterator[Callable[..., LiveModel]]:
    opened: list[LiveModel] = []

    def make(family: FamilyName = "internvl", *, batch_size: int = 4) -> LiveModel:
        opened.append(LiveModel(loaded(family), batch_size=batch_size))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def ask(
    live: LiveModel, samples: Sequence[Sample], sampling: Sampling, *, stop: Sequence[str] = ()
) -> list[Ear]:
    ears = [Ear() for _ in samples]
    for sample, ear in zip(samples, ears, strict=True):
        live.submit(sample, sampling, ear, stop=stop)
    return ears


def whole(family: FamilyName, samples: Sequence[Sample], sampling: Sampling) -> dict[str, Reply]:
    return {
        r.id: r
        for batch in HfEngine(loaded(family), batch_size=3).generate(samples, sampling)
        for r in batch
    }


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_equal_those_of_the_engine_that_takes_lists(
    family: FamilyName, temperature: float, live: Callable[..., LiveModel]
) -> None:
    # Nine questions of several lengths through three places: rows join and leave while others are
    # being written.
    samples = [question(number, images=number % 3) for number in range(9)]
    sampling = [
        Sampling(max_tokens=4 + 3 * (number % 4), temperature=temperature, top_p=0.9, seed=number)
        for number in range(9)
    ]
    engine, ears = live(family, batch_size=3), [Ear() for _ in samples]
    for sample, drawn, ear in zip(samples, sampling, ears, strict=True):
        engine.submit(sample, drawn, ear)
    for sample, drawn, ear in zip(samples, sampling, ears, strict=True):
        expected = whole(family, [sample], drawn)[sample.id]
        assert ear.reply() == expected
        assert ear.reply().token_ids == expected.token_ids
        assert "".join(ear.pieces) == expected.text


def test_a_reply_ends_at_every_end_token_that_the_checkpoint_names() -> None:
    first = next(
        iter(whole("internvl", [question(0)], Sampling(max_tokens=3))["q0"].token_ids or ())
    )
    model, processor = tiny("internvl")
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, first]
    engine = LiveModel(Loaded(model, processor, "tiny", "digest"))
    reply = ask(engine, [question(0)], Sampling(max_tokens=3))[0].reply()
    engine.close()
    assert (reply.text, reply.finish, reply.token_ids) == ("", "stop", (first,))


def test_equal_questions_at_once_share_a_prefill_and_are_drawn_apart(
    live: Callable[..., LiveModel],
) -> None:
    same = [replace(question(1), id=name) for name in "abcd"]
    sampling = Sampling(max_tokens=6, temperature=1.0)
    expected = whole("internvl", same, sampling)
    replies = [ear.reply() for ear in ask(live(), same, sampling)]
    assert [reply.text for reply in replies] == [expected[name].text for name in "abcd"]
    assert len({reply.text for reply in replies}) > 1


def test_a_cancelled_question_frees_its_place_and_is_heard_no_more(
    live: Callable[..., LiveModel],
) -> None:
    engine, first, second = live(batch_size=1), Ear(), Ear()
    endless = Sampling(max_tokens=LONG, temperature=2.0, seed=3)
    handle = engine.submit(question(1), endless, first)
    assert first.began.wait(60)
    engine.submit(question(2), Sampling(max_tokens=2), second)
    handle.cancel()
    said = len(first.pieces)
    assert second.reply().reply_tokens == 2
    assert first.end is None and len(first.pieces) == said
    assert (engine.running, engine.waiting) == (0, 0) or not second.over.is_set()


def test_what_cannot_be_asked_is_the_questions_own_fault(live: Callable[..., LiveModel]) -> None:
    bad = Sample("bad", (user_turn("?", 1),), (Image(data=b"no image"),))
    answered = Sample("done", (Message("user", ("?",)), Message("assistant", ("yes",))))
    engine = live()
    ears = ask(engine, [bad, answered, question(1)], Sampling(max_tokens=3))
    too_long = ask(engine, [question(1)], Sampling(max_tokens=10**9))[0]
    assert ears[2].reply().text is not None
    assert ears[0].over.wait(60) and isinstance(ears[0].end, BadImage)
    assert ears[1].over.wait(60) and isinstance(ears[1].end, InputError)
    assert too_long.over.wait(60) and "of this model" in str(too_long.end)


def test_a_stop_text_ends_the_reply_before_it(live: Callable[..., LiveModel]) -> None:
    sampling = Sampling(max_tokens=40, temperature=1.5, seed=1)
    text = whole("internvl", [question(1)], sampling)["q1"].text or ""
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    ear = ask(live(), [question(1)], sampling, stop=[stop])[0]
    assert ear.reply().finish == "stop"
    assert "".join(ear.pieces) == ear.reply().text == text[: text.index(stop)]


def test_a_model_that_fails_once_answers_the_next_question(
    live: Callable[..., LiveModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live()
    with monkeypatch.context() as broken:
        broken.setattr("lingshu.engines._live.prefill", lambda *_: 1 / 0)
        ear = ask(engine, [question(1)], Sampling(max_tokens=2))[0]
        assert ear.over.wait(60) and "the model failed: ZeroDivisionError" in str(ear.end)
    assert ask(engine, [question(1)], Sampling(max_tokens=2))[0].reply().reply_tokens == 2


def test_closing_ends_every_open_question() -> None:
    engine = LiveModel(loaded("internvl"), batch_size=1)
    ears = ask(engine, [question(1), question(2)], Sampling(max_tokens=LONG, temperature=2.0))
    assert ears[0].began.wait(60)
    engine.close()
    assert all(ear.over.is_set() and "closed" in str(ear.end) for ear in ears)


def test_closing_tells_questions_that_were_not_even_prepared() -> None:
    engine = LiveModel(loaded("internvl"), batch_size=1)
    ears = ask(
        engine,
        [question(number) for number in range(24)],
        Sampling(max_tokens=LONG, temperature=2.0),
    )
    engine.close()
    assert all(ear.over.is_set() for ear in ears) and "closed" in str(ears[-1].end)


def test_other_engines_are_heard_in_one_piece() -> None:
    engine = WholeReplies(echo.load("echo:yes, there is", EngineOptions()), at_once=2)
    ears = ask(engine, [question(1)], Sampling(), stop=[", "])  # type: ignore[arg-type]
    assert ears[0].reply() == Reply("q1", "yes", 0, "stop")
    assert ears[0].pieces == ["yes"] and not engine.streams
    bad = ask(
        engine,  # pyright: ignore[reportArgumentType]
        [Sample("bad", (user_turn("?", 1),), (Image(data=b"no image"),))],
        Sampling(),
    )[0]
    assert bad.over.wait(60) and isinstance(bad.end, BadImage)
    engine.close()


def spelled(text: str, stop: Sequence[str] = ()) -> list[str]:
    """The pieces of a text whose every byte is a token."""
    speech = Speech(lambda tokens: bytes(tokens).decode("utf-8", "replace"), stop)
    pieces = [speech.add(byte) for byte in text.encode()]
    pieces.append(speech.end())
    assert "".join(pieces) == speech.text
    return [piece for piece in pieces if piece]


def test_characters_are_never_broken() -> None:
    assert spelled("肺 ok 🫁!") == ["肺", " ", "o", "k", " ", "🫁", "!"]


def test_the_start_of_a_stop_text_is_held_back() -> None:
    assert spelled("abcXabcY", ["abcY"]) == ["abcX"]
    assert spelled("ab", ["abc"]) == ["ab"]
    assert spelled("肺。结论", ["。"]) == ["肺"]


def test_bytes_that_are_no_character_are_shown_as_such_at_the_end() -> None:
    speech = Speech(lambda tokens: bytes(tokens).decode("utf-8", "replace"))
    assert [speech.add(byte) for byte in b"a\xff\xffb\xe8"] == ["a", "", "\ufffd", "\ufffdb", ""]
    assert speech.end() == "\ufffd"
