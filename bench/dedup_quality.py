"""What the perceptual hashes find among planted duplicates, and what they would wrongly merge.

`python bench/dedup_quality.py [FOLDER]`: the images of bench/_images.py, drawn into FOLDER at the
first run. Nine families of look-alikes; of a picture there are the same bytes again, a re-encoded,
a smaller and a cropped copy.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from _images import KINDS, write
from _record import record, table

from lingshu.core.types import Image
from lingshu.imaging.cache import ImageCache
from lingshu.search.hamming import pairs_within
from lingshu.search.image_hash import perceptual_hash

COUNT = 20_000
WAYS: tuple[tuple[Literal[256, 64], int], ...] = ((256, 8), (64, 0), (64, 3), (64, 10))


def main() -> None:
    folder = write(
        (
            Path(sys.argv[1])
            if len(sys.argv) > 1
            else Path(tempfile.gettempdir()) / "lingshu-bench-images"
        ),
        COUNT,
    )
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    kinds = np.array([path.stem.split("-")[1] for path in files])
    numbers = np.array([int(path.stem.split("-")[0]) for path in files])
    # Copies are numbered on behind the originals, in the originals' order.
    numbers = np.where(kinds == "base", numbers, numbers - int((kinds == "base").sum()))
    image_cache = ImageCache()
    hashes: dict[Literal[256, 64], list[np.ndarray]] = {256: [], 64: []}
    for path in files:
        gray = image_cache.gray(Image(path=str(path)))
        for bits, found in hashes.items():
            found.append(perceptual_hash(gray, bits=bits))
    make_identifiers = Counter(str(kind) for kind in kinds)
    rows = []
    for bits, radius in WAYS:
        pairs = pairs_within(np.stack(hashes[bits]), radius)
        same = numbers[pairs.left] == numbers[pairs.right]
        # A copy is found where it and its original are a pair.
        original = (kinds[pairs.left] == "base") | (kinds[pairs.right] == "base")
        duplicate_kinds = np.where(
            kinds[pairs.left] == "base", kinds[pairs.right], kinds[pairs.left]
        )[same & original]
        found = Counter(str(kind) for kind in duplicate_kinds)
        core = [kind for kind in KINDS if kind != "cropped"]
        recall = sum(found[kind] for kind in core) / max(
            1, sum(make_identifiers[kind] for kind in core)
        )
        shares = [
            f"{found[kind] / make_identifiers[kind]:.3f}" if make_identifiers[kind] else "-"
            for kind in KINDS
        ]
        rows.append([f"{bits}, {radius}", *shares, f"{recall:.4f}", f"{int((~same).sum()):,}"])
        print(rows[-1], flush=True)
    header = [
        "bits, radius",
        *KINDS,
        "exact, re-encoded and resized together",
        "pairs of different images",
    ]
    body = (
        f"{len(files):,} drawn images, {make_identifiers['base']:,} of them originals in nine families of"
        " look-alikes. Share of the copies that are paired with their original, by"
        " transformation.\n\n" + table(header, rows)
    )
    record("dedup_quality", "What image deduplication finds", body)


if __name__ == "__main__":
    main()
