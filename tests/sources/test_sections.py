"""Findings and impression out of made-up reports in the forms of the three chest X-ray collections."""

from __future__ import annotations

import pytest

from lingshu.sources._sections import Report, reference, sections

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  Made up.  // impression: none

 TECHNIQUE:  Two views

 FINDINGS:

 The heart is drawn
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
            Report(
                "The heart is drawn as a circle.",
                "1. A drawing: nothing more. 2. Finding of a teapot.",
            ),
        ),
        (
            "NARRATIVE: x FINDINGS: One. IMPRESSION: Two. END OF IMPRESSION",
            Report("One.", "Two. END OF IMPRESSION"),
        ),
        ("Findings: One.\nImpression: Two.", Report("One.", "Two.")),
        ("Findings: One. Impression: Two.", Report("One.", "Two.")),
        ("CONCLUSION: Two.", Report("", "Two.")),
        ("FINDINGS AND IMPRESSION: Both.", Report("Both.", "")),
        ("FINDINGS: One.\n ADDENDUM: later\n FINDINGS: More.", Report("One. More.", "")),
        ("No heading at all.", Report("", "")),
        ("COMPARISON: None.\n", Report("", "")),
        ("The findings: are in the text", Report("", "")),
    ],
)
def test_a_report_is_cut_at_its_headings(text: str, report: Report) -> None:
    assert sections(text) == report


def test_a_reference_has_one_stop_and_no_empty_section() -> None:
    assert (
        reference(Report("Clear lungs.", "Normal")) == "Findings: Clear lungs. Impression: Normal."
    )
    assert reference(Report("Clear lungs.", "")) == "Findings: Clear lungs. Impression: None."
