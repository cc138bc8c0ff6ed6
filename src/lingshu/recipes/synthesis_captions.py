"""Long captions and questions from a dataset of images with captions, by a teacher: the paper's
synthesis A and C.

Expected: one long caption and one multiple-choice question for every row with usable replies.
"""

from lingshu.curate.config import StepConfig, SynthesisConfig


def recipe() -> SynthesisConfig:
    """Both kinds from every row; for labels without a caption give steps.captions.params.caption."""
    steps = (StepConfig("captions", "long_caption"), StepConfig("questions", "vqa_self_instruct"))
    return SynthesisConfig(name="synthesis_captions", steps=steps)
