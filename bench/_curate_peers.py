"""One engine over one folder of images: read, size filter, perceptual hash, parquet. Run by
curate_images.py, each in a separate process.

Engines that take a function are measured with two: the hash of search/image_hash.py, and the
same hash by OpenCV's functions. `python _curate_peers.py ENGINE FOLDER OUT BITS` prints the number
of rows and seconds as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

WORKERS = 2
MIN_SIDE = 48


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))


def decode_only(path: str) -> int:
    """The lower bound of every engine: read the file and decode it to gray."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    return int(pixels.shape[0])


def signatures() -> ModuleType:
    """Our own module of hashes, which needs nothing else of this package: environments of peers do
    not hold it.
    """
    if "signatures" in sys.modules:
        return sys.modules["signatures"]
    file = Path(__file__).parents[1] / "src/lingshu/search/image_hash.py"
    spec = importlib.util.spec_from_file_location("signatures", file)
    assert spec and spec.loader
    module = sys.modules["signatures"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opencv_hash(gray, bits: int) -> bytes:
    """The hash as one writes it with OpenCV's own functions, which round the small picture."""
    import cv2
    import numpy as np

    low = 16 if bits == 256 else 8
    small = cv2.resize(gray, (4 * low, 4 * low), interpolation=cv2.INTER_AREA)
    flat = cv2.dct(small.astype(np.float32))[:low, :low].ravel()
    return np.packbits(flat > np.median(flat)).tobytes()


def hash_row(path: str, bits: int, plain: bool) -> dict:
    """One row: name, size and hash (`plain`: by OpenCV's functions, else by ours), or None where
    the image is too small.
    """
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    gray = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    height, width = gray.shape
    if min(height, width) < MIN_SIDE:
        return {"path": path, "width": width, "height": height, "hash": None}
    image_hash = (
        opencv_hash(gray, bits)
        if plain
        else signatures().perceptual_hash(gray, bits=bits).tobytes()
    )
    return {"path": path, "width": width, "height": height, "hash": image_hash}


def decode(folder: Path, out: Path, bits: int) -> int:  # noqa: ARG001 - it writes and hashes nothing
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        return sum(1 for _ in pool.imap_unordered(decode_only, files(folder), chunksize=64))


def lingshu_run(folder: Path, out: Path, bits: int) -> int:
    """The passes of `lingshu curate` to the decision: shards of rows with their signatures."""
    from lingshu.core.progress import NoProgress
    from lingshu.curate.executors import ProcessBackend
    from lingshu.curate.runner import CurationRun

    backend = ProcessBackend(WORKERS)
    try:
        run = CurationRun(configuration(folder, bits), out, backend, progress=NoProgress())
        done = run.compute_signatures()
    finally:
        backend.close()
    return done


def configuration(folder: Path, bits: int):
    from lingshu.curate.config import CurateConfig, Source, StepConfig

    source = Source(
        "images", "folders", str(folder), {"labels": False}, license="CC0-1.0", access="open"
    )
    steps = (
        StepConfig("size", "image_size", {"min_side": MIN_SIDE}),
        StepConfig("dedup", "image_dedup", {"bits": bits, "radius": 8 if bits == 256 else 0}),
    )
    return CurateConfig("bench", (source,), steps, workers=WORKERS)


def full_pipeline(folder: Path, out: Path, bits: int) -> int:
    """All of `lingshu curate`: also the decision, and a DATASET with the images that stay inside."""
    from lingshu.curate.run import curate

    return curate(configuration(folder, bits), out).card.rows


def datatrove(folder: Path, out: Path, bits: int, *, plain: bool = False) -> int:
    from datatrove.data import Document  # type: ignore[import-not-found]
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
    from datatrove.pipeline.base import PipelineStep  # type: ignore[import-not-found]
    from datatrove.pipeline.writers import ParquetWriter  # type: ignore[import-not-found]

    names = files(folder)

    class Images(PipelineStep):
        def run(self, data=None, rank: int = 0, world_size: int = 1):  # noqa: ARG002 - the interface of its pipeline steps
            for path in names[rank::world_size]:
                row = hash_row(path, bits, plain)
                if row["hash"] is not None:
                    yield Document(text=path, id=path, metadata={**row, "hash": row["hash"].hex()})

    LocalPipelineExecutor(
        [Images(), ParquetWriter(str(out))], tasks=8, workers=WORKERS, logging_dir=str(out / "log")
    ).run()
    return len(names)


def ray(folder: Path, out: Path, bits: int, *, plain: bool = False) -> int:
    import pyarrow as pa
    import ray  # type: ignore[import-not-found]

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level=40)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def sign(table: pa.Table) -> pa.Table:
        rows = [hash_row(path, bits, plain) for path in table["path"].to_pylist()]
        return pa.Table.from_pylist([row for row in rows if row["hash"] is not None])

    names = files(folder)
    data = ray.data.from_arrow(pa.table({"path": names})).repartition(16)
    data.map_batches(sign, batch_format="pyarrow", batch_size=512).write_parquet(str(out))
    ray.shutdown()
    return len(names)


def data_juicer(folder: Path, out: Path, bits: int) -> int:  # noqa: ARG001 - its hash has 64 bits
    from data_juicer.config import init_configs  # type: ignore[import-not-found]
    from data_juicer.core import DefaultExecutor  # type: ignore[import-not-found]

    names = files(folder)
    out.mkdir(parents=True, exist_ok=True)
    rows = out / "in.jsonl"
    rows.write_text("".join(json.dumps({"text": "", "images": [name]}) + "\n" for name in names))
    recipe = out / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "dataset_path": str(rows),
                "export_path": str(out / "out.jsonl"),
                "np": WORKERS,
                "use_cache": False,
                "open_tracer": False,
                "process": [
                    {"image_shape_filter": {"min_width": MIN_SIDE, "min_height": MIN_SIDE}},
                    {"image_deduplicator": {"method": "phash"}},
                ],
            }
        )
    )
    DefaultExecutor(init_configs(["--config", str(recipe)])).run()
    return len(names)


ENGINES = {
    "decode": decode,
    "ours": lingshu_run,
    "whole": full_pipeline,
    "datatrove": datatrove,
    "datatrove_plain": partial(datatrove, plain=True),
    "ray": ray,
    "ray_plain": partial(ray, plain=True),
    "data_juicer": data_juicer,
}


def main() -> None:
    engine, folder, out, bits = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    started = time.monotonic()
    count = ENGINES[engine](folder, out, bits)
    # Data-Juicer turns what is printed into its log; the result goes past it.
    print(
        "\n" + json.dumps({"rows": count, "seconds": time.monotonic() - started}),
        file=sys.__stdout__,
        flush=True,
    )


if __name__ == "__main__":
    main()
