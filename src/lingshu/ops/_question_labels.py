"""What PSV2026 says of an item besides its text: question type, clinical domain, modality, and the
medical terms of its answer.

Question types and fields are those of the published data set
(https://huggingface.co/datasets/ASD9987/PSV2026, CC BY 4.0).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

from lingshu.core.entities import Terms
from lingshu.core.forms import Form, Request, json_form, one
from lingshu.core.nouns import Sample
from lingshu.ops._teaching import Prompts, request

PROMPTS = "question_type"
QuestionType = Literal[
    "Visual Perception",
    "Factual Verification",
    "Comparative Analysis",
    "Mechanistic Reasoning",
    "Diagnostic Inference",
    "Clinical Management",
]
QUESTION_TYPES: tuple[str, ...] = get_args(QuestionType)


@dataclass(frozen=True)
class Labels:
    """What the teacher replies."""

    question_type: QuestionType
    modality: str
    main_topic: str
    med_terms: list[str]


@cache
def _form() -> Form[Labels]:
    # To be made once, and not while this module is imported: it costs milliseconds, and pydantic.
    return json_form(Labels)


def labelled(
    told: Prompts, sample: Sample, *, question: str, answer: str
) -> Generator[Sequence[Request[Any]], Sequence[Any], dict[str, str]]:
    """In a talk: notes with the labels of a question and its answer, those that are known; a
    modality that the source states stays.

    Terms that do not stand in the answer word for word are left out, and counted in
    `med_terms_dropped`.
    """
    types = "\n".join(f"- {told.parts[f'type: {name}']}" for name in QUESTION_TYPES)
    ask = told.fill("ask", question=question, answer=answer, types=types)
    found = yield from one(request(sample, ask, _form(), images=sample.images))
    kept, dropped = verbatim(found.med_terms, answer)
    said = {
        "question_type": found.question_type,
        "main_topic": found.main_topic.strip(),
        "modality": sample.meta.modality or found.modality.strip(),
        "med_terms": json.dumps(kept, ensure_ascii=False),
        "med_terms_dropped": str(dropped) if dropped else "",
    }
    return {name: value for name, value in said.items() if value}


def with_labels(sample: Sample, notes: Mapping[str, str], *, kind: str | None = None) -> Sample:
    """The sample with its labels, the modality among its facts; `kind` where its answer has become
    one of another kind.
    """
    said = {name: value for name, value in notes.items() if name != "modality"}
    return replace(
        sample,
        meta=replace(
            sample.meta,
            kind=kind or sample.meta.kind,
            modality=notes.get("modality"),
            extra={**sample.meta.extra, **said},
        ),
    )


def verbatim(terms: Sequence[str], text: str) -> tuple[list[str], int]:
    """The terms that stand in a text as whole words, each once, and how many do not."""
    given = list(dict.fromkeys(term.strip() for term in terms if term.strip()))
    kept = [term for term in given if Terms([term]).find(text)]
    return kept, len(given) - len(kept)
