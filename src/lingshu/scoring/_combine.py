"""Several scorers as one: a weighted sum, such as half a point for the format and one for the right
answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lingshu.core.errors import InputError
from lingshu.core.types import Sample, Score, Scorer


def combine(weights: Mapping[Scorer, float]) -> Scorer:
    """A scorer whose value is the sum of weight times value over `weights`.

    A part that could not read the reply adds nothing. Status and what was read are those of the
    part with the largest weight, the first among equals; the value is None where that part and all
    others read nothing. The note gives each part's value.

    Raises:
        InputError: no weights, or one that is not a finite number.
    """
    if not weights or not all(math.isfinite(weight) for weight in weights.values()):
        raise InputError(
            f"weights must be one finite number for each scorer, not {list(weights.values())}."
        )
    parts = tuple(weights.items())
    main_index = max(range(len(parts)), key=lambda index: abs(parts[index][1]))

    def score(sample: Sample, reply: str) -> Score:
        scores = [part(sample, reply) for part, _ in parts]
        values = [
            (weight, part_score.value)
            for (_, weight), part_score in zip(parts, scores, strict=True)
            if part_score.value is not None
        ]
        value = math.fsum(weight * part for weight, part in values) if values else None
        note = " + ".join(
            f"{weight:g} * {'none' if part_score.value is None else f'{part_score.value:g}'}"
            for (_, weight), part_score in zip(parts, scores, strict=True)
        )
        return Score(value, scores[main_index].status, scores[main_index].prediction, note)

    return score
