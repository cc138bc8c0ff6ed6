"""Text deduplication by MinHash: of texts that share most of their wording, the one of the best
ranked source stays.

The paper removes duplicates across its text corpora and keeps the copy of the most reliable source
(section 2.1.4); it states no numbers. Here two texts are duplicates from a Jaccard similarity of
0.7 of their 5-word shingles (Chinese: characters), verified, not estimated. Reports repeat each
other legitimately ("the lungs are clear"): for data about images use `unit: image_text`, which
compares texts about one image alone.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text, check_choice, message_texts, require
from lingshu.search.disjoint_sets import DuplicateMap, column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# Texts about one image that are compared pair by pair; beyond, MinHash is quicker.
MAX_PAIRWISE = 24


def step(
    *, threshold: float = 0.7, unit: str = "text", field: str = "all", min_words: int = 5
) -> TableStep:
    """Keep one of each set of near-duplicate texts.

    Args:
        threshold: least Jaccard similarity of duplicates, above 0 and at most 1.
        unit: `text`, or `image_text`: only texts about the same image (equal files) can be
            duplicates.
        of: what is compared: `all` (the whole dialogue), `answer` or `question`.
        min_words: texts of fewer words are never duplicates.

    Drops: text_exact (equal but for case, spacing and punctuation), text_near.
    """
    require(
        0 < threshold <= 1,
        f"text_dedup: threshold is {threshold}; it must be above 0 and at most 1.",
    )
    require(min_words >= 1, f"text_dedup: min_words is {min_words}; it must be at least 1.")
    check_choice("text_dedup", "unit", unit, ("text", "image_text"))
    check_choice("text_dedup", "field", field, ("all", "answer", "question"))

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        from lingshu.search.image_hash import file_digest

        text = {
            "all": lambda: "\n".join(message_texts(sample)),
            "answer": lambda: answer_text(sample),
            "question": lambda: sample.question,
        }[field]()
        image_digests = (
            b"".join(file_digest(pixels.bytes(image)) for image in sample.images)
            if unit == "image_text"
            else b""
        )
        return {"text": text, "image_digests": image_digests}

    def decide(table: pa.Table) -> Decision:
        from lingshu.search.text_hash import normalize_text, split_words

        texts = table["text"].to_pylist()
        eligible = [row for row, text in enumerate(texts) if len(split_words(text)) >= min_words]
        rows_by_image: dict[bytes, list[int]] = {}
        image_digests = table["image_digests"].to_pylist()
        for row in eligible:
            # Without an image, a text of image_text is about itself alone: it has nothing to be
            # compared by.
            if image_digests[row] or unit == "text":
                rows_by_image.setdefault(image_digests[row], []).append(row)
        # Longest text first, after the rank: `area` is what a keeper is chosen by before all else.
        ranked = table.append_column(
            "area", [[-rank for rank in column(table, "rank", 0)]]
        ).append_column("caption", table["text"])
        duplicates, n_not_compared = DuplicateMap(len(texts)), 0
        for rows in rows_by_image.values():
            if len(rows) > 1:
                groups, n_skipped = _group_similar(
                    [texts[row] for row in rows], threshold, pairwise=unit == "image_text"
                )
                n_not_compared += n_skipped
                duplicates.add(ranked, rows, groups)
        ids = table["id"].to_pylist()
        drops = {
            row: Drop(
                ids[row],
                "text_exact"
                if normalize_text(texts[row]) == normalize_text(texts[representative])
                else "text_near",
                f"kept: {ids[representative]}",
            )
            for row, representative in enumerate(duplicates.representative.tolist())
            if row != representative
        }
        return Decision(
            drops, stats={"texts compared": len(eligible), "pairs not compared": n_not_compared}
        )

    return TableStep(sign, decide)


def _group_similar(
    texts: list[str], threshold: float, *, pairwise: bool
) -> tuple[NDArray[np.int64], int]:
    """The group of each text, and how many pairs were not compared."""
    import numpy as np

    from lingshu.search.buckets import connected_components
    from lingshu.search.minhash import find_similar_pairs
    from lingshu.search.text_hash import SHINGLE, hash_tokens, split_words

    if not pairwise or len(texts) > MAX_PAIRWISE:
        pairs = find_similar_pairs(hash_tokens(texts), threshold=threshold)
        return connected_components(
            pairs.left, pairs.right, n_rows=len(texts)
        ), pairs.overflow.pairs
    words_by_text = [split_words(text) for text in texts]
    shingles = [
        {tuple(text_words[i : i + SHINGLE]) for i in range(max(1, len(text_words) - SHINGLE + 1))}
        for text_words in words_by_text
    ]
    similar = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if len(shingles[i] & shingles[j]) >= threshold * len(shingles[i] | shingles[j])
    ]
    left, right = np.array(similar, np.int64).reshape(-1, 2).T
    return connected_components(left, right, n_rows=len(texts)), 0
