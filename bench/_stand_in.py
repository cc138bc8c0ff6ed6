"""A stand-in for a model behind an address: a chat-completions server on 127.0.0.1 that waits,
sometimes fails, and counts.

python bench/_stand_in.py --delay 0.05 --failing 0.01      prints its address, serves until it is stopped

POST /v1/chat/completions   answers "yes" after the delay; a share of the tries gets 429 or 500 instead. Which ones is
                            decided by the question and how often it was asked, so that every client
                            meets the same. With --json it answers a JSON object; then --malformed
                            breaks off a share of them in the middle, and --dropped closes that
                            share of the connections without an answer.
GET /counts                 {question: how often it was answered}; DELETE forgets all
"""

from __future__ import annotations

import argparse
import asyncio
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

CAPTION = (
    '{"caption": "A chest radiograph with a round opacity in the right upper lobe.", "modality":'
    ' "x-ray", "findings": ["opacity"]}'
)


def completion(text: str, prompt: int, reply: int) -> bytes:
    """A chat completion that says `text` and reports these tokens."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
    value = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "stand-in",
        "choices": [choice],
        "usage": usage,
    }
    return json.dumps(value).encode()


ANSWER = completion("yes", 7, 1)
JSON_TOKENS = 60, 30
JSON_ANSWER, JSON_BROKEN = completion(CAPTION, *JSON_TOKENS), completion(CAPTION[:50], *JSON_TOKENS)
REFUSED = {
    429: b'{"error": {"message": "too many requests"}}',
    500: b'{"error": {"message": "internal error"}}',
}


class FakeServer:
    """Answers and counts; `failing` is the share of tries that get 429 or 500, half and half (429
    alone with `json_`).
    """

    def __init__(
        self,
        delay: float,
        failing: float,
        *,
        json_: bool = False,
        malformed: float = 0.0,
        dropped: float = 0.0,
    ) -> None:
        self.delay, self.failing, self.json, self.malformed, self.dropped = (
            delay,
            failing,
            json_,
            malformed,
            dropped,
        )
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/counts":
            if request.method == "DELETE":
                self.attempts.clear()
                self.answered.clear()
            return web.json_response(self.answered)
        prompt = question(json.loads(await request.read()))
        self.attempts[prompt] += 1
        await asyncio.sleep(self.delay)
        sampled = zlib.crc32(f"{prompt}|{self.attempts[prompt]}".encode()) / 2**32
        if sampled < self.failing:
            status = 429 if self.json or sampled < self.failing / 2 else 500
            return web.Response(
                status=status, body=REFUSED[status], content_type="application/json"
            )
        if sampled < self.failing + self.dropped and request.transport is not None:
            request.transport.close()
        self.answered[prompt] += 1
        broken = sampled < self.failing + self.dropped + self.malformed
        body = ANSWER if not self.json else JSON_BROKEN if broken else JSON_ANSWER
        return web.Response(body=body, content_type="application/json")


def question(body: dict) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return (
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    )


async def serve(server: FakeServer) -> None:
    runner = web.ServerRunner(web.Server(server.handle, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


@contextmanager
def fake_server(*, delay: float, failing: float, faults: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a stub server in a separate process, for the length of a `with`."""
    import subprocess
    import sys

    command = [sys.executable, __file__, "--delay", str(delay), "--failing", str(failing), *faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before an answer")
    parser.add_argument(
        "--failing", type=float, default=0.01, help="share of tries that get 429 or 500"
    )
    parser.add_argument(
        "--json", action="store_true", help="answer a JSON object, and refuse with 429 only"
    )
    parser.add_argument(
        "--malformed", type=float, default=0.0, help="share of tries whose JSON breaks off"
    )
    parser.add_argument(
        "--dropped", type=float, default=0.0, help="share of tries whose connection is closed"
    )
    given = parser.parse_args()
    asyncio.run(
        serve(
            FakeServer(
                given.delay,
                given.failing,
                json_=given.json,
                malformed=given.malformed,
                dropped=given.dropped,
            )
        )
    )
