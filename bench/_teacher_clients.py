"""The clients that bench/teacher.py compares, one run each in a separate process.

python bench/_teacher_clients.py ours|sdk URL COUNT CONCURRENCY FOLDER [TOKENS]

Prints {"seconds", "cpu", "good", "rejected", "tokens"}: wall and CPU seconds of the asking alone,
without imports. `sdk` is the vendor's client with as many requests at once, the same retries, and
the same checks; it needs nothing of this package, so that it runs in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RETRIES, TRIES, MAX_TOKENS = 5, 3, 64
TEXT = "Image {}: write one caption as a JSON object with caption, modality and findings."


@dataclass(frozen=True)
class Caption:
    caption: str
    modality: str
    findings: list[str]


def lingshu_run(
    url: str, count: int, concurrency: int, folder: Path, tokens: int | None
) -> dict[str, object]:
    """Calls over the engine that talks to servers: keys, cache on the disk, checks, retries,
    budget.
    """
    import aiohttp  # noqa: F401 - loaded before the clock starts, as for the other

    from lingshu.core.cached_client import Budget, CachedClient, Request, json_format
    from lingshu.core.messages import user_turn
    from lingshu.core.types import EngineOptions, Meta, Sample, Sampling
    from lingshu.engines import openai
    from lingshu.imaging.read import image_bytes

    engine = openai.load(f"{url}/v1#m", EngineOptions(concurrency=concurrency, retries=RETRIES))
    form = json_format(Caption)
    started = time.perf_counter(), time.process_time()
    samples = [
        Sample(str(n), (user_turn(TEXT.format(n), 0),), meta=Meta(access="open"))
        for n in range(count)
    ]
    with CachedClient(
        engine,
        folder,
        images=image_bytes,
        budget=Budget(tokens=tokens),
        max_attempts=TRIES,
        engine_retries=RETRIES,
    ) as calls:
        outcomes = calls.ask(
            [Request(sample, form) for sample in samples], Sampling(max_tokens=MAX_TOKENS)
        )
        spent = calls.usage.tokens
    took = time.perf_counter() - started[0], time.process_time() - started[1]
    n_usable = sum(outcome.value is not None for outcome in outcomes)
    assert all(outcome.value is not None or outcome.reject_reason for outcome in outcomes)
    return {
        "seconds": took[0],
        "cpu": took[1],
        "good": n_usable,
        "rejected": len(outcomes) - n_usable,
        "tokens": spent,
    }


def sdk(
    url: str,
    count: int,
    concurrency: int,
    folder: Path,  # noqa: ARG001
    tokens: int | None,  # noqa: ARG001
) -> dict[str, object]:
    """The vendor's client: no cache, no budget."""
    import pydantic
    from openai import AsyncOpenAI  # pyright: ignore[reportMissingImports]

    adapter = pydantic.TypeAdapter(Caption)
    found: list[Caption | None] = []

    async def ask(client: AsyncOpenAI, number: int) -> None:
        for attempt in range(TRIES):
            reply = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": TEXT.format(number)}],
                temperature=0.0 if not attempt else 0.5,
                top_p=1.0,
                max_tokens=MAX_TOKENS,
                seed=attempt,
            )
            try:
                found.append(
                    adapter.validate_json(reply.choices[0].message.content or "", strict=True)
                )
                return
            except pydantic.ValidationError:
                continue
        found.append(None)

    async def run() -> None:
        numbers = iter(range(count))
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=RETRIES) as client:

            async def worker() -> None:
                for number in numbers:
                    await ask(client, number)

            await asyncio.gather(*(worker() for _ in range(concurrency)))

    started = time.perf_counter(), time.process_time()
    asyncio.run(run())
    took = time.perf_counter() - started[0], time.process_time() - started[1]
    n_usable = sum(one is not None for one in found)
    return {
        "seconds": took[0],
        "cpu": took[1],
        "good": n_usable,
        "rejected": len(found) - n_usable,
        "tokens": 0,
    }


if __name__ == "__main__":
    client_name, url, count, concurrency, folder, *tokens = sys.argv[1:]
    client = {"ours": lingshu_run, "sdk": sdk}[client_name]
    print(
        json.dumps(
            client(
                url, int(count), int(concurrency), Path(folder), int(tokens[0]) if tokens else None
            )
        )
    )
