"""RadGraph F1: the mean of the F1 of entities and of relations that the original RadGraph model
reads from both reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lingshu.core.errors import InputError
from lingshu.scoring._plug_in import PlugIn


def annotation_f1(said: Mapping[str, Any], gold: Mapping[str, Any]) -> float:
    """The score of two annotations ({"entities": {id: {"tokens", "label", "relations": [[kind,
    id]]}}}), as CXR-Report-Metric.

    An entity is its words and its label, a relation its kind and both entities; each once, however
    often it occurs.
    """
    return (_f1(_entities(said), _entities(gold)) + _f1(_relations(said), _relations(gold))) / 2


def _entities(annotation: Mapping[str, Any]) -> set[tuple[str, ...]]:
    return {(one["tokens"], one["label"]) for one in annotation["entities"].values()}


def _relations(annotation: Mapping[str, Any]) -> set[tuple[str, ...]]:
    every = annotation["entities"]
    return {
        (one["tokens"], one["label"], kind, every[other]["tokens"], every[other]["label"])
        for one in every.values()
        for kind, other in one["relations"]
    }


def _f1(said: set[tuple[str, ...]], gold: set[tuple[str, ...]]) -> float:
    return 2 * len(said & gold) / (len(said) + len(gold)) if said and gold else 0.0


def _compute(
    weights: Path, said: Sequence[str], gold: Sequence[str]
) -> Mapping[str, Sequence[float]]:
    config = json.loads((weights / "radgraph" / "config.json").read_text(encoding="utf-8"))
    encoders = {
        config["dataset_reader"]["token_indexers"]["bert"]["model_name"],
        config["model"]["embedder"]["token_embedders"]["bert"]["model_name"],
    }
    remote = sorted(name for name in encoders if not Path(name).is_dir())
    if remote:
        raise InputError(
            f"radgraph/config.json names the encoder {remote[0]!r} on a hub; download it and write"
            " its folder as model_name there."
        )
    model = import_module("radgraph").RadGraph(model_type="radgraph", model_cache_dir=str(weights))
    found = model([*said, *gold])
    pairs = ((found[str(place)], found[str(place + len(said))]) for place in range(len(said)))
    return {"radgraph_f1": [annotation_f1(*pair) for pair in pairs]}


RADGRAPH = PlugIn(
    ("radgraph_f1",),
    "radgraph",
    "pip install 'lingshu[metrics]'",
    {
        "radgraph/config.json": (
            "radgraph.tar.gz of huggingface.co/StanfordAIMI/RRG_scorers, unpacked, licence"
            " unverified"
        )
    },
    _compute,
)
