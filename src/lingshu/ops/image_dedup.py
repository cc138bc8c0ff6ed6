"""Image deduplication, exact and perceptual: one sample of each set of duplicate images stays.

Default: 256-bit cosine-transform hash within 8 bits, which finds 99.7% of re-encoded and resized
copies without a false merge on look-alike scans; 64-bit hashes at distance 0, the paper's choice
(section 2.1.4), find 94% and merge some that differ (docs/benchmarks.md). Two images of one series
(neighboring slices) are never merged unless their pixels are equal. The sample that stays has the
largest image, then the longest caption, then the best ranked source; the captions of the others are
kept in its note `other_captions` (a JSON list).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Sample
from lingshu.ops import _sample_fields as fields
from lingshu.search import clusters
from lingshu.search.buckets import connected_components
from lingshu.search.hamming import pairs_within
from lingshu.search.image_hash import file_digest, perceptual_hash, pixel_digest
from lingshu.search.text_hash import normalize_text

_COLUMNS = ("hash", "pixels", "files", "area", "caption", "series", "text")


def step(
    *,
    bits: int = 256,
    radius: int = 8,
    protect_series: bool = True,
    unit: str = "image",
    across: str = "all",
    kinds: Sequence[str] = (),
) -> TableStep:
    """Keep one sample of each set of duplicates.

    Args:
        bits: length of the hash, 256 or 64.
        radius: bits in which duplicates may differ, 0 to 31 (of 64 bits 0 to 15). 0 requires equal
            hashes.
        protect_series: whether images of one series (`meta.extra["series"]`) are kept apart.
        unit: `image`: one sample for each image, as for captions; `image_text`: samples with
            different texts about one image all stay, as for questions.
        across: `all` compares all sources with each other, `source` each only with itself.
        kinds: values of `meta.kind` to compare; empty means all.

    Samples of several images are duplicates where all their files are equal, in order. Drops:
    image_exact (equal pixels), image_near.
    """
    fields.require(bits in (64, 256), f"image_dedup: bits is {bits}; choose 64 or 256.")
    fields.check_range("image_dedup", 0, 31 if bits == 256 else 15, radius=radius)
    fields.check_choice("image_dedup", "unit", unit, ("image", "image_text"))
    fields.check_choice("image_dedup", "across", across, ("all", "source"))

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        signature: dict[str, str | int | float | bytes | None] = dict.fromkeys(_COLUMNS)
        if not sample.images or (kinds and sample.meta.kind not in kinds):
            return signature
        text = (
            normalize_text("\n".join(fields.message_texts(sample))) if unit == "image_text" else ""
        )
        signature |= {"caption": fields.answer_text(sample), "text": text}
        signature["series"] = sample.meta.facet("series")
        image, *others = sample.images
        if others:
            digests = [file_digest(pixels.bytes(i)) for i in sample.images]
            return signature | {"area": 0, "files": b"".join(digests)}
        gray = pixels.gray(image)
        phash = perceptual_hash(gray, bits=256 if bits == 256 else 64).tobytes()
        return signature | {"hash": phash, "pixels": pixel_digest(gray), "area": gray.size}

    def decide(table: pa.Table) -> Decision:
        names = ("hash", "pixels", "files", "text")
        hashes, pixels, files, texts = (table[name].to_pylist() for name in names)
        sources = clusters.column(table, "source", "") if across == "source" else [""] * len(files)
        compared = [row for row, phash in enumerate(hashes) if phash is not None]
        duplicates, n_refused, n_skipped = clusters.DuplicateMap(len(files)), 0, 0
        for source in sorted(set(sources)):
            rows = [row for row in compared if sources[row] == source]
            if not rows:
                continue
            columns = table.select(["hash", "pixels", "series"]).take(rows)
            groups, skipped = _group_near(columns, bits // 8, radius, protect_series)
            n_refused, n_skipped = n_refused + groups.n_protected, n_skipped + skipped
            keys = [texts[row] for row in rows]
            duplicates.add(table, rows, clusters.split_groups(groups.group, keys))
        rows = [row for row, digests in enumerate(files) if digests is not None]
        keys = [(sources[row], files[row], texts[row]) for row in rows]
        duplicates.add(table, rows, clusters.split_groups([0] * len(rows), keys))
        stats = {
            "images compared": len(compared),
            "merges refused within a series": n_refused,
            "pairs not compared": n_skipped,
        }
        captions = [caption or "" for caption in table["caption"].to_pylist()]
        notes = {
            row: {"other_captions": json.dumps(others, ensure_ascii=False)}
            for row, others in clusters.alternative_captions(
                duplicates.representative, captions
            ).items()
        }

        def is_exact(row: int, kept: int) -> bool:
            return files[row] is not None or pixels[row] == pixels[kept]

        return Decision(duplicates.drops(table["id"].to_pylist(), "image", is_exact), notes, stats)

    return TableStep(sign, decide)


def _group_near(
    columns: pa.Table, n_bytes: int, radius: int, protect_series: bool
) -> tuple[clusters.DuplicateGroups, int]:
    """The groups of near images, and the pairs that were not compared."""
    phashes = np.frombuffer(b"".join(columns["hash"].to_pylist()), np.uint8).reshape(-1, n_bytes)
    pairs = pairs_within(phashes, radius)
    if protect_series:
        series, pixels = columns["series"].to_pylist(), columns["pixels"].to_pylist()
        groups = clusters.protected_groups(pairs, series, pixels)
    else:
        rows = connected_components(pairs.left, pairs.right, n_rows=len(phashes))
        groups = clusters.DuplicateGroups(rows, 0)
    return groups, pairs.overflow.pairs
