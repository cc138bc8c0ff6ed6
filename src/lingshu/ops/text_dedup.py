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

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Decision, Pixels, Signature, TableStep
from lingshu.ops._facts import answer, one_of, require, texts
from lingshu.ops._sets import Kept, column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# Texts about one image that are compared pair by pair; beyond, MinHash is quicker.
FEW = 24


def step(
    *, threshold: float = 0.7, unit: str = "text", of: str = "all", min_words: int = 5
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
    one_of("text_dedup", "unit", unit, ("text", "image_text"))
    one_of("text_dedup", "of", of, ("all", "answer", "question"))

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        from lingshu.ops._image_signature import file_digest

        said = {
            "all": lambda: "\n".join(texts(sample)),
            "answer": lambda: answer(sample),
            "question": lambda: sample.question,
        }[of]()
        shown = (
            b"".join(file_digest(pixels.bytes(image)) for image in sample.images)
            if unit == "image_text"
            else b""
        )
        return {"text": said, "shown": shown}

    def decide(table: pa.Table) -> Decision:
        from lingshu.ops._text_signature import normalised, words

        said = table["text"].to_pylist()
        long_enough = [row for row, text in enumerate(said) if len(words(text)) >= min_words]
        by_image: dict[bytes, list[int]] = {}
        about = table["shown"].to_pylist()
        for row in long_enough:
            # Without an image, a text of image_text is about itself alone: it has nothing to be
            # compared by.
            if about[row] or unit == "text":
                by_image.setdefault(about[row], []).append(row)
        # Longest text first, after the rank: `area` is what a keeper is chosen by before all else.
        ranked = table.append_column(
            "area", [[-rank for rank in column(table, "rank", 0)]]
        ).append_column("caption", table["text"])
        found, over = Kept(len(said)), 0
        for rows in by_image.values():
            if len(rows) > 1:
                groups, left_out = _groups(
                    [said[row] for row in rows], threshold, few=unit == "image_text"
                )
                over += left_out
                found.add(ranked, rows, groups)
        ids = table["id"].to_pylist()
        drops = {
            row: Drop(
                ids[row],
                "text_exact" if normalised(said[row]) == normalised(said[kept]) else "text_near",
                f"kept: {ids[kept]}",
            )
            for row, kept in enumerate(found.keeper.tolist())
            if row != kept
        }
        return Decision(
            drops, told={"texts compared": len(long_enough), "pairs not compared": over}
        )

    return TableStep(sign, decide)


def _groups(said: list[str], threshold: float, *, few: bool) -> tuple[NDArray[np.int64], int]:
    """The group of each text, and how many pairs were not compared."""
    import numpy as np

    from lingshu.ops._buckets import groups
    from lingshu.ops._near_text import near_pairs
    from lingshu.ops._text_signature import SHINGLE, tokens, words

    if not few or len(said) > FEW:
        pairs = near_pairs(tokens(said), threshold=threshold)
        return groups(pairs.left, pairs.right, rows=len(said)), pairs.over.pairs
    split = [words(text) for text in said]
    shingles = [
        {tuple(w[i : i + SHINGLE]) for i in range(max(1, len(w) - SHINGLE + 1))} for w in split
    ]
    near = [
        (i, j)
        for i, j in combinations(range(len(said)), 2)
        if len(shingles[i] & shingles[j]) >= threshold * len(shingles[i] | shingles[j])
    ]
    left, right = np.array(near, np.int64).reshape(-1, 2).T
    return groups(left, right, rows=len(said)), 0
