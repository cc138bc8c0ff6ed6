"""Long captions and questions from a dataset of images with captions, by a teacher: the paper's
synthesis A and C.

Expected: one long caption and one multiple-choice question for every row that the teacher's replies
allow.
"""

from __future__ import annotations

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """Both kinds from every row; give steps.captions.params.caption a template where rows carry
    labels and no caption.
    """
    return SynthesisConfig(
        name="synthesis_captions",
        steps=(
            StepConfig("captions", "long_caption"),
            StepConfig("questions", "vqa_self_instruct"),
        ),
    )
