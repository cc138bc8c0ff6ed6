"""Image deduplication, exact and perceptual: one sample of each set of duplicate images stays.

Default: 256-bit cosine-transform hash within 8 bits, which finds 99.7 % of re-encoded and resized
copies without a false merge on look-alike scans; 64-bit hashes at distance 0, the paper's choice
(section 2.1.4), find 94 % and merge some that differ (docs/benchmarks.md). Two pictures of one
series (neighbouring slices) are never merged unless their pixels are equal. The sample that stays
has the largest image, then the longest caption, then the best ranked source; the captions of the
others are kept in its note `other_captions` (a JSON list).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text, check_choice, message_texts, require
from lingshu.search.disjoint_sets import DuplicateMap, column, split_groups

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


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
        radius: bits in which duplicates may differ, 0 to 31 (of 64 bits 0 to 15). 0 is equality of
            hashes.
        protect_series: whether images of one series (`meta.extra["series"]`) are kept apart.
        unit: `image`: one sample for each image, as for captions; `image_text`: samples that say
            different things about one image all stay, as for questions.
        across: `all` compares all sources with each other, `source` each with itself alone.
        kinds: values of `meta.kind` that are looked at; empty means all.

    Samples of several images are duplicates where all their files are equal, in order. Drops:
    image_exact (equal pixels), image_near.
    """
    require(bits in (64, 256), f"image_dedup: bits is {bits}; choose 64 or 256.")
    require(
        0 <= radius <= (31 if bits == 256 else 15),
        f"image_dedup: radius is {radius}; it must be 0 to {31 if bits == 256 else 15} for {bits}"
        " bits.",
    )
    check_choice("image_dedup", "unit", unit, ("image", "image_text"))
    check_choice("image_dedup", "across", across, ("all", "source"))

    empty_signature: Signature = dict.fromkeys(
        ("hash", "pixels", "files", "area", "caption", "series", "text")
    )

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        from lingshu.search import image_hash as signatures

        if not sample.images or (kinds and sample.meta.kind not in kinds):
            return empty_signature
        text = ""
        if unit == "image_text":
            from lingshu.search.text_hash import normalize_text

            text = normalize_text("\n".join(message_texts(sample)))
        shared_fields = {
            "caption": answer_text(sample),
            "series": sample.meta.facet("series"),
            "text": text,
        }
        first, *rest = sample.images
        if rest:
            return {
                **empty_signature,
                **shared_fields,
                "area": 0,
                "files": b"".join(
                    signatures.file_digest(pixels.bytes(image)) for image in sample.images
                ),
            }
        gray = pixels.gray(first)
        phash = signatures.perceptual_hash(gray, bits=256 if bits == 256 else 64).tobytes()
        return {
            **empty_signature,
            **shared_fields,
            "hash": phash,
            "pixels": signatures.pixel_digest(gray),
            "area": gray.size,
        }

    def decide(table: pa.Table) -> Decision:
        file_digests = table["files"].to_pylist()
        duplicates = DuplicateMap(len(file_digests))
        compared = [row for row, value in enumerate(table["hash"].to_pylist()) if value is not None]
        stats = {
            "images compared": len(compared),
            "merges refused within a series": 0,
            "pairs not compared": 0,
        }
        sources = column(table, "source", "") if across == "source" else [""] * len(file_digests)
        for name in sorted(set(sources)):
            rows = [row for row in compared if sources[row] == name]
            if not rows:
                continue
            groups, n_protected, n_skipped = _group_duplicates(
                table, rows, bits=bits, radius=radius, protect_series=protect_series
            )
            stats["merges refused within a series"] += n_protected
            stats["pairs not compared"] += n_skipped
            duplicates.add(
                table, rows, split_groups(groups, [table["text"][row].as_py() for row in rows])
            )
        multi_image_rows = [row for row, value in enumerate(file_digests) if value is not None]
        duplicates.add(
            table,
            multi_image_rows,
            split_groups(
                [0] * len(multi_image_rows),
                [
                    (sources[row], file_digests[row], table["text"][row].as_py())
                    for row in multi_image_rows
                ],
            ),
        )
        return Decision(*_drops_and_notes(table, duplicates.representative), stats=stats)

    return TableStep(sign, decide)


def _group_duplicates(
    table: pa.Table, rows: list[int], *, bits: int, radius: int, protect_series: bool
) -> tuple[NDArray[np.int64], int, int]:
    """For each of some rows the number of its group; how many merges the guard refused; pairs that
    the cap left out.
    """
    import numpy as np

    from lingshu.search.buckets import connected_components
    from lingshu.search.clusters import protected_groups
    from lingshu.search.hamming import pairs_within

    if not rows:
        return np.empty(0, np.int64), 0, 0
    columns = table.select(["hash", "pixels", "series"]).take(rows)
    hashes = np.frombuffer(b"".join(columns["hash"].to_pylist()), np.uint8).reshape(
        len(rows), bits // 8
    )
    pairs = pairs_within(hashes, radius)
    if not protect_series:
        return (
            connected_components(pairs.left, pairs.right, n_rows=len(rows)),
            0,
            pairs.overflow.pairs,
        )
    result = protected_groups(pairs, columns["series"].to_pylist(), columns["pixels"].to_pylist())
    return result.group, result.n_protected, pairs.overflow.pairs


def _drops_and_notes(
    table: pa.Table, representatives: NDArray[np.int64]
) -> tuple[dict[int, Drop], dict[int, dict[str, str]]]:
    from lingshu.search.clusters import alternative_captions

    ids, pixels, files = (table[name].to_pylist() for name in ("id", "pixels", "files"))
    captions = [caption or "" for caption in table["caption"].to_pylist()]
    drops: dict[int, Drop] = {}
    for row, representative in enumerate(representatives.tolist()):
        if row != representative:
            is_exact = files[row] is not None or pixels[row] == pixels[representative]
            drops[row] = Drop(
                ids[row],
                "image_exact" if is_exact else "image_near",
                f"kept: {ids[representative]}",
            )
    alternatives = alternative_captions(representatives, captions)
    return drops, {
        row: {"other_captions": json.dumps(stats, ensure_ascii=False)}
        for row, stats in alternatives.items()
    }
