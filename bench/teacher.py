"""The client of a teacher model: requests per CPU-second compared with the vendor's SDK, the cache and
whether the budget holds.

python bench/teacher.py [--peers FOLDER [--install]] [--rounds N]

A stub server in a separate process on 127.0.0.1 waits 50 ms and answers a JSON object; 2% of
the tries get 429, 1% of the answers break off, 0.5% of the connections are closed. The SDK is
looked for in FOLDER/openai, an environment that --install makes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.request import Request, urlopen

from _record import record, table
from _stand_in import JSON_TOKENS, fake_server

HERE = Path(__file__).parent
COUNT, CONCURRENCY = 2000, 64
PACKAGES = ["openai>=3,<4"]
BUDGET_TOKENS = 60_000
FAULTS = ("--json", "--malformed", "0.01", "--dropped", "0.005")


class ClientRun(NamedTuple):
    """What a client told of its asking, and how many answers the server gave it."""

    seconds: float
    cpu: float
    n_usable: int
    rejected: int
    tokens: int
    answers: int

    @property
    def per_cpu_second(self) -> float:
        return COUNT / self.cpu


def run(python: str, client_name: str, url: str, folder: Path, *tokens: str) -> ClientRun:
    with urlopen(Request(f"{url}/counts", method="DELETE")) as answer:
        answer.read()
    command = [
        python,
        str(HERE / "_teacher_clients.py"),
        client_name,
        url,
        str(COUNT),
        str(CONCURRENCY),
        str(folder),
        *tokens,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{client_name} failed:\n{done.stderr[-2000:]}")
    with urlopen(f"{url}/counts") as answer:
        counts = json.load(answer)
    client_run = ClientRun(**json.loads(done.stdout.splitlines()[-1]), answers=sum(counts.values()))
    print(client_name, *tokens, client_run, flush=True)
    return client_run


def environment(folder: Path | None, *, install: bool) -> tuple[str, str] | None:
    """The interpreter with the SDK and its version."""
    python = (folder or Path()) / "openai" / "bin" / "python"
    if folder and install and not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "openai")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    if folder is None or not python.exists():
        print("the SDK is not installed and passed over; give --peers FOLDER --install")
        return None
    version_command = "from importlib.metadata import version; print(version('openai'))"
    return (
        str(python),
        subprocess.run(
            [str(python), "-c", version_command], capture_output=True, text=True, check=True
        ).stdout.strip(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", help="not needed here; every measurement may be handed one"
    )
    parser.add_argument("--peers", type=Path, help="folder with the peer's environment")
    parser.add_argument(
        "--install", action="store_true", help="make the environment where it is not there"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sdk = environment(given.peers, install=given.install)
    names = {"fresh": "lingshu, empty cache", "cached": "lingshu, all replies cached"}
    found: dict[str, list[ClientRun]] = {name: [] for name in (*names, *(["sdk"] if sdk else []))}
    with fake_server(delay=0.05, failing=0.02, faults=FAULTS) as url:
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory() as folder:
                found["fresh"].append(run(sys.executable, "ours", url, Path(folder)))
                found["cached"].append(run(sys.executable, "ours", url, Path(folder)))
                if sdk:
                    found["sdk"].append(run(sdk[0], "sdk", url, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            bounded = run(sys.executable, "ours", url, Path(folder), str(BUDGET_TOKENS))
    serve_vllm = bounded.answers * sum(JSON_TOKENS)
    assert all(
        client_run.n_usable + client_run.rejected == COUNT
        for runs in found.values()
        for client_run in runs
    )
    assert all(client_run.answers == 0 for client_run in found["cached"])
    assert serve_vllm <= bounded.tokens <= BUDGET_TOKENS
    names |= {"sdk": f"openai {sdk[1]}"} if sdk else {}
    base = median(client_run.per_cpu_second for client_run in found["sdk"]) if sdk else None
    rows = []
    for name, runs in found.items():
        rate = median(client_run.per_cpu_second for client_run in runs)
        ratio = f"{rate / base:.1f}" if base else ""
        rows.append(
            [
                names[name],
                f"{runs[0].n_usable:,} + {runs[0].rejected}",
                f"{median(r.seconds for r in runs):.1f}",
                f"{rate:,.0f}",
                ratio,
            ]
        )
    body = [
        (
            f"{COUNT:,} captions as JSON objects, {CONCURRENCY} at a time, from a stub server in"
            " a separate process (50 ms per reply; 2% of attempts get 429, 1% of replies are cut"
            " off,"
            " 0.5% of connections are closed). CPU seconds (user and system) of the requests"
            f" alone, imports excluded; median of {given.rounds} alternating runs. lingshu stores"
            " every reply on disk and enforces a token budget; the SDK has the same number of"
            " concurrent requests, the same retries and the same check of the reply, and stores"
            " nothing."
        ),
        table(
            [
                "client",
                "usable + rejected",
                "wall (s)",
                "requests per CPU-second",
                "ratio to the SDK",
            ],
            rows,
        ),
        (
            f"With a budget of {BUDGET_TOKENS:,} tokens: {bounded.n_usable:,} usable replies,"
            f" {bounded.rejected:,} rejected. {bounded.tokens:,} tokens are counted; the"
            f" server's replies hold {serve_vllm:,}, including those of closed connections, which"
            " report no usage and are counted with their maximum."
        ),
    ]
    record("teacher", "Client of a teacher model", "\n\n".join(body))


if __name__ == "__main__":
    main()
