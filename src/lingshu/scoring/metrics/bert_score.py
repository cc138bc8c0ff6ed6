"""BERTScore F1 as RadCliQ takes it: distilroberta-base, layer 5, rescaled with the package's
baseline, no IDF.

The configuration of CXR-Report-Metric; RadEval weighs words by an IDF of the references instead and
has other values.
"""

from importlib import import_module
from pathlib import Path

from lingshu.scoring.metrics._base import ModelMetric, Texts, Values

LAYER = 5


def _compute(weights: Path, predictions: Texts, gold: Texts) -> Values:
    package = import_module("bert_score")
    baseline = (
        Path(str(package.__file__)).parent / "rescale_baseline" / "en" / "distilroberta-base.tsv"
    )
    scorer = package.BERTScorer(
        model_type=str(weights / "distilroberta-base"), num_layers=LAYER, lang="en", idf=False, rescale_with_baseline=True,
        baseline_path=str(baseline),
    )  # fmt: skip
    _, _, f = scorer.score(list(predictions), list(gold))
    return {"bert_score": f.tolist()}


METRIC = ModelMetric(
    ("bert_score",),
    "bert_score",
    "pip install 'lingshu[metrics]'",
    {"distilroberta-base": "huggingface.co/distilbert/distilroberta-base, Apache-2.0"},
    _compute,
    chest_x_ray_only=False,
)
