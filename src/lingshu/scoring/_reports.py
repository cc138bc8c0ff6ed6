"""Reports and rubrics: the reference text of a report, the score of a rubric, and a judge's answer to one criterion."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

# How the note of a reply begins that has no score only because no judge was asked.
NEEDS_JUDGE = "needs a judge"
_OBJECT = re.compile(r"\{[^{}]*\}")


def reference(findings: str, impression: str, *, empty: str = "None") -> str:
    """A report's reference text: each section closed by one full stop, and `empty` where it says nothing."""
    return f"Findings: {_section(findings, empty)} Impression: {_section(impression, empty)}"


def _section(text: str, empty: str) -> str:
    told = text.strip() or empty
    return told if told.endswith((".", "!", "?", "。")) else f"{told}."


def rubric_score(points: Sequence[float], met: Sequence[bool]) -> float | None:
    """Points of the met criteria over all positive points; may be negative; None where no criterion has positive points.

    Raises:
        ValueError: not one verdict for each criterion.
    """
    most = sum(point for point in points if point > 0)
    earned = sum(point for point, is_met in zip(points, met, strict=True) if is_met)
    return earned / most if most > 0 else None


def rubric_verdict(text: str) -> bool | None:
    """What a judge's JSON says of one criterion, also behind prose or in a fence; None where it says nothing.

    The last object with `criteria_met` counts, and the words true and false stand for the booleans.
    """
    for found in reversed(_OBJECT.findall(text)):
        try:
            value = json.loads(found).get("criteria_met")
        except ValueError:
            continue
        told = {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value
        if isinstance(told, bool):
            return told
    return None
