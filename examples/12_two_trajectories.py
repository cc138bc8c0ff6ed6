"""Train twice, entities weighing 1.0 and 2.5, average: python 12_two_trajectories.py CHECKPOINT
DATA HELD_OUT OUT [a.b=v ...]

DATA and HELD_OUT are DATASETs whose answers were marked by the step mark_entities or
label_entities. Besides the average of both runs a soup of two plain runs is made: a gain that the
soup has as well is not the entities'.
"""

import sys
from dataclasses import replace
from pathlib import Path

from lingshu.core import config as configuration
from lingshu.models.load import load
from lingshu.recipes.moft_7b import VARIANTS, recipe
from lingshu.train.likelihood import held_out, likelihoods
from lingshu.train.loop import train
from lingshu.weights.method import Weighting
from lingshu.weights.result import Merge, merge


def main(checkpoint: str, data: str, held: str, out: str, *changes: str) -> int:
    folders = {}
    for name in ("fluency", "entities", "second_seed"):
        config = configuration.override(
            replace(recipe(), model=checkpoint, data={"train": data}), [*VARIANTS[name], *changes]
        )
        folders[name] = train(config, Path(out) / name, resume=True)
    for name, other in (("moft", "entities"), ("soup", "second_seed")):
        folders[name] = Path(out) / name
        merge(Merge((folders["fluency"], folders[other])), folders[name], Weighting((0.5, 0.5)))
    for name, folder in folders.items():
        loaded = load(str(folder))
        rows = likelihoods(
            loaded,
            held_out([Path(held)], loaded.processor),
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
