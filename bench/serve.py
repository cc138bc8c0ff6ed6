"""The server: throughput at 16 clients compared with one client and with `transformers serve`, and what
it does under attack.

python bench/serve.py [--peer PYTHON] [--rounds N]

The model is a tiny one of the Qwen2.5-VL family with random weights, so that replies are long.
PYTHON is the interpreter of an environment with `transformers[serving]`. Without torchvision the
peer opens no vision-language model, so it serves the language model of the same checkpoint (same
layers and weights); questions are without images. Everything is on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from _record import record, table

HERE = Path(__file__).parent
TOKENS = 100
START_S = 300.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a separate process, once it answers."""
    # One thread for each server: a tiny model gains nothing by a second, which the clients need.
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=one) as process,
    ):
        try:
            end = time.monotonic() + START_S
            while status(port, "/health") not in (200, 404):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(
                        f"{' '.join(command)} does not answer:\n{log.read().decode()[-2000:]}"
                    )
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def lingshu_run(model: str, port: int, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "lingshu",
        "serve",
        model,
        "--port",
        str(port),
        "--name",
        "tiny",
        *more,
    ]


def peer_run(python: Path, model: str, port: int, *more: str) -> list[str]:
    return [
        str(python.parent / "transformers"),
        "serve",
        model,
        "--port",
        str(port),
        "--device",
        "cpu",
        *more,
    ]


def status(port: int, path: str, body: bytes | None = None) -> int | None:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        with urlopen(
            Request(f"http://127.0.0.1:{port}{path}", body, headers), timeout=30
        ) as answer:
            answer.read()
            return answer.status
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return None


def clients(port: int, model: str, count: int, rounds: int, *more: str) -> dict[str, float]:
    command = [
        sys.executable,
        str(HERE / "_serve_clients.py"),
        f"http://127.0.0.1:{port}/v1",
        model,
        str(count),
        str(rounds),
        str(TOKENS),
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout)


def random_model(folder: Path) -> None:
    """A checkpoint of the Qwen2.5-VL family in small."""
    from lingshu.core.run_card import RunCard
    from lingshu.models.export import export
    from lingshu.models.model_spec import PixelBudget, TinyModel
    from lingshu.models.tiny import build_tiny

    corpus = [
        "Is there a lesion in this image? Describe it. yes no left right small large chest x-ray"
    ] * 4
    model, processor = build_tiny(TinyModel(), corpus, budget=PixelBudget(), seed=0)
    export(model, processor, folder, RunCard("bench", {}))


