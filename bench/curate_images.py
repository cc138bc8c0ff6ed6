"""How fast images become signatures: `lingshu curate` compared with plain decoding, datatrove,
Ray Data and Data-Juicer.

`python bench/curate_images.py [FOLDER] [PEERS]`: FOLDER keeps the 20,000 rendered images (made at
the first run); PEERS holds environments named datatrove, ray and data_juicer with those packages,
numpy, pyarrow and opencv. Peers that are not there are left out. Everything runs one after another
on two processes; the measure is CPU time of the whole process tree.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from _images import write
from _record import record, table

COUNT = 20_000
PEER_SCRIPT = Path(__file__).parent / "_curate_peers.py"
ROUNDS = 3


class Measurement(NamedTuple):
    """Rows, seconds of wall and of CPU, and the largest memory of the process tree in MB
    (proportional set size).
    """

    rows: int
    wall_s: float
    cpu_s: float
    peak_mb: float

    @property
    def per_cpu_s(self) -> float:
        return COUNT / self.cpu_s


class ProcessUsage(NamedTuple):
    """What a process tree used so far: memory now in MB (proportional set size), and CPU seconds of
    each process seen.
    """

    memory_mb: float
    cpu_s: dict[int, float]


def process_usage(root: int, ticks: int) -> ProcessUsage:
    """A process and all below it.

    Processes that nobody waits for are in no other count, as those of a fork server.
    """
    children: dict[int, list[int]] = {}
    cpu_used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            cpu_used[int(entry.name)] = (int(fields[11]) + int(fields[12])) / ticks
    left, total, found = [root], 0.0, {}
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        found[pid] = cpu_used.get(pid, 0.0)
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
        except (OSError, StopIteration):
            continue
    return ProcessUsage(total, found)


def measure(engine: str, images: Path, bits: int, python: str) -> Measurement:
    """Run one engine in a separate process."""
    out = Path(tempfile.mkdtemp(prefix="curate-bench-"))
    for path in images.rglob("*.*g"):
        # who comes first after a pause would pay for what the system had put aside
        path.read_bytes()
    try:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [python, str(PEER_SCRIPT), engine, str(images), str(out / "out"), str(bits)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        peak_values, cpu_by_pid, ticks = [0.0], dict[int, float](), os.sysconf("SC_CLK_TCK")

        def poll_usage() -> None:
            while process.poll() is None:
                now = process_usage(process.pid, ticks)
                peak_values[0] = max(peak_values[0], now.memory_mb)
                cpu_by_pid.update(now.cpu_s)
                time.sleep(0.25)

        watcher = threading.Thread(target=poll_usage)
        watcher.start()
        stdout = process.communicate()[0]
        watcher.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            raise SystemExit(f"{engine} ended with {process.returncode}")
        report = json.loads(stdout.strip().splitlines()[-1])
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Measurement(
            report["rows"], report["seconds"], max(cpu, sum(cpu_by_pid.values())), peak_values[0]
        )
    finally:
        shutil.rmtree(out, ignore_errors=True)


def main() -> None:
    images = write(
        (
            Path(sys.argv[1])
            if len(sys.argv) > 1
            else Path(tempfile.gettempdir()) / "lingshu-bench-images"
        ),
        COUNT,
    )
    peers = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    plan = [
        ("decode", 0, sys.executable),
        ("ours", 64, sys.executable),
        ("ours", 256, sys.executable),
        ("whole", 256, sys.executable),
    ]
    for name in ("datatrove", "datatrove_plain", "ray", "ray_plain", "data_juicer"):
        python = peers / name.removesuffix("_plain") / "bin" / "python" if peers else None
        if python and python.exists():
            plan.append((name, 64, str(python)))
    best: dict[tuple[str, int], Measurement] = {}
    for number in range(ROUNDS):
        for engine, bits, python in plan:
            if number and engine == "data_juicer":
                continue
            found = measure(engine, images, bits, python)
            print(engine, bits, found, flush=True)
            if (engine, bits) not in best or found.cpu_s < best[engine, bits].cpu_s:
                best[engine, bits] = found
    baseline = best["decode", 0]
    lingshu_run = best["ours", 64]
    rows = [
        [
            LABELS[engine],
            str(bits or "-"),
            f"{found.per_cpu_s:,.0f}",
            f"{baseline.cpu_s / found.cpu_s:.2f}",
            f"{found.cpu_s / lingshu_run.cpu_s:.2f}",
            f"{found.wall_s:.1f}",
            f"{found.peak_mb:.0f}",
        ]
        for (engine, bits), found in best.items()
    ]
    header = [
        "engine",
        "bits",
        "images per CPU-second",
        "relative to plain decoding",
        "CPU time / lingshu (64 bits)",
        "seconds",
        "peak MB",
    ]
    size = sum(path.stat().st_size for path in images.rglob("*") if path.is_file()) / 1e9
    body = (
        f"{COUNT:,} drawn images ({size:.1f} GB, two thirds JPEG, one third PNG, sides of 64 to"
        f" 1024 pixels), two processes, best of {ROUNDS} by CPU time (Data-Juicer: one run), each"
        " after the files were read once. Read, size filter, hash, rows on disk; the last row of"
        " lingshu also decides and writes the images that are kept. lingshu also stores a"
        " checksum of the"
        f" pixels and a reason for each drop. Load average at the end {os.getloadavg()[0]:.1f}.\n\n"
        + table(header, rows)
    )
    record("curate_images", "Images to signatures", body)
    print(body)


LABELS = {
    "decode": "decode only (OpenCV, gray)",
    "ours": "lingshu curate, to the signatures",
    "whole": "lingshu curate, to the DATASET with its images",
    "datatrove": "datatrove LocalPipelineExecutor, lingshu's hash function",
    "datatrove_plain": "datatrove LocalPipelineExecutor, the hash by OpenCV's functions",
    "ray": "Ray Data map_batches, lingshu's hash function",
    "ray_plain": "Ray Data map_batches, the hash by OpenCV's functions",
    "data_juicer": "Data-Juicer (image_shape_filter, image_deduplicator)",
}

if __name__ == "__main__":
    main()
