"""Medical terms in the answers of a dataset, listed by a teacher and marked where they stand: what
moft_7b weighs.

Expected: every answered row, with its entities; a teacher's terms that its answer lacks are
counted, not marked.
"""

from __future__ import annotations

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """One request for each answer."""
    return SynthesisConfig(
        name="synthesis_entities", steps=(StepConfig("entities", "label_entities"),)
    )
