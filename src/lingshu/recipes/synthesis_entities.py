"""Medical terms in the answers of a dataset, listed by a teacher and marked: the input of moft_7b.

Expected: every answered row, with its entities; terms that do not occur in its answer are counted,
not marked.
"""

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """One request for each answer."""
    return SynthesisConfig(
        name="synthesis_entities", steps=(StepConfig("entities", "label_entities"),)
    )
