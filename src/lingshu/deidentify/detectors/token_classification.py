"""A local model of transformers that classifies tokens (NER) as a detector of identifiers.

Any folder works whose model has a head for token classification and labels such as B-PER, PATIENT,
LOC, DATE or ID. Weights are read from safetensors; no code of the folder is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lingshu.core.errors import ConfigError, MissingExtraError
from lingshu.deidentify.names import is_ordinary
from lingshu.deidentify.scrub import Detector
from lingshu.deidentify.spans import KINDS, IdentifierSpan
from lingshu.deidentify.words import tokens

# Labels of published models (CoNLL, OntoNotes, i2b2 2014, MEDDOCAN, Stanford AIMI), by what their
# name contains; the first that fits counts. Ages and organizations are left to the rules.
_KIND_OF_LABEL = (
    ("name", r"\bPER\b|PERSON|PATIENT|DOCTOR|NAME|STAFF|HCW|NOMBRE|\bNOM\b|PRENOM"),
    ("location", r"\bLOC|GPE|HOSP|STREET|CITY|ZIP|ADDRESS|VENDOR|TERRITORIO|CALLE|VILLE|ADRESSE"),
    ("date", r"DATE|FECHAS"),
    ("phone", r"PHONE|FAX|\bTEL"),
    ("email", r"MAIL"),
    ("id", r"\bID|MEDICALRECORD|ACCOUNT|SSN|LICENSE|DEVICE|IDNUM|SECU|IPP"),
)
# Tokens of a window, and how many of them the next window sees again.
_WINDOW, _OVERLAP = 384, 64


def detector(
    *,
    model: str,
    min_score: float = 0.5,
    labels: Mapping[str, str] | None = None,
    ordinary_words: bool = False,
) -> Detector:
    """Open the model folder `model`.

    A token counts with a probability of at least `min_score`. `labels` maps labels of the model
    (without B- and I-) to kinds; by default the usual names are known. A span of ordinary words
    alone (words of medical text, eponyms) counts only with `ordinary_words`.

    Raises:
        ConfigError: not such a folder, a kind that does not exist, or no label that is known.
        MissingExtraError: transformers is not installed.
    """
    try:
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError.of("transformers", "torch") from error
    if not Path(model).is_dir():
        raise ConfigError(f"{model} is not a folder; give one with config.json and safetensors.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model, use_fast=True, local_files_only=True, trust_remote_code=False
        )
        network = AutoModelForTokenClassification.from_pretrained(
            model, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        problem = f"{model} cannot be opened as a model that classifies tokens ({error})"
        raise ConfigError(f"{' '.join(problem.split())[:300]}; give another folder.") from error
    kinds = _kinds(network.config.id2label, labels, model)
    network.eval()

    def find(text: str) -> list[IdentifierSpan]:
        encoded = tokenizer(
            text,
            return_tensors="pt",
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
            truncation=True,
            max_length=_WINDOW,
            stride=_OVERLAP,
            padding=True,
        )
        offsets_WT2 = encoded.pop("offset_mapping").tolist()
        encoded.pop("overflow_to_sample_mapping", None)
        with torch.inference_mode():
            probabilities_WTL = network(**encoded).logits.float().softmax(-1)
        scores_WT, labels_WT = probabilities_WTL.max(-1)
        spans: list[IdentifierSpan] = []
        windows = zip(offsets_WT2, scores_WT.tolist(), labels_WT.tolist(), strict=True)
        for offsets, scores, found in windows:
            for (start, end), score, label in zip(offsets, scores, found, strict=True):
                kind = kinds.get(label)
                if kind and end > start and score >= min_score:
                    spans.append(_complete_word(text, start, end, kind))
        return [span for span in _joined(spans, text) if ordinary_words or _is_sign(span, text)]

    return find


def _kinds(
    id2label: Mapping[int, str], labels: Mapping[str, str] | None, model: str
) -> dict[int, str]:
    for kind in (labels or {}).values():
        if kind not in KINDS:
            raise ConfigError(f"{kind!r} is not a kind; choose among {', '.join(KINDS)}.")
    kinds = {}
    for index, label in id2label.items():
        name = re.sub(r"^[BIESLU][-_]", "", label)
        usual = (k for k, pattern in _KIND_OF_LABEL if re.search(pattern, name.upper()))
        kind = labels.get(name) if labels is not None else next(usual, None)
        if kind:
            kinds[int(index)] = kind
    if not kinds:
        known = ", ".join(sorted(set(id2label.values())))
        raise ConfigError(f"{model} has no label that is known ({known}); set `labels`.")
    return kinds


def _complete_word(text: str, start: int, end: int, kind: str) -> IdentifierSpan:
    """A token and the rest of its word: half a name is a name that is not removed."""
    while (
        start > 0 and text[start - 1].isalnum() and text[start].isalnum() and text[start].isascii()
    ):
        start -= 1
    while (
        end < len(text) and text[end].isalnum() and text[end - 1].isalnum() and text[end].isascii()
    ):
        end += 1
    return IdentifierSpan(start, end, kind, "token_classification")


def _joined(spans: list[IdentifierSpan], text: str) -> list[IdentifierSpan]:
    joined: list[IdentifierSpan] = []
    for span in sorted(set(spans)):
        last = joined[-1] if joined else None
        if last and span.kind == last.kind and not text[last.end : span.start].strip(" .,-'’"):
            joined[-1] = last._replace(end=max(last.end, span.end))
        else:
            joined.append(span)
    return joined


def _is_sign(span: IdentifierSpan, text: str) -> bool:
    """Whether a span holds more than ordinary words; an eponym is not a person."""
    return any(not is_ordinary(word) for word in tokens(text[span.start : span.end]))
