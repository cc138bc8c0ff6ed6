"""SembScore, the cosine of two reports' CheXbert [CLS] embeddings, and CheXbert F1 over its
fourteen labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.scoring._plug_in import PlugIn

LONGEST = 512  # tokens that the encoder has places for
# classes of a head that mean present or uncertain; the last head has only two, and 0 is "no
# finding"
PRESENT = (1, 3)


class Read(NamedTuple):
    """What CheXbert makes of a report: its embedding, and the labels that it finds present or
    uncertain.
    """

    embedding: Sequence[float]
    labels: frozenset[int]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors, 0 where one has no length."""
    norm = math.sqrt(math.fsum(x * x for x in one) * math.fsum(x * x for x in other))
    return math.fsum(x * y for x, y in zip(one, other, strict=True)) / norm if norm else 0.0


def label_f1(said: frozenset[int], gold: frozenset[int]) -> float:
    """F1 of two sets of labels, 1 where both are empty."""
    return 2 * len(said & gold) / (len(said) + len(gold)) if said or gold else 1.0


def _compute(
    weights: Path, said: Sequence[str], gold: Sequence[str]
) -> Mapping[str, Sequence[float]]:
    package: Any = import_module("f1chexbert.f1chexbert")
    encoder = str(weights / "bert-base-uncased")
    tokenizer, model = (
        package.BertTokenizer.from_pretrained(encoder),
        package.bert_labeler(pretrain_path=encoder),
    )
    state = package.torch.load(weights / "chexbert.pth", map_location="cpu", weights_only=True)[
        "model_state_dict"
    ]
    # strict=False: the checkpoint has a table of positions that encoders of today do not keep.
    left = model.load_state_dict(
        {name.removeprefix("module."): tensor for name, tensor in state.items()}, strict=False
    )
    if left.missing_keys:
        raise ValueError(f"chexbert.pth lacks {left.missing_keys[0]}")
    model.eval()

    def read(text: str) -> Read:
        ids = tokenizer(
            " ".join(text.split()), truncation=True, max_length=LONGEST, return_tensors="pt"
        )["input_ids"]
        with package.torch.no_grad():
            hidden = model.bert(ids)[0][:, 0, :]
            classes = [int(head(hidden).argmax()) for head in model.linear_heads]
        heads = range(len(classes) - 1)
        found = {head for head in heads if classes[head] in PRESENT} | (
            {len(classes) - 1} if classes[-1] == 1 else set()
        )
        return Read(hidden[0].tolist(), frozenset(found))

    pairs = [(read(mine), read(theirs)) for mine, theirs in zip(said, gold, strict=True)]
    return {
        "semb_score": [cosine(mine.embedding, theirs.embedding) for mine, theirs in pairs],
        "chexbert_f1": [label_f1(mine.labels, theirs.labels) for mine, theirs in pairs],
    }


CHEXBERT = PlugIn(
    ("semb_score", "chexbert_f1"),
    "f1chexbert",
    "pip install f1chexbert",
    {
        "chexbert.pth": "huggingface.co/StanfordAIMI/RRG_scorers, licence unverified",
        "bert-base-uncased": "huggingface.co/google-bert/bert-base-uncased, Apache-2.0",
    },
    _compute,
)
