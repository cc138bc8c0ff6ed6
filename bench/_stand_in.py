"""A stand-in for a model behind an address: a chat-completions server on 127.0.0.1 that waits, sometimes fails, and counts.

python bench/_stand_in.py --delay 0.05 --failing 0.01      prints its address, serves until it is stopped

POST /v1/chat/completions   answers "yes" after the delay; a share of the tries gets 429 or 500 instead. Which ones is
                            decided by the question and how often it was asked, so that every client meets the same.
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

ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "stand-in",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
    }
).encode()
REFUSED = {429: b'{"error": {"message": "too many requests"}}', 500: b'{"error": {"message": "internal error"}}'}


class StandIn:
    """Answers and counts; `failing` is the share of tries that get 429 or 500, half and half."""

    def __init__(self, delay: float, failing: float) -> None:
        self.delay, self.failing = delay, failing
        self.tries: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/counts":
            if request.method == "DELETE":
                self.tries.clear()
                self.answered.clear()
            return web.json_response(self.answered)
        asked = question(json.loads(await request.read()))
        self.tries[asked] += 1
        await asyncio.sleep(self.delay)
        drawn = zlib.crc32(f"{asked}|{self.tries[asked]}".encode()) / 2**32
        if drawn < self.failing:
            status = 429 if drawn < self.failing / 2 else 500
            return web.Response(status=status, body=REFUSED[status], content_type="application/json")
        self.answered[asked] += 1
        return web.Response(body=ANSWER, content_type="application/json")


def question(body: dict) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def serve(delay: float, failing: float) -> None:
    runner = web.ServerRunner(web.Server(StandIn(delay, failing).handle, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


@contextmanager
def stand_in(*, delay: float, failing: float) -> Iterator[str]:
    """The address of a stand-in in a process of its own, for the length of a `with`."""
    import subprocess
    import sys

    command = [sys.executable, __file__, "--delay", str(delay), "--failing", str(failing)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before an answer")
    parser.add_argument("--failing", type=float, default=0.01, help="share of tries that get 429 or 500")
    given = parser.parse_args()
    asyncio.run(serve(given.delay, given.failing))
