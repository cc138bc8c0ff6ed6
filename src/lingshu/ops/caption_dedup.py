"""Caption deduplication across sources: corpora that were made from the same articles hold the same
figures.

The captioning corpora of the paper mostly come from PubMed Central, so one figure occurs in several
of them, cropped or cut in parts, which no image hash finds; its caption does. Captions of different
sources that are nearly equal (Jaccard similarity 0.9 of 5-word shingles) are one: all those of the
best ranked source stay, the others are dropped. Within one source nothing is dropped, and a caption
that one source repeats often is a phrase, not a figure, and is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from lingshu.core.quotas import group_rows
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text, check_minimum, check_similarity
from lingshu.search.buckets import connected_components
from lingshu.search.clusters import column
from lingshu.search.minhash import SHINGLE, find_similar_pairs
from lingshu.search.text_hash import hash_tokens, split_words

NAME = "caption_dedup"


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
        min_words: captions of fewer words are kept: they may well be equal by chance.
        max_repeats: a caption that occurs more often than this in one source is kept.
        kinds: values of `meta.kind` to compare; empty means all.

    Drops: caption_in_other_source.
    """
    check_similarity(NAME, threshold)
    check_minimum(NAME, SHINGLE, min_words=min_words)
    check_minimum(NAME, 1, max_repeats=max_repeats)

    def sign(sample: Sample, _: Pixels) -> Signature:
        caption = answer_text(sample) if not kinds or sample.meta.kind in kinds else ""
        return {
            "caption": caption if len(split_words(caption)) >= min_words else None,
            "stated_source": sample.meta.source or "",
        }

    def decide(table: pa.Table) -> Decision:
        ids, captions = table["id"].to_pylist(), table["caption"].to_pylist()
        sources = table["source" if "source" in table.column_names else "stated_source"].to_pylist()
        ranks = column(table, "rank", 0)
        rows = [row for row, caption in enumerate(captions) if caption is not None]
        tokens = hash_tokens([captions[row] for row in rows])
        pairs = find_similar_pairs(tokens, threshold=threshold)
        groups = connected_components(pairs.left, pairs.right, n_rows=len(rows)).tolist()
        drops: dict[int, Drop] = {}
        n_phrases = 0
        for positions in group_rows(map(str, groups)).values():
            members = [rows[position] for position in positions]
            counts = Counter(sources[row] for row in members)
            if max(counts.values()) > max_repeats:
                n_phrases += 1
            elif len(counts) > 1:
                _, best = min((ranks[row], sources[row]) for row in members)
                drops |= {
                    row: Drop(ids[row], "caption_in_other_source", f"kept: {best}")
                    for row in members
                    if sources[row] != best
                }
        stats = {
            "captions compared": len(rows),
            "phrases left alone": n_phrases,
            "pairs not compared": pairs.overflow.pairs,
        }
        return Decision(drops, stats=stats)

    return TableStep(sign, decide)
