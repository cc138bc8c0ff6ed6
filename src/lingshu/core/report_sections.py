"""Findings and impression of a radiology report, by its headings.

Headings as in MIMIC-CXR ("FINDINGS:" on its own line), CheXpert Plus and Open-i (within a line).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SECTION_NAMES = {
    **dict.fromkeys(
        ("findings", "finding", "findings and impression", "findings/impression"), "findings"
    ),
    **dict.fromkeys(("impression", "impressions", "conclusion", "conclusions"), "impression"),
}
_MAIN_HEADINGS = "|".join(sorted(map(re.escape, _SECTION_NAMES), key=len, reverse=True))
# A main heading counts in capitals anywhere, capitalized after a full stop, and in any case at the
# start of a line; others only in capitals at the start of a line.
_HEADING = re.compile(
    rf"(?:^[ \t]*(?P<line>(?i:{_MAIN_HEADINGS}))"
    rf"|(?<![A-Za-z])(?P<inner>{_MAIN_HEADINGS.upper()}|(?<=[.!?] )(?:Findings|Impression))"
    r"|^[ \t]*(?P<other>[A-Z][A-Z0-9 ,/()&_-]{2,50}))[ \t]*:",
    re.M,
)
_WHITESPACE = re.compile(r"\s+")


class ReportSections(NamedTuple):
    """The two sections that are generated and compared, each empty if the report has none."""

    findings: str
    impression: str


def split_sections(text: str) -> ReportSections:
    """The findings and the impression of a report, with whitespace normalized.

    Text under other headings (indication, technique, comparison, ...) and before the first is left
    out. The texts of a repeated heading (an addendum) are joined.
    """
    texts: dict[str, list[str]] = {"findings": [], "impression": []}
    headings = list(_HEADING.finditer(text))
    for heading, next_heading in zip(headings, [*headings[1:], None], strict=False):
        name = (heading["line"] or heading["inner"] or "").lower()
        if name in _SECTION_NAMES:
            end = next_heading.start() if next_heading else len(text)
            texts[_SECTION_NAMES[name]].append(text[heading.end() : end])
    return ReportSections(
        normalize_whitespace(" ".join(texts["findings"])),
        normalize_whitespace(" ".join(texts["impression"])),
    )


def normalize_whitespace(text: object) -> str:
    """A section on one line; empty for the placeholders that tables have for a missing one."""
    normalized = _WHITESPACE.sub(" ", str(text or "")).strip()
    return "" if normalized.lower() in ("nan", "none", "null") else normalized


def format_reference(report: ReportSections) -> str:
    """`Findings: ... Impression: ...`, each with a full stop, "None" for a missing section."""
    return " ".join(
        f"{name}: {_with_full_stop(text or 'None')}"
        for name, text in zip(("Findings", "Impression"), report, strict=True)
    )


def _with_full_stop(text: str) -> str:
    return text if text[-1] in ".!?" else text + "."
