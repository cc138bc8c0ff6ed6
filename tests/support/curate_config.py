"""Sources and configurations for the tests of curation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lingshu.curate.config import CurateConfig, Source, StepConfig
from lingshu.imaging.read import encode_png

STEPS = str(Path(__file__).parent / "curate_steps.py")


def step_config(
    name: str, op: str = STEPS, sources: tuple[str, ...] = (), **params: object
) -> StepConfig:
    return StepConfig(name, op, params, sources)  # type: ignore[arg-type]


def write_rows(folder: Path, count: int, *, side: int = 64, **fields: object) -> Path:
    """A folder with `count` questions over images of their own."""
    folder.mkdir()
    lines = []
    for number in range(count):
        rng = np.random.default_rng(number)
        (folder / f"{number}.png").write_bytes(
            encode_png(rng.integers(0, 255, (side, side), np.uint8))
        )
        row = {
            "id": f"r{number:03d}",
            "question": f"Is it {number}?",
            "answer": "yes",
            "image": f"{number}.png",
            "access": "open",
            **fields,
        }
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def configure(
    path: Path, *steps: StepConfig, workers: int = 0, shard_rows: int = 4, **options: object
) -> CurateConfig:
    """A configuration over a folder of rows in shards of four, worked on in this process."""
    source = Source("mine", "jsonl", str(path), license="CC0-1.0")
    return CurateConfig("test", (source,), steps, shard_rows=shard_rows, workers=workers, **options)  # type: ignore[arg-type]
