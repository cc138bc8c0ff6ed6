"""The eight removals of the Lingshu paper's ablation (arXiv 2506.07044, table 10), on a model and
data of phantom size.

Expected: the whole, run once with seed 0 (130 CPU-seconds): 82% of 3,288 held-out questions; lesion
100, side 98, modality 98, count 97, open 78, size 64, and choices 25, which is chance as no group
asks for letters. The removals were run for a few steps only. What they cost on phantoms shows how
such a comparison is made, and says nothing about medicine. A variant is a list of overrides, so
that one run differs from the whole by what its command line says:
    lingshu train ablations data.GROUP=FOLDER ... stages.shallow=null stages.deep=null --out
    runs/alignment
The whole is the quickstart's chain with the instruction data split into the paper's kinds; values
that differ from it:
- rows are a thousandth of the paper's amounts. Of its sizes, "synthetic" counts as a part of the
  medical multimodal data and "chain of thought" as a part of the medical text, for only so do the
  removals sum to the 7.1 M of the stage
- two passes over the instruction data as in the paper: a removal leaves fewer steps, as it did
  there
- stages `shallow` and `deep` keep the quickstart's steps; a thousandth of the paper's would be too
  few to learn from
- stage `base` gives a random model its language; the paper's models had theirs, so no removal
  touches it
"""

from __future__ import annotations

from dataclasses import replace

from lingshu.recipes import quickstart
from lingshu.train.config import TrainConfig

# The groups of the instruction stage, with their rows: a thousandth of 1.6 M, 1.1 M, 2.0 M, 1.2 M,
# 1.0 M, 162 K and 11 K.
INSTRUCT = {
    "medical": 1600,
    "synthetic": 1100,
    "captions": 2000,
    "general": 1200,
    "general_text": 1000,
    "medical_cot": 162,
    "medical_text": 11,
}
EXPECTED = {"language": 3200, "alignment": 927, **INSTRUCT}
# What stands for each group among drawn phantoms: what sources.phantom.training is asked for, or
# the kinds of questions.
PHANTOM_GROUPS: dict[str, str | tuple[str, ...]] = {
    "language": "text",
    "alignment": "captions",
    "captions": "captions",
    "medical": ("lesion", "side", "open", "report"),
    "synthetic": ("size", "count"),  # what a template asks of a label
    "general": ("modality",),  # what can be said without looking for a lesion
    "general_text": "text",
    "medical_cot": "text",
    "medical_text": "text",
}


def instruct_without(*groups: str) -> str:
    """The override that leaves groups out of the instruction stage."""
    return f"stages.instruct.data=[{','.join(group for group in INSTRUCT if group not in groups)}]"


# Removed data or stages -> overrides; the names and their order are those of the table.
VARIANTS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "medical_multimodal": (instruct_without("medical", "synthetic"),),
    "synthetic_multimodal": (instruct_without("synthetic"),),
    "medical_text": (instruct_without("medical_cot", "medical_text"),),
    "medical_cot": (instruct_without("medical_cot"),),
    "general_multimodal": (instruct_without("general"),),
    "captions": (instruct_without("captions"),),
    "general_text": (instruct_without("general_text"),),
    "alignment": ("stages.shallow=null", "stages.deep=null"),
}


def recipe() -> TrainConfig:
    """The whole, nothing removed; every group that a stage uses is to be given with
    data.GROUP=FOLDER.
    """
    full = quickstart.recipe()
    base, shallow, deep, instruct = full.stages
    stages = (
        replace(base, data=("language",)),
        replace(shallow, data=("alignment",)),
        replace(deep, data=("captions",)),
        replace(instruct, data=tuple(INSTRUCT), steps=None, epochs=2.0),
    )
    return replace(
        full, name="ablations", stages=stages, data=dict.fromkeys(EXPECTED), expected=EXPECTED
    )
