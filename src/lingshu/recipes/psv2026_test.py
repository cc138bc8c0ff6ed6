"""The test side of PSV2026: expanded questions, each with a rubric of five binary dimensions, by a
teacher.

`recipes/curation_psv2026.py` makes its input. Published: 9,264 items, one for
every item of the three test splits, checked by clinicians; so nothing may be missing: fix what this
drops by hand, or exclude it by name. Expected: one item for every row that the
teacher's texts do not contradict.
"""

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """A query, a full answer and a rubric for every row; 100 of them for review by clinicians."""
    return SynthesisConfig(
        name="psv2026_test", steps=(StepConfig("items", "write_rubric"),), review_rows=100
    )
