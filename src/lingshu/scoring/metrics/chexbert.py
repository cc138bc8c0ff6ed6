"""SembScore, the cosine of two reports' CheXbert [CLS] embeddings, and CheXbert F1 over its
fourteen labels.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.scoring.metrics._base import ModelMetric, Texts, Values

MAX_TOKENS = 512  # tokens that the encoder has places for
# classes of a head that mean present or uncertain; the last head has only two, and 0 is "no
# finding"
PRESENT = (1, 3)


class ReportEncoding(NamedTuple):
    """A report to CheXbert: its embedding, and the labels found present or uncertain."""

    embedding: Sequence[float]
    labels: frozenset[int]


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """The cosine of two vectors, 0 where one has no length."""
    norm = math.sqrt(math.fsum(x * x for x in first) * math.fsum(x * x for x in second))
    return math.fsum(x * y for x, y in zip(first, second, strict=True)) / norm if norm else 0.0


def label_f1(predicted: frozenset[int], gold: frozenset[int]) -> float:
    """F1 of two sets of labels, 1 where both are empty."""
    return 2 * len(predicted & gold) / (len(predicted) + len(gold)) if predicted or gold else 1.0


def _compute(weights: Path, predictions: Texts, gold: Texts) -> Values:
    package: Any = import_module("f1chexbert.f1chexbert")
    encoder = str(weights / "bert-base-uncased")
    tokenizer = package.BertTokenizer.from_pretrained(encoder, trust_remote_code=False)
    model = package.bert_labeler(pretrain_path=encoder)
    checkpoint = package.torch.load(weights / "chexbert.pth", map_location="cpu", weights_only=True)
    state = checkpoint["model_state_dict"]
    # strict=False: the checkpoint has a table of positions that encoders of today do not keep.
    incompatible_keys = model.load_state_dict(
        {name.removeprefix("module."): tensor for name, tensor in state.items()}, strict=False
    )
    if incompatible_keys.missing_keys:
        raise ValueError(f"chexbert.pth lacks {incompatible_keys.missing_keys[0]}")
    model.eval()

    def encode(text: str) -> ReportEncoding:
        ids = tokenizer(
            " ".join(text.split()), truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )["input_ids"]
        with package.torch.no_grad():
            hidden = model.bert(ids)[0][:, 0, :]
            classes = [int(head(hidden).argmax()) for head in model.linear_heads]
        labels = {head for head, value in enumerate(classes[:-1]) if value in PRESENT}
        if classes[-1] == 1:
            labels.add(len(classes) - 1)
        return ReportEncoding(hidden[0].tolist(), frozenset(labels))

    pairs = [(encode(text), encode(other)) for text, other in zip(predictions, gold, strict=True)]
    return {
        "semb_score": [cosine(text.embedding, other.embedding) for text, other in pairs],
        "chexbert_f1": [label_f1(text.labels, other.labels) for text, other in pairs],
    }


METRIC = ModelMetric(
    ("semb_score", "chexbert_f1"),
    "f1chexbert",
    "pip install f1chexbert",
    {
        "chexbert.pth": "huggingface.co/StanfordAIMI/RRG_scorers, license unverified",
        "bert-base-uncased": "huggingface.co/google-bert/bert-base-uncased, Apache-2.0",
    },
    _compute,
)
