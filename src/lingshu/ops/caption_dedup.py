"""Caption deduplication across sources: corpora that were made from the same articles hold the same
figures.

The captioning corpora of the paper mostly come from PubMed Central, so one figure stands in several
of them, cropped or cut in parts, which no image hash finds; its caption tells. Captions of
different sources that are nearly equal (Jaccard similarity 0.9 of 5-word shingles) are one: those
of the best ranked source stay, all of them, the others go. Within one source nothing is dropped,
and a caption that one source repeats often is a phrase, not a figure, and is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Decision, Pixels, Signature, TableStep
from lingshu.ops._facts import answer, require
from lingshu.ops._quota import rows_by
from lingshu.ops._sets import column

if TYPE_CHECKING:
    import pyarrow as pa


def step(
    *,
    threshold: float = 0.9,
    min_words: int = 12,
    common: int = 5,
    kinds: Sequence[str] = ("caption",),
) -> TableStep:
    """Keep each caption in one source.

    Args:
        threshold: least Jaccard similarity, above 0 and at most 1.
        min_words: captions of fewer words are left alone: they may well be equal by chance.
        common: a caption that occurs more often than this in one source is left alone.
        kinds: values of `meta.kind` that are looked at; empty means all.

    Drops: caption_elsewhere.
    """
    require(
        0 < threshold <= 1,
        f"caption_dedup: threshold is {threshold}; it must be above 0 and at most 1.",
    )
    require(
        min_words >= 5,
        f"caption_dedup: min_words is {min_words}; it must be at least 5, the length of a shingle.",
    )
    require(common >= 1, f"caption_dedup: common is {common}; it must be at least 1.")

    def sign(sample: Sample, _: Pixels) -> Signature:
        from lingshu.ops._text_signature import words

        caption = answer(sample) if not kinds or sample.meta.kind in kinds else ""
        return {
            "caption": caption if len(words(caption)) >= min_words else None,
            "stated_source": sample.meta.source or "",
        }

    def decide(table: pa.Table) -> Decision:
        from lingshu.ops._buckets import groups
        from lingshu.ops._near_text import near_pairs
        from lingshu.ops._text_signature import tokens

        ids, captions = table["id"].to_pylist(), table["caption"].to_pylist()
        sources, ranks = (
            column(table, "source", "")
            if "source" in table.column_names
            else table["stated_source"].to_pylist(),
            column(table, "rank", 0),
        )
        rows = [row for row, caption in enumerate(captions) if caption is not None]
        pairs = near_pairs(tokens([captions[row] for row in rows]), threshold=threshold)
        drops: dict[int, Drop] = {}
        phrases = 0
        for places in rows_by(
            map(str, groups(pairs.left, pairs.right, rows=len(rows)).tolist())
        ).values():
            members = [rows[place] for place in places]
            counts = Counter(sources[row] for row in members)
            if max(counts.values()) > common:
                phrases += 1
            elif len(counts) > 1:
                best = min((ranks[row], sources[row]) for row in members)
                drops |= {
                    row: Drop(ids[row], "caption_elsewhere", f"kept: {best[1]}")
                    for row in members
                    if sources[row] != best[1]
                }
        return Decision(
            drops,
            told={
                "captions compared": len(rows),
                "phrases left alone": phrases,
                "pairs not compared": pairs.over.pairs,
            },
        )

    return TableStep(sign, decide)
