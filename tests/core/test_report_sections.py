"""Findings and impression of synthetic reports in the formats of the three chest X-ray collections."""

from __future__ import annotations

import pytest

from lingshu.core.report_sections import ReportSections, format_reference, split_sections

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  Made up.  // impression: none

 TECHNIQUE:  Two views

 FINDINGS:

 The heart appears
 as a circle.

 IMPRESSION:

 1. A drawing: nothing more.
 2. Finding of a teapot.
"""


@pytest.mark.parametrize(
    ("text", "report"),
    [
        (
            MIMIC,
            ReportSections(
                "The heart appears as a circle.",
                "1. A drawing: nothing more. 2. Finding of a teapot.",
            ),
        ),
        (
            "NARRATIVE: x FINDINGS: One. IMPRESSION: Two. END OF IMPRESSION",
            ReportSections("One.", "Two. END OF IMPRESSION"),
        ),
        ("Findings: One.\nImpression: Two.", ReportSections("One.", "Two.")),
        ("Findings: One. Impression: Two.", ReportSections("One.", "Two.")),
        ("CONCLUSION: Two.", ReportSections("", "Two.")),
        ("FINDINGS AND IMPRESSION: Both.", ReportSections("Both.", "")),
        ("FINDINGS: One.\n ADDENDUM: later\n FINDINGS: More.", ReportSections("One. More.", "")),
        ("No heading at all.", ReportSections("", "")),
        ("COMPARISON: None.\n", ReportSections("", "")),
        ("The findings: are in the text", ReportSections("", "")),
    ],
)
def test_a_report_is_cut_at_its_headings(text: str, report: ReportSections) -> None:
    assert split_sections(text) == report


def test_a_reference_has_one_stop_and_no_empty_section() -> None:
    assert (
        format_reference(ReportSections("Clear lungs.", "Normal"))
        == "Findings: Clear lungs. Impression: Normal."
    )
    assert (
        format_reference(ReportSections("Clear lungs.", ""))
        == "Findings: Clear lungs. Impression: None."
    )
