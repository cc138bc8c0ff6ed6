"""The test side of PSV2026: expanded questions, each with a rubric of five binary dimensions, by a
teacher.

`recipes/curation_psv2026.py` makes the dataset that it begins from. Published: 9,264 items, one for
every item of the three test splits, checked by clinicians; so nothing may stay out, and what this
drops is to be mended by hand or left out by name. Expected: one item for every row that the
teacher's texts do not contradict.
"""

from __future__ import annotations

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """A query, a full answer and a rubric for every row; clinicians see 100 of them, as in the
    published audit.
    """
    return SynthesisConfig(
        name="psv2026_test", steps=(StepConfig("items", "write_rubric"),), review_rows=100
    )
