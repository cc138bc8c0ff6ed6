"""The arithmetic of rubrics: what criteria that are met or not come to, and what a published judge
says of one.

Source: HealthBench (arXiv 2505.08775): points of the met criteria over all positive points; the
mean over replies is clipped to 0..1 after averaging. Yes-or-no dimensions of one point each are the
same formula.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

_OBJECT = re.compile(r"\{[^{}]*\}")


def rubric_score(points: Sequence[float], met: Sequence[bool]) -> float | None:
    """Points of the met criteria over all positive points; may be negative; None where no criterion
    has positive points.

    Raises:
        ValueError: not one verdict for each criterion.
    """
    max_points = sum(point for point in points if point > 0)
    earned_points = sum(point for point, is_met in zip(points, met, strict=True) if is_met)
    return earned_points / max_points if max_points > 0 else None


def rubric_range(points: Sequence[float], met: Sequence[bool | None]) -> tuple[float, float] | None:
    """The lowest and the highest score that the criteria without a verdict (None) leave open; None
    where there is no score.
    """
    lower = rubric_score(
        points,
        [
            point < 0 if is_met is None else is_met
            for point, is_met in zip(points, met, strict=True)
        ],
    )
    upper = rubric_score(
        points,
        [
            point > 0 if is_met is None else is_met
            for point, is_met in zip(points, met, strict=True)
        ],
    )
    return None if lower is None or upper is None else (lower, upper)


def all_met(points: Sequence[float], met: Sequence[bool]) -> bool:
    """Whether a reply does all that it should and nothing that it should not; criteria without
    points decide nothing.
    """
    return all(
        point == 0 or is_met == (point > 0) for point, is_met in zip(points, met, strict=True)
    )


def clipped_mean(values: Sequence[float | None]) -> float | None:
    """The mean of the replies that have a score, clipped to 0..1 after averaging; None where none
    has.
    """
    scores = [value for value in values if value is not None]
    return min(1.0, max(0.0, math.fsum(scores) / len(scores))) if scores else None


def parse_rubric_verdict(text: str) -> bool | None:
    """What a judge's JSON of the published form says of one criterion, also behind prose or in a
    fence; None where nothing.

    The last object with `criteria_met` counts, and the words true and false stand for the booleans.
    Anyone can write that form, a reply too: our own judges are asked for one that a reply cannot
    know (evaluate/judge_prompts.py).
    """
    for candidate in reversed(_OBJECT.findall(text)):
        try:
            value = json.loads(candidate).get("criteria_met")
        except ValueError:
            continue
        is_met = (
            {"true": True, "false": False}.get(value.strip().lower())
            if isinstance(value, str)
            else value
        )
        if isinstance(is_met, bool):
            return is_met
    return None
