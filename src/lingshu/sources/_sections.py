"""Findings and impression of a radiology report, from the headings it is written under.

Headings as in MIMIC-CXR ("FINDINGS:" on a line of its own), CheXpert Plus and Open-i (also within a
line).
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What a heading's text is taken for; None ends a section and is not kept.
_KNOWN = {
    "findings": "findings",
    "finding": "findings",
    "findings and impression": "findings",
    "findings/impression": "findings",
    "impression": "impression",
    "impressions": "impression",
    "conclusion": "impression",
    "conclusions": "impression",
}
_MAIN = "|".join(sorted(map(re.escape, _KNOWN), key=len, reverse=True))
# A main heading counts in capitals anywhere, capitalised behind a full stop, and in any case at the
# start of a line; others only in capitals at the start of a line.
_HEADING = re.compile(
    rf"(?:^[ \t]*(?P<line>(?i:{_MAIN}))"
    rf"|(?<![A-Za-z])(?P<inner>{_MAIN.upper()}|(?<=[.!?] )(?:Findings|Impression))"
    r"|^[ \t]*(?P<other>[A-Z][A-Z0-9 ,/()&_-]{2,50}))[ \t]*:",
    re.M,
)
_BLANKS = re.compile(r"\s+")


class Report(NamedTuple):
    """The two sections that are generated and compared, each empty where the report has none."""

    findings: str
    impression: str


def sections(text: str) -> Report:
    """The findings and the impression of a report, blanks run together.

    Text under other headings (indication, technique, comparison, ...) and before the first is left
    out. A heading that comes twice (an addendum) gives its texts in order.
    """
    found: dict[str, list[str]] = {"findings": [], "impression": []}
    marks = list(_HEADING.finditer(text))
    for mark, after in zip(marks, [*marks[1:], None], strict=False):
        name = (mark["line"] or mark["inner"] or "").lower()
        if name in _KNOWN:
            found[_KNOWN[name]].append(text[mark.end() : after.start() if after else len(text)])
    return Report(tidy(" ".join(found["findings"])), tidy(" ".join(found["impression"])))


def tidy(text: object) -> str:
    """A section on one line; empty for what a table holds where there is none."""
    told = _BLANKS.sub(" ", str(text or "")).strip()
    return "" if told.lower() in ("nan", "none", "null") else told


def reference(report: Report) -> str:
    """`Findings: ...

    Impression: ...`, each ending in one full stop, "None" for a section that is not there.
    """
    return " ".join(
        f"{name}: {_stopped(text or 'None')}"
        for name, text in zip(("Findings", "Impression"), report, strict=True)
    )


def _stopped(text: str) -> str:
    return text if text[-1] in ".!?" else text + "."
