"""Several scorers as one: a weighted sum, such as half a point for the format and one for the right
answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lingshu.core.errors import InputError
from lingshu.core.nouns import Sample, Score, Scorer


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
    main = max(range(len(parts)), key=lambda place: abs(parts[place][1]))

    def score(sample: Sample, reply: str) -> Score:
        found = [part(sample, reply) for part, _ in parts]
        read = [
            (weight, one.value)
            for (_, weight), one in zip(parts, found, strict=True)
            if one.value is not None
        ]
        value = math.fsum(weight * part for weight, part in read) if read else None
        told = " + ".join(
            f"{weight:g} * {'none' if one.value is None else f'{one.value:g}'}"
            for (_, weight), one in zip(parts, found, strict=True)
        )
        return Score(value, found[main].status, found[main].read, told)

    return score
