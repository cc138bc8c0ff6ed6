"""Train twice, with entity weights 1.0 and 2.5, and average: python 12_two_trajectories.py
CHECKPOINT DATA HELD_OUT OUT [a.b=v ...]

DATA and HELD_OUT are DATASETs whose answers were marked by the step mark_entities or
label_entities. In addition to the average of both runs, a soup of two plain runs is made: a gain
that the soup has as well is not due to the entities.
"""

import sys
from dataclasses import replace
from pathlib import Path

from lingshu.analysis.likelihood import encode_held_out, likelihoods
from lingshu.core import config as configuration
from lingshu.models.load import load
from lingshu.recipes.moft_7b import VARIANTS, recipe
from lingshu.train.loop import train
from lingshu.weights.base import MergeWeights
from lingshu.weights.output import MergePlan, merge


def main(checkpoint: str, data: str, held_out_folder: str, out: str, *overrides: str) -> int:
    folders = {}
    for name in ("fluency", "entities", "second_seed"):
        config = configuration.override(
            replace(recipe(), model=checkpoint, data={"train": data}), [*VARIANTS[name], *overrides]
        )
        folders[name] = train(config, Path(out) / name, resume=True)
    for name, second in (("moft", "entities"), ("soup", "second_seed")):
        folders[name] = Path(out) / name
        merge(
            MergePlan((folders["fluency"], folders[second])),
            folders[name],
            MergeWeights((0.5, 0.5)),
        )
    for name, folder in folders.items():
        loaded = load(str(folder))
        rows = likelihoods(
            loaded,
            encode_held_out([Path(held_out_folder)], loaded.processor),
            Path(out) / "likelihood" / f"{name}.jsonl",
        )
        entity = sum(row.entity_nll or 0.0 for row in rows) / max(
            1, sum(row.entity_tokens or 0 for row in rows)
        )
        print(
            f"{name}: {sum(row.nll for row in rows) / sum(row.tokens for row in rows):.3f} nats a"
            f" token, {entity:.3f} a token of entities"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