def language_model(model: Path, folder: Path) -> None:
    """The language model of a Qwen2.5-VL checkpoint as a checkpoint of its own (Qwen2), with the
    same tokenizer and template.
    """
    from safetensors.torch import load_file, save_file

    weights = {}
    for file in model.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            if ".language_model." in name:
                weights[name.replace("model.language_model.", "model.")] = tensor.contiguous()
            elif name.startswith("lm_head"):
                weights[name] = tensor.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())["text_config"]
    rope = {"rope_type": "default", "rope_theta": config["rope_parameters"]["rope_theta"]}
    config |= {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "rope_parameters": rope,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generation = json.loads((model / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation))
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(model / name, folder / name)
    words = json.loads((model / "tokenizer_config.json").read_text())
    words.pop("processor_class", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


def throughput(model: str, peer: Path | None, rounds: int) -> list[list[str]]:
    """Tokens a second of each server: one client, then sixteen; the fastest of three runs, because
    what else runs only adds.
    """
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        servers = {"lingshu serve": (lambda port: lingshu_run(model, port), "tiny", "")}
        servers["lingshu serve, streamed"] = (
            lambda port: lingshu_run(model, port),
            "tiny",
            "stream",
        )
        if peer is not None:
            language_model(Path(model), Path(folder))
            servers["transformers serve"] = (lambda port: peer_run(peer, folder, port), folder, "")
            servers["transformers serve --continuous-batching"] = (
                lambda port: peer_run(peer, folder, port, "--continuous-batching"),
                folder,
                "",
            )
        for name, (command, known, mode) in servers.items():
            port = free_port()
            try:
                with running(command(port), port):
                    clients(port, known, 2, 1, mode)
                    one = max(speed(clients(port, known, 1, rounds, mode)) for _ in range(3))
                    many = max(speed(clients(port, known, 16, rounds, mode)) for _ in range(3))
            except SystemExit as error:
                print(f"{name}: {error}", file=sys.stderr)
                rows.append([name, "failed", "failed", "-"])
                continue
            rows.append([name, f"{one:.0f}", f"{many:.0f}", f"{many / one:.1f}"])
            print(" ".join(rows[-1]), flush=True)
    return rows


def speed(found: dict[str, float]) -> float:
    return found["tokens"] / found["seconds"]


# In a separate process, so that it does not wait for the attackers' interpreter; it ends with its
# input.
PROBE = """
import http.client, json, select, sys, time
waits = []
while not select.select([sys.stdin], [], [], 0.02)[0]:
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    waits.append(time.perf_counter() - began)
print(json.dumps(sorted(waits)))
"""


class Health:
    """Asks /health again and again and keeps how long each answer took."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-c", PROBE, str(port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def stop(self) -> list[float]:
        stdout, _ = self._process.communicate("\n", timeout=60)
        return json.loads(stdout)


def memory_mb(process: subprocess.Popen[bytes], field: str) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def measure_under_load(model: str) -> list[list[str]]:
    """64 clients, each with its own kind of request, while slow-loris connections stand open;
    health is asked all the time.
    """
    port = free_port()
    with running(lingshu_run(model, port, "--max-queue-size", "32"), port) as process:
        clients(port, "tiny", 2, 1)
        before = memory_mb(process, "VmRSS")
        loris = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
        for wire in loris:
            wire.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        health, found = Health(port), []
        large = b"x" * (100 << 20)

        def send_bad_requests(number: int) -> None:
            for turn in range(4):
                kind = (number + turn) % 4
                if kind == 0 and number < 8:
                    found.append(("100 MB body", status(port, "/v1/chat/completions", large)))
                elif kind == 1:
                    found.append(
                        ("max_tokens 1e9", status(port, "/v1/chat/completions", question(10**9)))
                    )
                else:
                    found.append(
                        ("question", status(port, "/v1/chat/completions", question(TOKENS)))
                    )

        threads = [
            threading.Thread(target=send_bad_requests, args=(number,)) for number in range(64)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        latencies = health.stop()
        for wire in loris:
            wire.close()
        peak = memory_mb(process, "VmHWM")
        cancel_seconds = max(cancelled(port) for _ in range(5))
    counts = {pair: found.count(pair) for pair in sorted(set(found), key=str)}
    summary = ", ".join(f"{kind}: {code} x {count}" for (kind, code), count in counts.items())
    return [
        ["responses", summary],
        [
            "health, median / p99 / slowest of " + str(len(latencies)),
            " / ".join(
                f"{1000 * latencies[int(q * (len(latencies) - 1))]:.0f} ms"
                for q in (0.5, 0.99, 1.0)
            ),
        ],
        ["memory before / peak", f"{before:.0f} / {peak:.0f} MB"],
        [
            "time until a slot is free after its client disconnects, slowest of 5",
            f"{1000 * cancel_seconds:.0f} ms",
        ],
    ]


def question(tokens: int, *, stream: bool = False) -> bytes:
    fields = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Describe it."}],
        "max_tokens": tokens,
        "temperature": 2.0,
        "seed": 1,
    }
    return json.dumps({**fields, "stream": stream}).encode()


def cancelled(port: int) -> float:
    """Seconds from the closing of a connection in the middle of a reply to an engine that runs
    nothing.
    """
    body = question(900, stream=True)
    with socket.create_connection(("127.0.0.1", port)) as wire:
        head = (
            "POST /v1/chat/completions HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        )
        wire.sendall("\r\n".join((*head, "", "")).encode() + body)
        wire.recv(4096)
    started = time.perf_counter()
    while True:
        with urlopen(f"http://127.0.0.1:{port}/health") as answer:
            if json.load(answer)["running"] == 0:
                return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", help="not needed here; every measurement may be handed one"
    )
    parser.add_argument(
        "--peer", type=Path, help="python of an environment with transformers[serving]"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        random_model(model)
        rows = throughput(str(model), given.peer, given.rounds)
        load_results = measure_under_load(str(model))
    for row in load_results:
        print(*row, sep=": ", flush=True)
    body = [
        (
            f"A tiny random model, replies of up to {TOKENS} tokens at temperature 2: tokens per"
            f" second over all clients, each sending {given.rounds} questions in sequence;"
            " fastest of three runs, one CPU thread for each model. The peer serves the language"
            " model of the same checkpoint: without torchvision it cannot open a vision-language"
            " model."
        ),
        table(["server", "1 client", "16 clients", "ratio"], rows),
        (
            "64 clients with ordinary questions, bodies of 100 MB and max_tokens of 1e9, and 64"
            " connections that never finish sending their headers:"
        ),
        table(["measure", "value"], load_results),
    ]
    record("serve", "Serving", "\n\n".join(body))


if __name__ == "__main__":
    main()
