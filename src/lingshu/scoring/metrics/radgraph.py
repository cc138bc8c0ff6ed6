"""RadGraph F1: the mean of the F1 of entities and of relations that the original RadGraph model
reads from both reports.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lingshu.core.errors import InputError
from lingshu.scoring.metrics._base import ModelMetric, Texts, Values


def annotation_f1(predicted: Mapping[str, Any], gold: Mapping[str, Any]) -> float:
    """The score of two RadGraph annotations {"entities": {id: entity}}, as CXR-Report-Metric.

    An entity is its words and its label, a relation its kind and both entities; each once, however
    often it occurs.
    """
    parts = (_f1(read(predicted), read(gold)) for read in (_entities, _relations))
    return sum(parts) / 2


def _entities(annotation: Mapping[str, Any]) -> set[tuple[str, ...]]:
    return {(entity["tokens"], entity["label"]) for entity in annotation["entities"].values()}


def _relations(annotation: Mapping[str, Any]) -> set[tuple[str, ...]]:
    entities = annotation["entities"]
    return {
        (entity["tokens"], entity["label"], kind, other["tokens"], other["label"])
        for entity in entities.values()
        for kind, target in entity["relations"]
        for other in [entities[target]]
    }


def _f1(predicted: set[tuple[str, ...]], gold: set[tuple[str, ...]]) -> float:
    return 2 * len(predicted & gold) / (len(predicted) + len(gold)) if predicted and gold else 0.0


def _compute(weights: Path, predictions: Texts, gold: Texts) -> Values:
    config = json.loads((weights / "radgraph" / "config.json").read_text(encoding="utf-8"))
    encoders = {
        config["dataset_reader"]["token_indexers"]["bert"]["model_name"],
        config["model"]["embedder"]["token_embedders"]["bert"]["model_name"],
    }
    remote_encoders = sorted(name for name in encoders if not Path(name).is_dir())
    if remote_encoders:
        raise InputError(
            f"radgraph/config.json names the encoder {remote_encoders[0]!r} on a hub; download it and write"
            " its folder as model_name there."
        )
    model = import_module("radgraph").RadGraph(model_type="radgraph", model_cache_dir=str(weights))
    annotations = model([*predictions, *gold])
    n = len(predictions)
    scores = [annotation_f1(annotations[str(i)], annotations[str(i + n)]) for i in range(n)]
    return {"radgraph_f1": scores}


METRIC = ModelMetric(
    ("radgraph_f1",),
    "radgraph",
    "pip install 'lingshu[metrics]'",
    {
        "radgraph/config.json": (
            "radgraph.tar.gz of huggingface.co/StanfordAIMI/RRG_scorers, unpacked, license"
            " unverified"
        )
    },
    _compute,
)
