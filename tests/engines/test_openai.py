"""The OpenAI engine against a real local server: what is sent, what is retried, what gives up, what
never leaks.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from lingshu.core.artifacts import read_dataset, write_dataset
from lingshu.core.confidence import TokenLogProbs
from lingshu.core.errors import DataPolicyError, EngineError, InputError
from lingshu.core.llm_client import Endpoint, parse_chat_response
from lingshu.core.messages import user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import EngineOptions, Image, Message, Meta, Reply, Sample, Sampling
from lingshu.engines import openai
from lingshu.imaging.read import encode_png, open_image
from tests.support.llm_server import completion

KEY = "sk-canary-1234567890"
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
IMAGE_4X4 = Image(data=encode_png(PIXELS))


def sample(
    name: str, question: str = "Is there a lesion?", images: Sequence[Image] = (IMAGE_4X4,)
) -> Sample:
    return Sample(
        name, (Message("system", ("Be brief.",)), user_turn(question, len(images))), tuple(images)
    )


def engine(url: str, **options: object) -> openai.OpenAIEngine:
    loaded = openai.load(
        f"{url}#tiny", EngineOptions(**{"api_key": KEY, "retries": 2, "timeout_s": 5.0, **options})
    )
    assert isinstance(loaded, openai.OpenAIEngine)
    # Milliseconds between tries: the tests ask whether it waits, not how long.
    server = Endpoint(
        **{
            **{f: getattr(loaded.server, f) for f in Endpoint.__dataclass_fields__},
            "backoff_s": 0.001,
        }
    )
    return openai.OpenAIEngine(loaded.model, loaded.digest, loaded.name, server, loaded.data_policy)


def answers(
    url: str, samples: Sequence[Sample], sampling: Sampling | None = None, **options: object
) -> list[Reply]:
    batches = list(engine(url, **options).generate(samples, sampling or Sampling()))
    return sorted(
        (reply for batch in batches for reply in batch), key=lambda r: (r.id, r.generation_index)
    )


def test_a_request_carries_the_dialogue_the_pixels_and_the_sampling(server) -> None:
    (reply,) = answers(
        server.url, [sample("a")], Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=3)
    )
    assert reply == Reply("a", "ok", 0, "stop", 7, 3)
    body = server.bodies[0]
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "tiny", "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 3,
    }  # fmt: skip
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    image_part, text_part = body["messages"][1]["content"]
    header, data = image_part["image_url"]["url"].split(",")
    assert header == "data:image/png;base64"
    assert np.array_equal(np.asarray(open_image(Image(data=base64.b64decode(data)))), PIXELS)
    assert text_part == {"type": "text", "text": "Is there a lesion?"}
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_copies_differ_in_their_seed_and_skipped_ones_are_not_sent(server) -> None:
    batches = engine(server.url).generate(
        [sample("a"), sample("b")],
        Sampling(num_generations=3, seed=10),
        skip={("a", 1), ("b", 0), ("b", 2)},
    )
    assert sorted((r.id, r.generation_index) for batch in batches for r in batch) == [
        ("a", 0),
        ("a", 2),
        ("b", 1),
    ]
    assert sorted(body["seed"] for body in server.bodies) == [10, 11, 12]


def test_replies_are_yielded_as_they_arrive(server) -> None:
    late = asyncio.Event()

    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        if body["messages"][1]["content"] == "late":
            await late.wait()
        return completion(body["messages"][1]["content"])

    server.handler = handler
    replies = engine(server.url, concurrency=2).generate(
        [sample("a", "late", ()), sample("b", "soon", ())], Sampling()
    )
    assert next(replies)[0].id == "b"
    server.call(late.set)
    assert [r.id for r in next(replies)] == ["a"]
    assert list(replies) == []


def test_no_more_requests_are_in_flight_than_allowed(server) -> None:
    all_active = asyncio.Event()

    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        if server.active == 3:
            all_active.set()
        await all_active.wait()
        return completion("ok")

    server.handler = handler
    assert len(answers(server.url, [sample(str(i)) for i in range(12)], concurrency=3)) == 12
    assert server.max_active == 3


def test_a_server_that_accepts_few_requests_gets_fewer(server) -> None:
    """It refuses what goes beyond four: many refusals at first, and in the end an answer to
    everything.
    """
    rejected = []

    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        if server.active > 4:
            rejected.append(body)
            return web.Response(status=429, headers={"Retry-After": "0.01"})
        await asyncio.sleep(0.002)
        return completion("ok")

    server.handler = handler
    replies = answers(
        server.url, [sample(str(i), "?", ()) for i in range(400)], concurrency=32, retries=8
    )
    assert {reply.text for reply in replies} == {"ok"} and len(replies) == 400
    assert len(rejected) < 400


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_gets_the_request_again(server, status: int) -> None:
    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        if len(server.bodies) < 3:
            return web.Response(status=status, headers={"Retry-After": "0"})
        return completion("at last")

    server.handler = handler
    assert [r.text for r in answers(server.url, [sample("a")])] == ["at last"]
    assert len(server.bodies) == 3


def test_tries_are_bounded_and_a_refusal_is_not_repeated(server) -> None:
    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        return web.json_response(
            {"error": {"message": "too\nlong", "code": "too_long"}},
            status=400 if body["messages"][1]["content"] == "long" else 500,
        )

    server.handler = handler
    long, busy_gpus = answers(server.url, [sample("a", "long", ()), sample("b", "busy", ())])
    assert (long.text, long.error) == (None, "HTTP status 400: too_long")
    assert busy_gpus.error == "HTTP status 500: too_long"
    assert len(server.bodies) == 1 + 3


async def garbage(request: web.Request, body: dict) -> web.StreamResponse:
    return web.Response(text="<html>proxy</html>")


async def wrong_shape(request: web.Request, body: dict) -> web.StreamResponse:
    return web.json_response({"choices": []})


async def surrogate_escape(request: web.Request, body: dict) -> web.StreamResponse:
    return web.Response(text='{"choices": [{"message": {"content": "\\ud800"}}]}')


async def truncated_body(request: web.Request, body: dict) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def endless_body(request: web.Request, body: dict) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(bytes(1 << 20))
    return response


async def no_answer(request: web.Request, body: dict) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def redirect(request: web.Request, body: dict) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("handler", "error", "tries"),
    [
        (garbage, "not a chat completion", 2),
        (wrong_shape, "not a chat completion", 2),
        (surrogate_escape, "not a chat completion", 2),
        (truncated_body, "the connection broke", 2),
        (endless_body, "longer than 8 MB", 1),
        (no_answer, "no answer within", 2),
        (redirect, "HTTP status 302", 1),
    ],
)
def test_a_faulty_server_fails_one_sample_not_the_run(
    server, handler, error: str, tries: int
) -> None:
    async def faulty_for_a(request: web.Request, body: dict) -> web.StreamResponse:
        return (
            await handler(request, body)
            if body["messages"][1]["content"] == "a"
            else completion("fine")
        )

    server.handler = faulty_for_a
    bad, good = answers(
        server.url,
        [sample("a", "a", ()), sample("b", "b", ())],
        retries=1,
        timeout_s=0.2 if handler is no_answer else 5.0,
    )
    assert bad.text is None and error in (bad.error or "") and good.text == "fine"
    assert len(server.bodies) == tries + 1


def test_a_null_reply_is_empty_not_an_error(server) -> None:
    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        return completion(None, "length")

    server.handler = handler
    (reply,) = answers(server.url, [sample("a")])
    assert (reply.text, reply.finish, reply.error) == ("", "length", None)


def test_an_unreadable_image_is_an_error_reply_and_nothing_is_sent(server, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encode_png(PIXELS)[:40])
    replies = answers(
        server.url, [sample("a", images=[Image(path=str(tmp_path / "cut.png"))]), sample("b")]
    )
    assert "cut.png cannot be decoded" in (replies[0].error or "") and replies[1].text == "ok"
    assert len(server.bodies) == 1


def test_images_of_a_shard_are_sent(server, tmp_path: Path) -> None:
    rows = [
        (Sample(str(i), (user_turn("?", 1),), (IMAGE_4X4,)), [encode_png(PIXELS + i)])
        for i in range(5)
    ]
    write_dataset(tmp_path / "d", "d", rows, RunCard("test", {}))
    assert [r.text for r in answers(server.url, list(read_dataset(tmp_path / "d")))] == ["ok"] * 5
    assert (
        len({body["messages"][0]["content"][0]["image_url"]["url"] for body in server.bodies}) == 5
    )


def test_answers_that_came_with_the_refusal_of_the_key_are_kept(server) -> None:
    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        return (
            completion("ok")
            if body["messages"][1]["content"] != "last"
            else web.Response(status=401)
        )

    server.handler = handler
    received: list[Reply] = []
    with pytest.raises(EngineError, match="refuses the key"):
        for batch in engine(server.url, concurrency=1).generate(
            [sample("a", "?", ()), sample("b", "last", ())], Sampling()
        ):
            received += batch
    assert [reply.text for reply in received] == ["ok"]


def test_a_request_that_waits_for_another_try_holds_no_slot(server) -> None:
    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        prompt = body["messages"][1]["content"]
        if prompt == "first" and len(server.bodies) < 4:
            return web.Response(status=500, headers={"Retry-After": "0.05"})
        return completion(prompt)

    server.handler = handler
    samples = [sample("a", "first", ()), *(sample(name, name, ()) for name in "bcd")]
    replies = [
        r
        for batch in engine(server.url, concurrency=1).generate(samples, Sampling())
        for r in batch
    ]
    assert sorted(reply.id for reply in replies) == ["a", "b", "c", "d"]
    assert [body["messages"][1]["content"] for body in server.bodies][:2] == ["first", "b"]


def test_an_address_without_a_server_is_one_clear_error() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(
        EngineError, match=rf"127.0.0.1:{port}/v1 does not answer .*start the server"
    ):
        answers(f"http://127.0.0.1:{port}/v1", [sample(str(i)) for i in range(4)])


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses the key"), (403, "refuses the key"), (404, "does not know the model 'tiny'")],
)
def test_an_endpoint_that_refuses_everything_is_one_clear_error(
    server, status: int, message: str
) -> None:
    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"bad key {KEY}"}}, status=status)

    server.handler = handler
    with pytest.raises(EngineError, match=message) as caught:
        answers(server.url, [sample(str(i)) for i in range(4)])
    assert KEY not in str(caught.value)
    assert len(server.bodies) <= 4


def test_key_and_question_never_reach_an_error_a_repr_or_a_name(server) -> None:
    question = "Has Ms Canary of Elm Street a fracture?"

    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        kind = body["messages"][1]["content"][-1]["text"]
        echoed = {
            question: kind,
            "key": f"your key {KEY} is poor",
            "image": body["messages"][1]["content"][0]["image_url"]["url"],
        }[kind]
        return web.json_response({"error": {"message": echoed}}, status=422)

    server.handler = handler
    loaded = engine(server.url)
    replies = [
        r
        for batch in loaded.generate(
            [sample("a", question), sample("b", "key"), sample("c", "image")], Sampling()
        )
        for r in batch
    ]
    output = repr((loaded, replies, loaded.server, EngineOptions(api_key=KEY)))
    assert KEY not in output and "Canary" not in output and "iVBOR" not in output
    assert {r.error for r in replies} == {"HTTP status 422"}


def test_closing_the_generator_ends_the_thread(server) -> None:
    async def handler(request: web.Request, body: dict) -> web.StreamResponse:
        if body["messages"][1]["content"] != "a":
            await asyncio.Event().wait()
        return completion("ok")

    server.handler = handler
    replies = engine(server.url).generate([sample(name, name, ()) for name in "abcd"], Sampling())
    assert next(replies)[0].id == "a"
    replies.close()
    assert not [t for t in threading.enumerate() if t.name == "lingshu-http"]


def test_it_works_inside_a_running_event_loop(server) -> None:
    async def notebook() -> list[Reply]:
        return answers(server.url, [sample("a")])

    assert asyncio.run(notebook())[0].text == "ok"


def test_a_bug_while_making_a_body_is_raised_not_swallowed(server) -> None:
    broken = Sample("a", (Message("user", (5, "no such image")),))
    with pytest.raises(IndexError):
        answers(server.url, [broken])


def test_a_private_sample_is_not_sent_away() -> None:
    private = Sample("p", (user_turn("?", 0),), meta=Meta(access="private"))
    with pytest.raises(DataPolicyError, match=r"'p' may not go to https://example\.invalid/v1"):
        list(engine("https://example.invalid/v1").generate([private], Sampling()))


@pytest.mark.parametrize(
    "model", ["http://host/v1", "ftp://host/v1#m", "http:///v1#m", "host/v1#m"]
)
def test_an_address_that_cannot_be_used_is_refused(model: str) -> None:
    with pytest.raises(InputError, match=r"http\(s\)://host"):
        openai.load(model, EngineOptions())


def test_secrets_in_an_address_or_a_damaged_key_are_refused_and_not_repeated() -> None:
    for model in (
        "https://user:canary@host/v1#m",
        "https://host/v1?api-key=canary#m",
        "https://user:canary@host/v1",
    ):
        with pytest.raises(InputError) as caught:
            openai.load(model, EngineOptions())
        assert "canary" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        openai.load("https://host/v1#m", EngineOptions(api_key="canary\r\nX-Evil: 1"))
    assert "canary" not in str(caught.value)


def test_the_key_comes_from_the_options_else_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment\n")
    assert Endpoint.__dataclass_fields__["api_key"].repr is False
    for options, key in (
        (EngineOptions(), "from-environment"),
        (EngineOptions(api_key="given"), "given"),
    ):
        loaded = openai.load("http://127.0.0.1:1/v1/#m", options)
        assert isinstance(loaded, openai.OpenAIEngine)
        assert loaded.server.api_key == key and loaded.endpoint == "http://127.0.0.1:1/v1"


def test_the_digest_is_of_address_and_name() -> None:
    digests = {
        openai.load(model, EngineOptions()).digest
        for model in ("http://a/v1#m", "http://a/v1#n", "http://b/v1#m", "http://a/v1/#m")
    }
    assert len(digests) == 3


def test_failed_attempts_are_reported_with_the_reply(server) -> None:
    async def truncated_once(request: web.Request, body: dict) -> web.StreamResponse:
        return await truncated_body(request, body) if len(server.bodies) == 1 else completion("ok")

    server.handler = truncated_once
    assert [
        (reply.text, reply.failed_attempts)
        for reply in answers(server.url, [sample("a", images=())], retries=1)
    ] == [("ok", 1)]
    server.handler = truncated_body
    (reply,) = answers(server.url, [sample("a", images=())], retries=0)
    assert reply.text is None and reply.failed_attempts == 1


def test_log_probabilities_are_requested_and_absent_ones_are_none(server) -> None:
    options = EngineOptions(api_key=KEY, retries=0, timeout_s=5.0, top_log_probs=20)
    loaded = openai.load(f"{server.url}#tiny", options)
    ((reply,),) = list(loaded.generate([sample("a")], Sampling()))
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, 20)
    assert (reply.text, reply.log_prob, reply.answer_tokens) == ("ok", None, ())


@pytest.mark.parametrize(
    ("log_probs", "expected"),
    [
        (
            {"content": [{"token": "ok", "logprob": -0.5, "top_logprobs": [{"token": "no", "logprob": -2}]}]},
            (TokenLogProbs("ok", -0.5, {"no": -2.0}),),
        ),
        ({"content": [{"token": "ok", "logprob": -0.5}]}, (TokenLogProbs("ok", -0.5, {}),)),
        ({"content": [{"token": "ok"}]}, ()),
        ({"content": None}, ()),
        ([], ()),
    ],
)  # fmt: skip
def test_log_probabilities_of_a_choice_are_read_or_left_out(log_probs, expected) -> None:
    body = {"choices": [{"message": {"content": "ok"}, "logprobs": log_probs}]}
    parsed = parse_chat_response(json.dumps(body).encode())
    assert parsed is not None and parsed.log_probs == expected
