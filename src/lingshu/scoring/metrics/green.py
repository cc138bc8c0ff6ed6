"""GREEN: a language model lists the errors of a report, and counts matched findings against them
(Ostmeier et al. 2024).
"""

import tempfile
from importlib import import_module
from pathlib import Path

from lingshu.scoring.metrics._base import ModelMetric, Texts, Values


def _compute(weights: Path, predictions: Texts, gold: Texts) -> Values:
    with tempfile.TemporaryDirectory() as output_dir:
        scorer = import_module("green_score").GREEN(
            str(weights / "GREEN-RadLlama2-7b"), output_dir=output_dir
        )
        _, _, scores, *_ = scorer(list(gold), list(predictions))
    return {"green": [float(score) for score in scores]}


METRIC = ModelMetric(
    ("green",),
    "green_score",
    "pip install green-score",
    {
        "GREEN-RadLlama2-7b": "huggingface.co/StanfordAIMI/GREEN-RadLlama2-7b, 14 GB, Llama 2 license"
    },
    _compute,
)
