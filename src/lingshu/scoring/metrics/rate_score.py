"""RaTEScore: medical entities of both reports, matched by their embeddings (Zhao et al. 2024)."""

from importlib import import_module
from pathlib import Path

from lingshu.scoring.metrics._base import ModelMetric, Texts, Values


def _compute(weights: Path, predictions: Texts, gold: Texts) -> Values:
    package = import_module("RaTEScore")
    cuda = import_module("RaTEScore.scorer").torch.cuda.is_available()
    ner, encoder = str(weights / "RaTE-NER-Deberta"), str(weights / "BioLORD-2023-C")
    scorer = package.RaTEScore(bert_model=ner, eval_model=encoder, use_gpu=cuda)
    return {"rate_score": scorer.compute_score(list(predictions), list(gold))}


METRIC = ModelMetric(
    ("rate_score",),
    "RaTEScore",
    "pip install RaTEScore",
    {
        "RaTE-NER-Deberta": "huggingface.co/Angelakeke/RaTE-NER-Deberta, license unverified",
        "BioLORD-2023-C": (
            "huggingface.co/FremyCompany/BioLORD-2023-C, licenses of UMLS and SNOMED CT, unverified"
        ),
    },
    _compute,
    chest_x_ray_only=False,
)
