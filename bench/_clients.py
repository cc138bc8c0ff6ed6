"""The clients that bench/client.py compares, one run each in a separate process: ours, and a bare
aiohttp loop.

python bench/_clients.py ours|spooled|bare|eval URL COUNT CONCURRENCY FOLDER

Prints {"seconds"}, of the asking alone; `eval` is the whole of `lingshu eval` and prints what that
prints.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

RETRIES, BACKOFF_S = 5, 0.5


TEXT = (
    "Question {}: is there a focal lesion in the right upper lobe of this chest radiograph? Answer"
    " yes or no."
)


def text(number: int) -> str:
    return TEXT.format(number)


def bare_loop(url: str, count: int, concurrency: int, folder: Path) -> float:  # noqa: ARG001 - it stores nothing
    """As little as can be: workers over one session, the same retries, replies kept in a list."""
    import aiohttp

    replies: list[tuple[int, str]] = []

    async def ask(client: aiohttp.ClientSession, number: int) -> None:
        message = {"role": "user", "content": text(number)}
        body = {
            "model": "m",
            "messages": [message],
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 256,
            "seed": 0,
        }
        for attempt in range(RETRIES + 1):
            async with client.post(f"{url}/v1/chat/completions", json=body) as response:
                if response.status == 200:
                    replies.append(
                        (number, (await response.json())["choices"][0]["message"]["content"])
                    )
                    return
                await response.read()
            await asyncio.sleep(BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5))

    async def run() -> None:
        numbers = iter(range(count))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency)
        ) as client:

            async def worker() -> None:
                for number in numbers:
                    await ask(client, number)

            await asyncio.gather(*(worker() for _ in range(concurrency)))

    started = time.perf_counter()
    asyncio.run(run())
    assert len(replies) == count
    return time.perf_counter() - started


def lingshu_run(
    url: str, count: int, concurrency: int, folder: Path, *, from_disk: bool = False
) -> float:
    """What `lingshu eval` does to ask: keys, requests, retries, and every reply on the disk."""
    import aiohttp  # noqa: F401 - loaded before the clock starts, as for the other

    from lingshu.core.messages import user_turn
    from lingshu.core.types import EngineOptions, Meta, Provenance, Sample, Sampling, Task
    from lingshu.engines import openai
    from lingshu.evaluate.generate import generate
    from lingshu.evaluate.spool import DiskSamples
    from lingshu.imaging.read import image_bytes
    from lingshu.scoring import auto

    def build_samples() -> Iterator[Sample]:
        meta = Meta(access="open", kind="yes_no")
        return (
            Sample(f"s{number}", (user_turn(text(number), 0),), gold=("yes",), meta=meta)
            for number in range(count)
        )

    task = Task(
        "stand_in",
        "Stand-in",
        Provenance("made up", "CC0"),
        lambda _: build_samples(),
        auto.score,
        lambda _: [],
    )
    samples = DiskSamples(build_samples(), folder) if from_disk else list(build_samples())
    engine = openai.load(f"{url}/v1#m", EngineOptions(concurrency=concurrency, retries=RETRIES))
    started = time.perf_counter()
    done = generate(task, samples, engine, folder, sampling=Sampling(), images=image_bytes)
    assert done == (count, 0, count, 0), done
    return time.perf_counter() - started


TASK = '''"""The same questions as a task."""
from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Provenance, Sample, Task
from lingshu.scoring import auto

def samples(data):
    meta = Meta(access="open", kind="yes_no")
    return (Sample(f"s{{n}}", (user_turn(TEXT.format(n), 0),), gold=("yes",), meta=meta) for n in range({count}))

TEXT = {text!r}
TASK = Task("stand_in", "Stand-in", Provenance("made up", "CC0"), samples, auto.score, lambda seed: [])
'''


def run_evaluation(url: str, count: int, concurrency: int, folder: Path) -> int:
    from lingshu.cli.main import main as lingshu

    task = folder / "stand_in.py"
    task.write_text(TASK.format(count=count, text=TEXT), encoding="utf-8")
    return lingshu(
        [
            "eval",
            f"{url}/v1#m",
            str(task),
            "--out",
            str(folder / "out"),
            "--concurrency",
            str(concurrency),
        ]
    )


def main() -> None:
    client_name, url, count, concurrency, folder = sys.argv[1:]
    client_args = (url, int(count), int(concurrency), Path(folder))
    if client_name == "eval":
        sys.exit(run_evaluation(*client_args))
    run = {
        "ours": lingshu_run,
        "bare": bare_loop,
        "spooled": lambda *client_args: lingshu_run(*client_args, from_disk=True),
    }[client_name]
    print(json.dumps({"seconds": run(*client_args)}))


if __name__ == "__main__":
    main()
