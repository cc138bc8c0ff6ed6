"""How far two raters agree on the same items, beyond what chance would give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Agreement(NamedTuple):
    """Items that both rated, the share on which they agree, Cohen's kappa and Gwet's AC1; None
    where one is not defined.
    """

    n: int
    observed_agreement: float | None
    kappa: float | None
    ac1: float | None


def agreement(pairs: Sequence[tuple[str, str]], categories: Sequence[str]) -> Agreement:
    """Cohen's kappa (1960) and Gwet's AC1 (2008) of two raters over `categories`, all that a rating
    can be.

    Kappa is None where both gave every item one and the same category: chance alone would agree as
    much. Where nearly all items are alike, kappa is low however well two raters agree; AC1 is not.

    Raises:
        ValueError: fewer than two categories, or a rating that is none of them.
    """
    unknown = next((rating for pair in pairs for rating in pair if rating not in categories), None)
    if unknown is not None or len(categories) < 2:
        raise ValueError(
            f"{unknown!r} is none of the categories {list(categories)}, or they are fewer than two"
        )
    n = len(pairs)
    if not n:
        return Agreement(0, None, None, None)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    chance = math.fsum(first[c] * second[c] for c in categories) / n**2
    proportions = [(first[c] + second[c]) / (2 * n) for c in categories]
    expected = math.fsum(proportion * (1 - proportion) for proportion in proportions) / (
        len(categories) - 1
    )
    kappa = None if chance == 1 else (observed - chance) / (1 - chance)
    return Agreement(n, observed, kappa, (observed - expected) / (1 - expected))
