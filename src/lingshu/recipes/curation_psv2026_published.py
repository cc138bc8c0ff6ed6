"""PathVQA, SLAKE and VQA-RAD in their published splits, the training side without the images of the
test sets.

Give the folders of the training splits, sources.slake.path=FOLDER, and the test sets to keep apart:
three tasks by default, or steps.apart.params.against=[DATASET]. The test side is the same
recipe with steps.apart=null over the test splits. Expected: VQA-RAD loses nearly all of its
training questions, since its splits share their images.
"""

from lingshu.curate.config import CurateConfig, StepConfig
from lingshu.recipes import curation_psv2026


def recipe() -> CurateConfig:
    """The training side: equal and near images and equal patients are dropped, equal text is not."""
    base = curation_psv2026.recipe()
    decontaminate_options = {
        "against": ["path_vqa", "slake", "vqa_rad"],
        "drop": ["image_exact", "image_near", "study"],
    }
    steps = (
        *(step for step in base.steps if step.name != "split"),
        StepConfig("apart", "decontaminate", decontaminate_options),
    )
    return CurateConfig(name="psv2026_published", sources=base.sources, steps=steps)
