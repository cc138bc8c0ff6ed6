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

from lingshu.core.quotas import group_rows
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text, require
from lingshu.search.disjoint_sets import column

if TYPE_CHECKING:
    import pyarrow as pa


def step(
    *,
    threshold: float = 0.9,
    min_words: int = 12,
    max_repeats: int = 5,
    kinds: Sequence[str] = ("caption",),
) -> TableStep:
    """Keep each caption in one source.

    Args:
        threshold: least Jaccard similarity, above 0 and at most 1.
        min_words: captions of fewer words are left alone: they may well be equal by chance.
        common: a caption that occurs more often than this in one source is left alone.
        kinds: values of `meta.kind` that are looked at; empty means all.

    Drops: caption_in_other_source.
    """
    require(
        0 < threshold <= 1,
        f"caption_dedup: threshold is {threshold}; it must be above 0 and at most 1.",
    )
    require(
        min_words >= 5,
        f"caption_dedup: min_words is {min_words}; it must be at least 5, the length of a shingle.",
    )
    require(max_repeats >= 1, f"caption_dedup: common is {max_repeats}; it must be at least 1.")

    def sign(sample: Sample, _: Pixels) -> Signature:
        from lingshu.search.text_hash import split_words

        caption = answer_text(sample) if not kinds or sample.meta.kind in kinds else ""
        return {
            "caption": caption if len(split_words(caption)) >= min_words else None,
            "stated_source": sample.meta.source or "",
        }

    def decide(table: pa.Table) -> Decision:
        from lingshu.search.buckets import connected_components
        from lingshu.search.minhash import find_similar_pairs
        from lingshu.search.text_hash import hash_tokens

        ids, captions = table["id"].to_pylist(), table["caption"].to_pylist()
        sources, ranks = (
            column(table, "source", "")
            if "source" in table.column_names
            else table["stated_source"].to_pylist(),
            column(table, "rank", 0),
        )
        rows = [row for row, caption in enumerate(captions) if caption is not None]
        pairs = find_similar_pairs(
            hash_tokens([captions[row] for row in rows]), threshold=threshold
        )
        drops: dict[int, Drop] = {}
        n_phrases = 0
        for positions in group_rows(
            map(str, connected_components(pairs.left, pairs.right, n_rows=len(rows)).tolist())
        ).values():
            members = [rows[position] for position in positions]
            counts = Counter(sources[row] for row in members)
            if max(counts.values()) > max_repeats:
                n_phrases += 1
            elif len(counts) > 1:
                best_source = min((ranks[row], sources[row]) for row in members)
                drops |= {
                    row: Drop(ids[row], "caption_in_other_source", f"kept: {best_source[1]}")
                    for row in members
                    if sources[row] != best_source[1]
                }
        return Decision(
            drops,
            stats={
                "captions compared": len(rows),
                "phrases left alone": n_phrases,
                "pairs not compared": pairs.overflow.pairs,
            },
        )

    return TableStep(sign, decide)
