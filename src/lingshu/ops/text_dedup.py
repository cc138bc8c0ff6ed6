"""Text deduplication by MinHash: of texts that share most of their wording, the one of the best
ranked source stays.

The paper removes duplicates across its text corpora and keeps the copy of the most reliable source
(section 2.1.4); it states no numbers. Here two texts are duplicates from a Jaccard similarity of
0.7 of their 5-word shingles (Chinese: characters), verified, not estimated. Reports repeat each
other legitimately ("the lungs are clear"): for data about images use `unit: image_text`, which only
compares texts about the same image.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Sample
from lingshu.ops import _sample_fields as fields
from lingshu.search.buckets import connected_components
from lingshu.search.clusters import DuplicateMap, column
from lingshu.search.image_hash import file_digest
from lingshu.search.minhash import SHINGLE, find_similar_pairs
from lingshu.search.text_hash import hash_tokens, normalize_text, split_words

# Texts about one image that are compared pair by pair; for more, MinHash is faster.
MAX_PAIRWISE = 24


def step(
    *, threshold: float = 0.7, unit: str = "text", field: str = "all", min_words: int = 5
) -> TableStep:
    """Keep one of each set of near-duplicate texts.

    Args:
        threshold: least Jaccard similarity of duplicates, above 0 and at most 1.
        unit: `text`, or `image_text`: only texts about the same image (equal files) can be
            duplicates.
        field: what is compared: `all` (the whole dialogue), `answer` or `question`.
        min_words: texts of fewer words are never duplicates.

    Drops: text_exact (equal but for case, spacing and punctuation), text_near.
    """
    fields.check_similarity("text_dedup", threshold)
    fields.check_minimum("text_dedup", 1, min_words=min_words)
    fields.check_choice("text_dedup", "unit", unit, ("text", "image_text"))
    fields.check_choice("text_dedup", "field", field, ("all", "answer", "question"))

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        text = "\n".join(fields.message_texts(sample))
        if field != "all":
            text = fields.answer_text(sample) if field == "answer" else sample.question
        images = sample.images if unit == "image_text" else ()
        digests = b"".join(file_digest(pixels.bytes(image)) for image in images)
        return {"text": text, "image_digests": digests}

    def decide(table: pa.Table) -> Decision:
        ids, texts, digests = (table[name].to_pylist() for name in ("id", "text", "image_digests"))
        eligible = [row for row, text in enumerate(texts) if len(split_words(text)) >= min_words]
        rows_by_image: dict[bytes, list[int]] = {}
        for row in eligible:
            # With image_text, a text without an image has nothing to be compared with.
            if digests[row] or unit == "text":
                rows_by_image.setdefault(digests[row], []).append(row)
        # The rank comes first, then the length of the text: `area` takes precedence.
        area = [-rank for rank in column(table, "rank", 0)]
        ranked = table.append_column("area", [area]).append_column("caption", table["text"])
        duplicates, n_skipped = DuplicateMap(len(texts)), 0
        for rows in rows_by_image.values():
            if len(rows) > 1:
                group_texts = [texts[row] for row in rows]
                if unit == "image_text" and len(rows) <= MAX_PAIRWISE:
                    pairs = _similar_pairs(group_texts, threshold)
                else:
                    similar = find_similar_pairs(hash_tokens(group_texts), threshold=threshold)
                    pairs = similar.left, similar.right
                    n_skipped += similar.overflow.pairs
                duplicates.add(ranked, rows, connected_components(*pairs, n_rows=len(rows)))

        def is_exact(row: int, kept: int) -> bool:
            return normalize_text(texts[row]) == normalize_text(texts[kept])

        drops = duplicates.drops(ids, "text", is_exact)
        stats = {"texts compared": len(eligible), "pairs not compared": n_skipped}
        return Decision(drops, stats=stats)

    return TableStep(sign, decide)


def _similar_pairs(
    texts: list[str], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of a few texts that are similar, each compared with every other."""
    shingles = []
    for words in map(split_words, texts):
        starts = range(max(1, len(words) - SHINGLE + 1))
        shingles.append({tuple(words[i : i + SHINGLE]) for i in starts})
    pairs = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if len(shingles[i] & shingles[j]) >= threshold * len(shingles[i] | shingles[j])
    ]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    return left, right
