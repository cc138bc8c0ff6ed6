"""The eight removals of the Lingshu paper's ablation (arXiv 2506.07044, table 10), with phantoms.

Expected: the whole, run once with seed 0 (130 CPU-seconds): 82% of 3,288 held-out questions; lesion
100, side 98, modality 98, count 97, open 78, size 64, and choices 25, which is chance as no group
asks for letters. The removals were run for a few steps only. What they cost on phantoms shows how
such a comparison is made, and says nothing about medicine. A variant is a list of overrides, so
that a run differs from the whole by its command line alone:
    lingshu train ablations data.GROUP=FOLDER ... stages.shallow=null stages.deep=null --out DIR
The whole is the quickstart's chain with the instruction data split into the paper's kinds; values
that differ from it:
- rows are a thousandth of the paper's amounts. Of its sizes, "synthetic" counts as a part of the
  medical multimodal data and "chain of thought" as a part of the medical text: otherwise the
  removals would not sum to the 7.1 M of the stage
- two passes over the instruction data as in the paper: a removal leaves fewer steps, as there
- stages `shallow` and `deep` keep the quickstart's steps; a thousandth of the paper's would be too
  few to learn from
- stage `base` teaches a random model its language; the paper's models had one: it always stays
"""

from dataclasses import replace

from lingshu.recipes import quickstart
from lingshu.train.config import TrainConfig

# The groups of the instruction stage, with their rows: a thousandth of the paper's.
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
# What represents each group among phantoms: a purpose of sources/phantom.py, or question kinds.
PHANTOM_GROUPS: dict[str, str | tuple[str, ...]] = {
    "language": "text",
    "alignment": "captions",
    "captions": "captions",
    "medical": ("lesion", "side", "open", "report"),
    "synthetic": ("size", "count"),  # what a template asks of a label
    "general": ("modality",),  # what needs no search for a lesion
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
    """The whole, nothing removed; give every group that a stage uses with data.GROUP=FOLDER."""
    full = quickstart.recipe()
    base, shallow, deep, instruct = full.stages
    stages = (
        replace(base, data=("language",)),
        replace(shallow, data=("alignment",)),
        replace(deep, data=("captions",)),
        replace(instruct, data=tuple(INSTRUCT), steps=None, epochs=2.0),
    )
    data = dict.fromkeys(EXPECTED)
    return replace(full, name="ablations", stages=stages, data=data, expected=EXPECTED)
