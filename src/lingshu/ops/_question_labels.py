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

from lingshu.core.entities import EntityMatcher
from lingshu.core.response_format import Request, ResponseFormat, json_format, one_response
from lingshu.core.teacher_prompts import PromptSet, build_request
from lingshu.core.types import Sample

PROMPT_NAME = "question_type"
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
class QuestionLabels:
    """What the teacher replies."""

    question_type: QuestionType
    modality: str
    main_topic: str
    med_terms: list[str]


@cache
def _label_format() -> ResponseFormat[QuestionLabels]:
    # To be made once, and not while this module is imported: it costs milliseconds, and pydantic.
    return json_format(QuestionLabels)


def label_question(
    prompts: PromptSet, sample: Sample, *, question: str, answer: str
) -> Generator[Sequence[Request[Any]], Sequence[Any], dict[str, str]]:
    """In a talk: notes with the labels of a question and its answer, those that are known; a
    modality that the source states stays.

    Terms that do not stand in the answer word for word are left out, and counted in
    `med_terms_dropped`.
    """
    types = "\n".join(f"- {prompts.sections[f'type: {name}']}" for name in QUESTION_TYPES)
    prompt = prompts.render("ask", question=question, answer=answer, types=types)
    reply = yield from one_response(
        build_request(sample, prompt, _label_format(), images=sample.images)
    )
    terms, n_dropped = verbatim_terms(reply.med_terms, answer)
    labels = {
        "question_type": reply.question_type,
        "main_topic": reply.main_topic.strip(),
        "modality": sample.meta.modality or reply.modality.strip(),
        "med_terms": json.dumps(terms, ensure_ascii=False),
        "med_terms_dropped": str(n_dropped) if n_dropped else "",
    }
    return {name: value for name, value in labels.items() if value}


def with_labels(sample: Sample, notes: Mapping[str, str], *, kind: str | None = None) -> Sample:
    """The sample with its labels, the modality among its facts; `kind` where its answer has become
    one of another kind.
    """
    extra = {name: value for name, value in notes.items() if name != "modality"}
    return replace(
        sample,
        meta=replace(
            sample.meta,
            kind=kind or sample.meta.kind,
            modality=notes.get("modality"),
            extra={**sample.meta.extra, **extra},
        ),
    )


def verbatim_terms(terms: Sequence[str], text: str) -> tuple[list[str], int]:
    """The terms that stand in a text as whole words, each once, and how many do not."""
    unique_terms = list(dict.fromkeys(term.strip() for term in terms if term.strip()))
    found_terms = [term for term in unique_terms if EntityMatcher([term]).find(text)]
    return found_terms, len(unique_terms) - len(found_terms)
