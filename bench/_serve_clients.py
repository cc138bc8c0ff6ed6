"""Clients of a chat completions server, in a process of their own: python _serve_clients.py URL
MODEL CLIENTS ROUNDS TOKENS [stream]

Each client asks ROUNDS questions one after the other, all of them at the same time as the other
clients. Prints a JSON object: seconds, reply tokens, and the wait for the first byte of each reply.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp


async def ask(
    client: aiohttp.ClientSession, url: str, body: dict[str, object]
) -> tuple[int, float]:
    """Reply tokens, and seconds to the first byte."""
    started = time.perf_counter()
    async with client.post(f"{url}/chat/completions", json=body) as answer:
        first = await answer.content.readany()
        first_token_s = time.perf_counter() - started
        data = first + await answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {data[:300]!r}")
    if not body.get("stream"):
        return json.loads(data)["usage"]["completion_tokens"], first_token_s
    events = [
        json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: {")
    ]
    return next(
        e["usage"]["completion_tokens"] for e in reversed(events) if e.get("usage")
    ), first_token_s


async def measure(
    url: str, model: str, clients: int, rounds: int, tokens: int, *, stream: bool
) -> dict[str, object]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as client:

        async def run_client(number: int) -> list[tuple[int, float]]:
            found = []
            for turn in range(rounds):
                text = f"Is there a lesion in image {number} of {turn}? Describe it."
                body: dict[str, object] = {
                    "model": model,
                    "messages": [{"role": "user", "content": text}],
                    "max_tokens": tokens,
                }
                # Hot draws: a model that says its end token at once would measure nothing.
                body |= {"temperature": 2.0, "seed": 1000 * number + turn, "stream": stream}
                if stream:
                    body["stream_options"] = {"include_usage": True}
                found.append(await ask(client, url, body))
            return found

        started = time.perf_counter()
        done = [
            pair
            for found in await asyncio.gather(*map(run_client, range(clients)))
            for pair in found
        ]
        seconds = time.perf_counter() - started
    latencies = sorted(wait for _, wait in done)
    return {
        "seconds": seconds,
        "tokens": sum(count for count, _ in done),
        "first": latencies[len(latencies) // 2],
        "replies": len(done),
    }


if __name__ == "__main__":
    url, model, clients, rounds, tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    print(
        json.dumps(
            asyncio.run(
                measure(url, model, clients, rounds, tokens, stream="stream" in sys.argv[6:])
            )
        )
    )
