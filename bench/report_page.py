"""The report page: how soon it can be used in a browser, what writing it costs, and what the
thumbnails cost.

    python bench/report_page.py

Synthetic questions about synthetic 512 x 512 images, `echo` as the model. Each number is the median of
ROUNDS; processes with and without take turns. "Usable" is what the page itself measures from the
start of its loading until the list of samples stands and is filtered. Needs a Chromium.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _record import record, table
from PIL import Image as PIL

ROUNDS = 3
SIZES = (1_000, 10_000, 30_000)
# images behind the questions of the page, and behind as many questions for the pictures' cost
SHARED, SINGLE = 300, 1_000
REPLY = "The lungs are clear, the heart is of normal size and there is no pleural effusion. " * 4
# A process's own account of its memory: what the system tells its parent holds the parent's too.
RUN = """import re, sys; from lingshu.cli.main import main; code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr); raise SystemExit(code)"""
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
)


class RunCost(NamedTuple):
    """What a process took: CPU seconds, and its peak memory in MB."""

    cpu: float
    peak: float


def images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for i in range(count):
        coarse = PIL.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8))
        coarse.resize((512, 512), PIL.Resampling.BICUBIC).save(
            folder / "images" / f"{i}.jpg", quality=90
        )


def questions(folder: Path, count: int, n_images: int) -> None:
    rows = (
        {"id": f"q{i}", "question": f"What does image {i} show? {REPLY[:80]}", "answer": REPLY[: 40 + i % 280], "kind": "abcde"[i % 5],
         "image": f"images/{i % n_images}.jpg", "access": "open"}
        for i in range(count)
    )  # fmt: skip
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )


def lingshu(*arguments: str | Path) -> RunCost:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    stderr = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lingshu {arguments} failed:\n{stderr}")
    return RunCost(usage.ru_utime + usage.ru_stime, int(stderr.split()[-1]) / 1024)


def time_to_usable(chromium: str, page: Path, profile: Path) -> float:
    """Milliseconds until the list of samples can be used."""
    command = [chromium, *QUIET, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    found = re.search(r'data-usable="(\d+)"', dom)
    if not found:
        raise SystemExit(f"{page} did not become usable")
    return float(found[1])


def pages(folder: Path, chromium: str) -> list[list[str]]:
    """Per number of samples: the page's size, milliseconds until usable, CPU and memory of writing
    it with and without samples.
    """
    rows = []
    data = folder / "shared"
    images(data, SHARED)
    for count in SIZES:
        questions(data, count, SHARED)
        run = folder / f"run{count}"
        lingshu("eval", "echo", "vqa", "--data", data, "--out", run)
        instruct_without, with_images = [], []
        for _ in range(ROUNDS):
            instruct_without.append(lingshu("report", run, "--no-samples"))
            with_images.append(lingshu("report", run))
        page = run / "report.html"
        first_token_s = [
            time_to_usable(chromium, page, folder / f"profile{count}-{i}") for i in range(ROUNDS)
        ]
        row = [
            f"{median([cost.cpu for cost in costs]):.2f} /"
            f" {median([cost.peak for cost in costs]):.0f}"
            for costs in (with_images, instruct_without)
        ]
        rows.append(
            [
                f"{count:,}",
                f"{page.stat().st_size / 2**20:.1f}",
                f"{median(first_token_s):.0f}",
                *row,
            ]
        )
    return rows


def image_costs(folder: Path) -> list[list[str]]:
    """CPU and memory of an evaluation of as many questions as images, with the small pictures and
    without.
    """
    data = folder / "alone"
    images(data, SINGLE)
    questions(data, SINGLE, SINGLE)
    costs: dict[str, list[RunCost]] = {"with": [], "without": []}
    for i in range(ROUNDS):
        costs["with"].append(
            lingshu("eval", "echo", "vqa", "--data", data, "--out", folder / f"with{i}")
        )
        costs["without"].append(
            lingshu(
                "eval",
                "echo",
                "vqa",
                "--data",
                data,
                "--out",
                folder / f"without{i}",
                "--no-thumbnails",
            )
        )
    return [
        [
            name,
            f"{median([cost.cpu for cost in found]):.2f}",
            f"{median([cost.peak for cost in found]):.0f}",
        ]
        for name, found in costs.items()
    ]


median = statistics.median


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("a Chromium is needed to measure when a page can be used")
    with tempfile.TemporaryDirectory() as name:
        shown, kept = pages(Path(name), chromium), image_costs(Path(name))
    summary = (
        f"Synthetic questions about {SHARED} shared images, medians of {ROUNDS}. Usable:"
        " milliseconds from the start of loading until the list of samples is complete, in"
        " headless Chromium, from disk; the limit is 3,000 for 10,000 samples. Writing:"
        " CPU-seconds /"
        " peak MB of `lingshu report`, including the start of Python.\n\n"
    )
    summary += table(
        ["samples", "page (MB)", "usable (ms)", "writing it", "without samples"], shown
    )
    summary += (
        f"\n\nStoring thumbnails of {SINGLE:,} images of 512 x 512 pixels, one per question, in"
        " `lingshu eval echo`:\n\n"
    )
    summary += table(["thumbnails", "CPU (s)", "peak memory (MB)"], kept)
    print(summary)
    record("report_page", "The report page", summary)


if __name__ == "__main__":
    main()
