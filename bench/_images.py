"""Images for measurements of curation: look-alike families with planted duplicates, JPEG and PNG,
64 to 1024 pixels wide.

Drawn, not real: what they say about speed holds for files of their kind and size; what they say
about hashes is a rank order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

FAMILIES = 9
KINDS = ("exact", "encoded", "resized", "cropped")
Pixels = NDArray[np.uint8]


def base(number: int) -> Pixels:
    """A gray picture: the shape of its family, blobs of its own, and fine noise.

    Sides of 64 to 1024, all equally often, up to 1:2.
    """
    rng = np.random.default_rng([number, 1])
    longer, shape = int(rng.integers(128, 1025)), rng.uniform(0.5, 1)
    width, height = (longer, int(longer * shape)) if number % 2 else (int(longer * shape), longer)
    family = np.random.default_rng([number % FAMILIES, 2])
    coarse = family.normal(120, 50, (6, 6)) + rng.normal(0, 22, (6, 6))
    field = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(
        rng.normal(0, 12, (40, 40)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )
    grain = rng.integers(-3, 4, (height, width), np.int8)
    return np.clip(field + fine + grain, 0, 255).astype(np.uint8)


def encoded(pixels: Pixels, number: int, *, quality: int = 90) -> tuple[str, bytes]:
    """File ending and bytes: two of three are JPEG in color, the rest gray or color PNG."""
    color = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    if number % 3:
        return ".jpg", cv2.imencode(".jpg", color, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return ".png", cv2.imencode(
        ".png", color if number % 2 else pixels, [cv2.IMWRITE_PNG_COMPRESSION, 4]
    )[1].tobytes()


def copy(number: int, kind: str) -> tuple[str, bytes]:
    """A duplicate of picture `number`."""
    pixels, rng = base(number), np.random.default_rng([number, 3])
    if kind == "exact":
        return encoded(pixels, number)
    if kind == "encoded":
        return encoded(pixels, 1, quality=int(rng.integers(55, 85)))
    height, width = pixels.shape
    if kind == "resized":
        scale = rng.uniform(0.5, 0.9)
        small = cv2.resize(
            pixels,
            (max(32, int(width * scale)), max(32, int(height * scale))),
            interpolation=cv2.INTER_AREA,
        )
        return encoded(np.asarray(small, np.uint8), number)
    cut = rng.uniform(0.01, 0.05, 4)
    return encoded(
        pixels[
            int(height * cut[0]) : height - int(height * cut[1]),
            int(width * cut[2]) : width - int(width * cut[3]),
        ],
        number,
    )


def write(folder: Path, count: int) -> Path:
    """`count` images below a folder, 45% of them duplicates of others; a folder that has them
    already is kept.
    """
    done = folder / f"{count}.done"
    if done.exists():
        return folder
    bases = int(count * 0.55)
    for number in range(count):
        kind = "base" if number < bases else KINDS[number % len(KINDS)]
        suffix, data = (
            encoded(base(number), number) if kind == "base" else copy(number - bases, kind)
        )
        path = folder / f"{number // 1000:03d}" / f"{number:06d}-{kind}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done.touch()
    return folder


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
