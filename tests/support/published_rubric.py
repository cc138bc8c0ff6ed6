"""How the published rubric judge's JSON is read; our own judges use a form that a reply cannot know."""

from __future__ import annotations

import json
import re

_OBJECT = re.compile(r"\{[^{}]*\}")


def parse_rubric_verdict(text: str) -> bool | None:
    """What a judge's JSON of the published form says of one criterion, also after prose or in a
    fence; None where nothing.

    The last object with `criteria_met` counts, and the words true and false mean the booleans.
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
