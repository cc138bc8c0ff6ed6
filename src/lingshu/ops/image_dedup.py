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

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Decision, Pixels, Signature, TableStep
from lingshu.ops._facts import answer, one_of, require, texts
from lingshu.ops._sets import Kept, column, split_groups

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


def step(
    *,
    bits: int = 256,
    radius: int = 8,
    series_guard: bool = True,
    unit: str = "image",
    across: str = "all",
    kinds: Sequence[str] = (),
) -> TableStep:
    """Keep one sample of each set of duplicates.

    Args:
        bits: length of the hash, 256 or 64.
        radius: bits in which duplicates may differ, 0 to 31 (of 64 bits 0 to 15). 0 is equality of
            hashes.
        series_guard: whether images of one series (`meta.extra["series"]`) are kept apart.
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
    one_of("image_dedup", "unit", unit, ("image", "image_text"))
    one_of("image_dedup", "across", across, ("all", "source"))

    nothing: Signature = dict.fromkeys(
        ("hash", "pixels", "files", "area", "caption", "series", "said")
    )

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        from lingshu.ops import _image_signature as signatures

        if not sample.images or (kinds and sample.meta.kind not in kinds):
            return nothing
        said = ""
        if unit == "image_text":
            from lingshu.ops._text_signature import normalised

            said = normalised("\n".join(texts(sample)))
        common = {"caption": answer(sample), "series": sample.meta.facet("series"), "said": said}
        first, *more = sample.images
        if more:
            return {
                **nothing,
                **common,
                "area": 0,
                "files": b"".join(
                    signatures.file_digest(pixels.bytes(image)) for image in sample.images
                ),
            }
        gray = pixels.gray(first)
        found = signatures.perceptual_hash(gray, bits=256 if bits == 256 else 64).tobytes()
        return {
            **nothing,
            **common,
            "hash": found,
            "pixels": signatures.pixel_digest(gray),
            "area": gray.size,
        }

    def decide(table: pa.Table) -> Decision:
        sets = table["files"].to_pylist()
        found = Kept(len(sets))
        compared = [row for row, value in enumerate(table["hash"].to_pylist()) if value is not None]
        told = {
            "images compared": len(compared),
            "merges refused within a series": 0,
            "pairs not compared": 0,
        }
        sources = column(table, "source", "") if across == "source" else [""] * len(sets)
        for name in sorted(set(sources)):
            rows = [row for row in compared if sources[row] == name]
            if not rows:
                continue
            groups, guarded, over = _groups(
                table, rows, bits=bits, radius=radius, guard=series_guard
            )
            told["merges refused within a series"] += guarded
            told["pairs not compared"] += over
            found.add(
                table, rows, split_groups(groups, [table["said"][row].as_py() for row in rows])
            )
        several = [row for row, value in enumerate(sets) if value is not None]
        found.add(
            table,
            several,
            split_groups(
                [0] * len(several),
                [(sources[row], sets[row], table["said"][row].as_py()) for row in several],
            ),
        )
        return Decision(*_outcome(table, found.keeper), told=told)

    return TableStep(sign, decide)


def _groups(
    table: pa.Table, rows: list[int], *, bits: int, radius: int, guard: bool
) -> tuple[NDArray[np.int64], int, int]:
    """For each of some rows the number of its group; how many merges the guard refused; pairs that
    the cap left out.
    """
    import numpy as np

    from lingshu.ops._buckets import groups
    from lingshu.ops._hamming import pairs_within
    from lingshu.ops._keepers import guarded_groups

    if not rows:
        return np.empty(0, np.int64), 0, 0
    part = table.select(["hash", "pixels", "series"]).take(rows)
    hashes = np.frombuffer(b"".join(part["hash"].to_pylist()), np.uint8).reshape(
        len(rows), bits // 8
    )
    pairs = pairs_within(hashes, radius)
    if not guard:
        return groups(pairs.left, pairs.right, rows=len(rows)), 0, pairs.over.pairs
    grouped = guarded_groups(pairs, part["series"].to_pylist(), part["pixels"].to_pylist())
    return grouped.group, grouped.guarded, pairs.over.pairs


def _outcome(
    table: pa.Table, keeper: NDArray[np.int64]
) -> tuple[dict[int, Drop], dict[int, dict[str, str]]]:
    from lingshu.ops._keepers import alternatives

    ids, pixels, files = (table[name].to_pylist() for name in ("id", "pixels", "files"))
    captions = [caption or "" for caption in table["caption"].to_pylist()]
    drops: dict[int, Drop] = {}
    for row, kept in enumerate(keeper.tolist()):
        if row != kept:
            equal = files[row] is not None or pixels[row] == pixels[kept]
            drops[row] = Drop(
                ids[row], "image_exact" if equal else "image_near", f"kept: {ids[kept]}"
            )
    others = alternatives(keeper, captions)
    return drops, {
        row: {"other_captions": json.dumps(told, ensure_ascii=False)}
        for row, told in others.items()
    }
