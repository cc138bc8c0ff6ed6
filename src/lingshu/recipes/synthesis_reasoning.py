"""Chains of thought from a dataset of questions with gold answers, by a teacher: the paper's
synthesis D, and two checks beyond it.

Expected: one chain of thought for every row with one question, fewer where the verifier or the image
disagrees.
"""

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """Reasoning, a verdict on it, a blind second answer (noted), a check of its claims (drops)."""
    return SynthesisConfig(
        name="synthesis_reasoning", steps=(StepConfig("reasoning", "chain_of_thought"),)
    )
