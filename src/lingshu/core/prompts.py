"""Prompts of questions (choice, yes or no, closed, open) in English and Chinese, and of reports.

The instructions are those of the published protocol (docs/eval.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources

from lingshu.core.errors import InputError, suggest_name
from lingshu.core.rows import with_choices
from lingshu.core.types import Message, PromptStyle, Sample

REPORT = (
    "You are a helpful assistant. Please generate a report for the given images, including both"
    " findings and impressions. Return the report in the following format: Findings: {}"
    " Impression: {}."
)
_CHOICE_LAYOUT = {"en": "\nQuestion: {}\nOptions: \n{}\n{}", "zh": "\n问题： {}\n选项： \n{}\n{}"}
VERBATIM = ("rubric",)


@cache
def instructions() -> Mapping[tuple[str, str, PromptStyle], str]:
    """(kind, language, style) -> the instruction below the question.

    multi_choice is not in the published protocol, which requests one letter for these items.
    """
    table = json.loads(resources.files("lingshu.core").joinpath("prompts.json").read_bytes())
    return {
        (kind, language, style): text
        for kind, languages in table.items()
        for language, styles in languages.items()
        for style, text in styles.items()
    }


def question_stem(sample: Sample) -> str:
    """A sample's question without the choices listed below it and without its context."""
    text = sample.question
    if sample.choices:
        text = text.removesuffix(with_choices("", sample.choices))
    context = sample.meta.extra.get("context")
    return text.removeprefix(f"Context: {context}\n\n") if context else text


def build_prompt(sample: Sample, style: PromptStyle) -> Sample:
    """The sample with the prompt of its kind and language; several images are labeled.

    Reports have one prompt for both styles, and a rubric dialogue is unchanged.

    Raises:
        InputError: a kind or a language without a prompt.
    """
    kind = "multi_choice" if sample.meta.extra.get("multi_choice") else sample.meta.kind or "open"
    if kind in VERBATIM:
        return sample
    text = REPORT if kind == "report" else _question_text(sample, kind, style)
    context = sample.meta.extra.get("context")
    if context and kind != "report":
        text = f"Context: {context}\n\n" + text.removeprefix("\n")
    turn = Message("user", (*_image_parts(sample), text))
    return replace(sample, messages=(*sample.messages[:-1], turn))


def _question_text(sample: Sample, kind: str, style: PromptStyle) -> str:
    language = sample.meta.language or "en"
    instruction = instructions().get((kind, language, style))
    if instruction is None:
        if language not in _CHOICE_LAYOUT:
            problem = f"sample {sample.id!r} has the language {language!r}"
            raise InputError(f"{problem}; there are prompts in en and zh.")
        problem = f"sample {sample.id!r} has the kind {kind!r}"
        raise InputError(f"{problem}; {suggest_name(kind, {k for k, _, _ in instructions()})}")
    if kind == "multi_choice":
        question, _, options = sample.question.partition("\nA. ")
        return _CHOICE_LAYOUT[language].format(question, f"A. {options}", instruction)
    if kind == "choice":
        return _CHOICE_LAYOUT[language].format(
            question_stem(sample), with_choices("", sample.choices).strip("\n"), instruction
        )
    return f"{question_stem(sample)}\n{instruction}"


def _image_parts(sample: Sample) -> tuple[str | int, ...]:
    """The images of the last turn as parts, labeled if there are several."""
    images = [part for part in sample.messages[-1].parts if isinstance(part, int)]
    if len(images) < 2:
        return tuple(images)
    return tuple(
        part
        for position, image in enumerate(images, 1)
        for part in (f"<image_{position}>: ", image)
    )
