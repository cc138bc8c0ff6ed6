"""The client of OpenAI-compatible servers: wall time compared with a bare loop, CPU and memory
compared with two peers, memory as tasks grow.

python bench/client.py [--peers FOLDER [--install]] [--rounds N]

A stub server in a separate process waits 50 ms and gives 429 or 500 to 1% of the tries;
everything is on 127.0.0.1. Peers are looked for in FOLDER/inspect_ai and FOLDER/lm_eval,
environments that --install makes; those that are not there are passed over with a line that says
so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Timer
from typing import NamedTuple
from urllib.request import Request, urlopen

from _record import record, table
from _stand_in import fake_server

HERE = Path(__file__).parent
# Torch goes first and alone, so that a CPU wheel that pip is configured to find is taken.
PEERS = {
    "inspect_ai": (["inspect_ai", "openai"],),
    "lm_eval": (["torch==2.13.0"], ["lm_eval[api]"]),
}
WORK = ((1000, 10, 1.1), (1000, 50, 1.1), (10_000, 200, 1.25))
LONGEST_S = 900.0
SIZES = (1000, 10_000, 100_000)


class RunCost(NamedTuple):
    """What a process took: seconds of its asking alone where it says so, else in all; CPU seconds;
    peak memory.
    """

    seconds: float
    cpu: float
    megabytes: float


def run(command: list[str], url: str, *, secret: bool = False) -> RunCost:
    """Run a client to its end and forget what the server counted."""
    with urlopen(Request(f"{url}/counts", method="DELETE")) as answer:
        answer.read()
    settings = {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"} if secret else {}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **settings}
        )
        assert process.stdout is not None
        bound = Timer(LONGEST_S, process.kill)
        bound.start()
        stdout = process.stdout.read().decode()
        bound.cancel()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read().decode()[-2000:]}")
    report = json.loads(stdout.splitlines()[-1]) if stdout.strip().endswith("}") else {}
    with urlopen(f"{url}/counts") as answer:
        assert len(json.load(answer)) == int(command[-3]), "not every question was answered"
    return RunCost(
        report.get("seconds", time.perf_counter() - started),
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
    )


def client(client_name: str, url: str, count: int, concurrency: int) -> RunCost:
    with tempfile.TemporaryDirectory() as folder:
        return run(
            [
                sys.executable,
                str(HERE / "_clients.py"),
                client_name,
                url,
                str(count),
                str(concurrency),
                folder,
            ],
            url,
        )


def peer(python: Path, client_name: str, url: str, count: int, concurrency: int) -> RunCost:
    with tempfile.TemporaryDirectory() as folder:
        return run(
            [
                str(python),
                str(HERE / "_peers.py"),
                client_name,
                url,
                str(count),
                str(concurrency),
                folder,
            ],
            url,
            secret=True,
        )


def compare_with_bare_loop(url: str, rounds: int) -> list[list[str]]:
    """Alternating runs; the fastest of each, because what else the machine does only ever adds."""
    rows = []
    for count, concurrency, bar in WORK:
        costs_by_client: dict[str, list[RunCost]] = {"bare": [], "ours": []}
        for _ in range(rounds):
            for client_name, costs in costs_by_client.items():
                costs.append(client(client_name, url, count, concurrency))
        bare, lingshu_run = (
            min(cost.seconds for cost in costs_by_client[client_name])
            for client_name in ("bare", "ours")
        )
        cpu = [
            min(cost.cpu for cost in costs_by_client[client_name])
            for client_name in ("bare", "ours")
        ]
        rows.append(
            [
                f"{count:,}",
                str(concurrency),
                f"{bare:.2f}",
                f"{lingshu_run:.2f}",
                f"{lingshu_run / bare:.2f}",
                f"{bar}",
                f"{cpu[0]:.2f}",
                f"{cpu[1]:.2f}",
            ]
        )
        print(" ".join(rows[-1]), flush=True)
    return rows


def compare_with_peers(url: str, folder: Path | None, *, install: bool) -> list[list[str]]:
    """The whole process of each, start, scoring and report or log included, for 1,000 and 10,000
    questions at 50 at once.
    """
    rows = []
    for count in (1000, 10_000):
        costs = {"lingshu eval": client("eval", url, count, 50)}
        for name, packages in PEERS.items():
            python = (folder or Path()) / name / "bin" / "python"
            if folder and install and not python.exists():
                subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
                for group in packages:
                    subprocess.run(
                        [str(python), "-m", "pip", "install", "--quiet", *group], check=True
                    )
            if folder is None or not python.exists():
                print(f"{name} is not installed and passed over; give --peers FOLDER --install")
                continue
            version_command = f"from importlib.metadata import version; print(version({name!r}))"
            version = subprocess.run(
                [str(python), "-c", version_command], capture_output=True, text=True, check=True
            ).stdout.strip()
            costs[f"{name} {version}"] = peer(python, name, url, count, 50)
        for name, cost in costs.items():
            rows.append(
                [
                    f"{count:,}",
                    name,
                    f"{cost.seconds:.1f}",
                    f"{cost.cpu:.1f}",
                    f"{cost.megabytes:.0f}",
                ]
            )
            print(" ".join(rows[-1]), flush=True)
    return rows


def scaling_with_tasks() -> list[list[str]]:
    """Peak memory of asking, samples in a list or on the disk; the server waits 5 ms, so that this
    ends soon.
    """
    rows = []
    with fake_server(delay=0.005, failing=0.01) as url:
        for count in SIZES:
            from_disk, in_memory = client("spooled", url, count, 50), client("ours", url, count, 50)
            rows.append([f"{count:,}", f"{from_disk.megabytes:.0f}", f"{in_memory.megabytes:.0f}"])
            print(" ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", help="not needed here; every measurement may be handed one"
    )
    parser.add_argument("--peers", type=Path, help="folder with the peers' environments")
    parser.add_argument(
        "--install", action="store_true", help="make the environments that are not there"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with fake_server(delay=0.05, failing=0.01) as url:
        loops = compare_with_bare_loop(url, given.rounds)
        peers = compare_with_peers(url, given.peers, install=given.install)
    memory = scaling_with_tasks()
    body = [
        (
            "Against a stub server in a separate process (50 ms per reply; 1% of attempts get"
            " 429 or"
            " 500). The bare loop is aiohttp with as many workers and the same retries, and"
            f" keeps its replies in a list; lingshu writes each to disk. Fastest of {given.rounds}"
            " alternating runs; seconds of the requests alone, CPU seconds of the whole process."
        ),
        table(
            [
                "questions",
                "concurrency",
                "bare loop (s)",
                "lingshu (s)",
                "ratio",
                "target",
                "bare loop CPU (s)",
                "lingshu CPU (s)",
            ],
            loops,
        ),
        (
            "Whole processes on the same questions, 50 at a time, from start to report or log; one"
            " run each, so the wall time depends on the load of the machine:"
        ),
        table(["questions", "client", "wall (s)", "CPU (s)", "peak memory (MB)"], peers),
        "Peak memory of the client (MB), 50 requests at a time, 5 ms per reply:",
        table(["samples", "samples on disk", "samples in a list"], memory),
    ]
    record("client", "Client of a model server", "\n\n".join(body))


if __name__ == "__main__":
    main()
