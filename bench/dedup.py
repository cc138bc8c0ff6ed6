"""Image signatures and the search for near-duplicates among them, compared with faiss' binary
multi-hash index.

    python bench/dedup.py [DATA] [--peers FOLDER] [--install] [--largest ROWS]

FOLDER/faiss is an environment of its own. All times are processor time of one process and one
thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _record import record, table

PEER = "faiss-cpu"
RADIUS = 8
SETTINGS = ((16, 16), (8, 32))  # bands and bits of each
ROWS = 1_000_000


# Run in a process of its own, so that its peak memory is that of the search.
SEARCH = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[2])
import numpy as np
from dedup import plant_copies
from lingshu.search.hamming import pairs_within

hashes, origin = plant_copies(int(sys.argv[1]))
start = time.process_time()
pairs = pairs_within(hashes, 8)
seconds = time.process_time() - start
found = pairs.left << 32 | pairs.right
expected = origin << 32 | np.arange(len(hashes) - len(origin), len(hashes))
recall = float(np.isin(expected, found).mean())
memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps([len(hashes) / seconds, recall, memory_mb, pairs.overflow.pairs]))
"""


def plant_copies(rows: int, seed: int = 0):
    """256-bit hashes; every eleventh is a copy of another with 0 to 8 bits turned.

    Returns them and the originals of the copies.
    """
    import numpy as np

    pick = np.random.default_rng(seed)
    base = pick.integers(0, 256, (rows - rows // 11, 32), dtype=np.uint8)
    origin = pick.choice(len(base), rows // 11, replace=False)
    duplicates = base[origin]
    n_flipped = pick.integers(0, RADIUS + 1, len(duplicates))
    for times in range(RADIUS):
        chosen = np.flatnonzero(n_flipped > times)
        bit = pick.integers(0, 256, len(chosen))
        duplicates[chosen, bit // 8] ^= (1 << (bit % 8)).astype(np.uint8)
    return np.concatenate([base, duplicates]), origin


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def faiss_search(file: str, n_queries: int) -> None:
    """In the peer's environment: hashes a second of adding all rows and searching each within the
    radius, and recall.
    """
    import faiss  # pyright: ignore[reportMissingImports]
    import numpy as np

    faiss.omp_set_num_threads(1)
    hashes, origin = np.load(file), np.load(file.replace(".npy", ".origin.npy"))
    queries = np.ascontiguousarray(hashes[-n_queries:])
    result = {"version": faiss.__version__, "runs": []}
    for count, bits in SETTINGS:
        index = faiss.IndexBinaryMultiHash(256, count, bits)
        adding = cpu(lambda index=index: index.add(hashes))
        start = time.process_time()
        # Its radius is exclusive.
        limits, _, found = index.range_search(queries, RADIUS + 1)
        searching = (time.process_time() - start) * len(hashes) / n_queries
        expected = origin[-n_queries:]
        right = sum(
            int(expected[row]) in found[limits[row] : limits[row + 1]] for row in range(n_queries)
        )
        result["runs"].append(
            {"rate": len(hashes) / (adding + searching), "recall": right / n_queries}
        )
    print(json.dumps(result))


def peer(python: Path, rows: int) -> dict:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hashes.npy"
        hashes, origin = plant_copies(rows)
        np.save(file, hashes)
        np.save(file.with_suffix(".origin.npy"), origin)
        command = [str(python), __file__, "--as", "faiss", str(file)]
        return json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
                -1
            ]
        )


def lingshu_run(rows: int) -> tuple[float, float, int]:
    """Hashes a second, recall of the planted copies, and peak memory (MB)."""
    command = [sys.executable, "-c", SEARCH, str(rows), str(Path(__file__).parent)]
    rate, recall, memory, n_omitted = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    assert n_omitted == 0
    return rate, recall, memory


def equal_hashes(rows: int) -> tuple[float, float]:
    """64 bits at radius 0: hashes a second of ours, and of numpy's unique, which must give the same
    groups.
    """
    import numpy as np

    from lingshu.search.hamming import first_occurrence

    hashes = plant_copies(rows)[0][:, :8].copy()
    start = time.process_time()
    first = first_occurrence(hashes)
    spent = time.process_time() - start
    start = time.process_time()
    _, index, inverse = np.unique(
        hashes.view(np.uint64).ravel(), return_index=True, return_inverse=True
    )
    peer_run = time.process_time() - start
    assert (first == index[inverse]).all()
    return rows / spent, rows / peer_run


def signatures() -> list[list[str]]:
    """Images a second: decoding to gray, and what is computed from the image, on pictures of
    several sizes.
    """
    import cv2
    import numpy as np

    from lingshu.search.image_hash import file_digest, perceptual_hash, pixel_digest

    cv2.setNumThreads(1)
    pick, rows = np.random.default_rng(0), []
    for side in (64, 256, 512, 1024):
        grays = [
            cv2.resize(pick.integers(0, 256, (16, 16), dtype=np.uint8), (side, side))
            for _ in range(48)
        ]
        noisy_images = [
            np.asarray(cv2.add(gray, pick.integers(0, 12, gray.shape, dtype=np.uint8)), np.uint8)
            for gray in grays
        ]
        files = [
            cv2.imencode(".jpg" if i % 2 else ".png", gray)[1].tobytes()
            for i, gray in enumerate(noisy_images)
        ]
        work: dict[str, Callable[[], object]] = {
            "decode": lambda files=files: [
                cv2.imdecode(np.frombuffer(f, np.uint8), cv2.IMREAD_GRAYSCALE) for f in files
            ],
            "64": lambda noisy_images=noisy_images: [
                perceptual_hash(n, bits=64) for n in noisy_images
            ],
            "256": lambda noisy_images=noisy_images: [
                perceptual_hash(n, bits=256) for n in noisy_images
            ],
            "file": lambda files=files: [file_digest(f) for f in files],
            "pixels": lambda noisy_images=noisy_images: [pixel_digest(n) for n in noisy_images],
        }
        throughputs = [
            len(files) * 5 / min(cpu(lambda w=w: [w() for _ in range(5)]) for _ in range(5))
            for w in work.values()
        ]
        rows.append([f"{side} x {side}", *(f"{rate:,.0f}" for rate in throughputs)])
        print(" ".join(rows[-1]), flush=True)
    return rows


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
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument(
        "--as", dest="as_peer", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.as_peer:
        return faiss_search(given.as_peer[1], 20_000)
    rows, throughputs = [], {}
    for count in (ROWS, given.largest):
        rate, recall, memory = lingshu_run(count)
        throughputs[count] = rate
        rows.append(
            [
                "lingshu, 9 bands of 28 or 29 bits",
                f"{count:,}",
                f"{rate:,.0f}",
                f"{recall:.4f}",
                f"{memory:,}",
            ]
        )
        print(" ".join(rows[-1]), flush=True)
    python = (given.peers or Path()) / "faiss" / "bin" / "python"
    ratio = ""
    if given.peers and given.install and not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(given.peers / "faiss")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", PEER, "numpy"], check=True)
    if given.peers and python.exists():
        peer_result = peer(python, ROWS)
        for (count, bits), run in zip(SETTINGS, peer_result["runs"], strict=True):
            name = f"faiss {peer_result['version']} IndexBinaryMultiHash, {count} of {bits} bits"
            rows.append([name, f"{ROWS:,}", f"{run['rate']:,.0f}", f"{run['recall']:.4f}", "–"])
            print(" ".join(rows[-1]), flush=True)
        times = [throughputs[given.largest] / run["rate"] for run in peer_result["runs"]]
        ratio = (
            f" At {given.largest:,} lingshu has **{times[0]:.0f} times** the throughput of faiss"
            " with 16"
            f" bands of 16 bits on {ROWS:,}, and **{times[1]:.0f} times** that with 8 bands"
            " of 32."
        )
    else:
        print("faiss is not installed and passed over; give --peers FOLDER --install")
    equal = equal_hashes(given.largest)
    body = [
        (
            "Random 256-bit hashes, one in eleven a copy with 0 to 8 bits flipped; every pair"
            f" within 8 bits is searched.{ratio}"
        ),
        table(["search", "hashes", "hashes per CPU-second", "recall", "peak memory (MB)"], rows),
        (
            f"64-bit hashes at radius 0, {given.largest:,} of them: {equal[0]:,.0f} per CPU-second,"
            f" numpy.unique {equal[1]:,.0f}; the groups are identical."
        ),
        "Signatures, images per CPU-second; half JPEG, half PNG, reading from disk excluded:",
        table(
            [
                "image",
                "decode to gray",
                "64-bit hash",
                "256-bit hash",
                "digest of the file",
                "digest of the pixels",
            ],
            signatures(),
        ),
    ]
    record("dedup", "Image deduplication", "\n\n".join(body))
    return None


if __name__ == "__main__":
    main()
