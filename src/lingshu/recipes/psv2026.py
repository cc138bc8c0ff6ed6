"""The training side of PSV2026: refined questions and critiques of wrong answers, by a teacher, from
questions with short answers.

`recipes/curation_psv2026.py` makes its input. Published: 52,251 samples,
about half of them refined questions and half critiques of the backbone's own errors; give those
with steps.critique.params.scores=RUN/TASK. Expected: up to two samples for every row; fewer where
no rule makes a wrong answer, or the teacher's texts contradict the gold.
"""

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """Refined questions, and critiques of answers made wrong by rule where no run is given."""
    return SynthesisConfig(
        name="psv2026", steps=(StepConfig("qa", "refine_qa"), StepConfig("critique", "critique"))
    )
