"""MOFT in miniature: the instruction stage of a tiny model trained twice, with entity weights 1.0
and 2.5, to be averaged.

Expected: docs/benchmarks.md has the results, whichever run wins. On phantoms most answers are a
single word that is an entity, so that far more than MOFT's 11.64% of the tokens have more weight,
and there is little fluency to trade for it. `recipe` starts from a checkpoint after deep alignment;
`short_trajectory` from an instruction-tuned one, for the few steps that the quickstart has time
for.
"""

from dataclasses import replace

from lingshu.curate.config import CurateConfig, StepConfig
from lingshu.recipes import curation_phantom, quickstart
from lingshu.sources.phantom import MODALITIES
from lingshu.train.config import LearningRates, TrainConfig

SIZES = {"instruct": quickstart.SIZES["instruct"]}
ENTITY_WEIGHT = 2.5
# What is medical in an answer about a phantom.
ENTITY_TERMS = (
    *MODALITIES, "lesion", "small", "large", "left", "right", "normal", "several places",
)  # fmt: skip
_OBJECTIVE = "stages.moft.objective"
_WEIGHTED = f"{_OBJECTIVE}.entity_weight={ENTITY_WEIGHT}"
# Runs by their purpose -> overrides, as in moft_7b.
VARIANTS: dict[str, tuple[str, ...]] = {
    "fluency": (),
    "entities": (_WEIGHTED,),
    "dft": (f"{_OBJECTIVE}.loss=dft",),
    "second_seed": (),  # with another seed, so that the same steps come in another order
    "random_tokens": (_WEIGHTED, f"{_OBJECTIVE}.entities=random"),
}
SHORT_LEARNING_RATE, SHORT_STEPS = 3e-4, 40


def curation(*, images: int, first: int, seed: int, purpose: str = "instruct") -> CurateConfig:
    """Phantoms as in the quickstart, with the terms of their answers marked."""
    config = curation_phantom.recipe(
        purpose=purpose, images=images, first=first, seed=seed, side=quickstart.SIDE
    )
    params = {"words": list(ENTITY_TERMS), "use_builtin": False}
    mark_step = StepConfig("entities", "mark_entities", params)
    return replace(config, name="phantom_moft", steps=(*config.steps, mark_step))


def recipe() -> TrainConfig:
    """One trajectory from model=CHECKPOINT, after deep alignment; `instruct` carries entities."""
    start = quickstart.recipe()
    stages, data = (replace(start.stages[-1], name="moft"),), dict.fromkeys(SIZES)
    return replace(
        start, name="phantom_moft", model="deep", stages=stages, data=data, expected=SIZES
    )


def short_trajectory(checkpoint: str, *, steps: int = SHORT_STEPS) -> TrainConfig:
    """A short trajectory from an instruction-tuned checkpoint."""
    config = recipe()
    learning_rates = LearningRates(SHORT_LEARNING_RATE, SHORT_LEARNING_RATE, SHORT_LEARNING_RATE)
    stage = replace(config.stages[0], learning_rates=learning_rates, steps=steps, warmup_steps=5)
    return replace(config, model=checkpoint, stages=(stage,), save_every=1000)
