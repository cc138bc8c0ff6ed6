"""The words that ask: four families (choice, yes or no, closed, open) in English and Chinese, and
reports.

The instructions are those of the published protocol (docs/eval.md), so that a model meets the words
it was measured with.
"""

from __future__ import annotations

from dataclasses import replace

from lingshu.core.errors import InputError, suggest_name
from lingshu.core.rows import with_choices
from lingshu.core.types import Message, PromptStyle, Sample

REPORT = (
    "You are a helpful assistant. Please generate a report for the given images, including both"
    " findings and impressions. Return the report in the following format: Findings: {}"
    " Impression: {}."
)
_BOX_INSTRUCTION = ' and put the {} in one "\\boxed{{}}".'
# (kind, language, style) -> the instruction below the question.
INSTRUCTIONS: dict[tuple[str, str, PromptStyle], str] = {
    ("choice", "en", "direct"): "Answer with the option's letter from the given choices directly.",
    ("choice", "en", "cot"): (
        "Answer with the option's letter from the given choices" + _BOX_INSTRUCTION.format("letter")
    ),
    ("choice", "zh", "direct"): "请直接使用给定选项中的选项字母来回答该问题。",
    (
        "choice",
        "zh",
        "cot",
    ): '请直接使用给定选项中的选项字母来回答该问题,并将答案包裹在"\\boxed{}"里',
    # Several right options: not in the published protocol, which asks these items for one letter.
    (
        "multi_choice",
        "en",
        "direct",
    ): "Answer with the letters of all right options from the given choices directly.",
    (
        "multi_choice",
        "en",
        "cot",
    ): (
        "Answer with the letters of all right options from the given choices"
        + _BOX_INSTRUCTION.format("letters")
    ),
    ("multi_choice", "zh", "direct"): "请直接使用给定选项中所有正确选项的字母来回答该问题。",
    (
        "multi_choice",
        "zh",
        "cot",
    ): '请直接使用给定选项中所有正确选项的字母来回答该问题,并将答案包裹在"\\boxed{}"里',
    ("yes_no", "en", "direct"): "Please output 'yes' or 'no'(no extra output).",
    ("yes_no", "en", "cot"): 'Please output "yes" or "no"' + _BOX_INSTRUCTION.format("answer"),
    ("yes_no", "zh", "direct"): "请输出'是'或'否'(不要有任何其它输出)。",
    ("yes_no", "zh", "cot"): "请输出'是'或'否'，并将答案放在一个'\\boxed{}'中。",
    ("closed", "en", "direct"): "Answer the question using a single word or phrase.",
    ("closed", "en", "cot"): (
        "Answer the question using a single word or phrase" + _BOX_INSTRUCTION.format("answer")
    ),
    ("closed", "zh", "direct"): "请用一个单词或者短语回答该问题。",
    ("closed", "zh", "cot"): "请用一个单词或者短语回答该问题，并将答案放在一个'\\boxed{}'中。",
    ("open", "en", "direct"): "Please answer the question concisely.",
    ("open", "en", "cot"): "Please answer the question concisely"
    + _BOX_INSTRUCTION.format("answer"),
    ("open", "zh", "direct"): "请简要回答该问题。",
    ("open", "zh", "cot"): "请简要回答该问题，并将答案放在一个'\\boxed{}'中。",
}
_CHOICE_LAYOUT = {"en": "\nQuestion: {}\nOptions: \n{}\n{}", "zh": "\n问题： {}\n选项： \n{}\n{}"}
VERBATIM = ("rubric",)


def question_stem(sample: Sample) -> str:
    """A sample's question without the choices listed below it and without its context."""
    text = sample.question
    if sample.choices:
        text = text.removesuffix(with_choices("", sample.choices))
    context = sample.meta.extra.get("context")
    return text.removeprefix(f"Context: {context}\n\n") if context else text


def build_prompt(sample: Sample, style: PromptStyle) -> Sample:
    """The sample with its last user turn worded for its kind and language; several images carry
    `<image_i>: ` before each.

    A report is asked for in one way in both styles, and a rubric dialogue stays as it is.

    Raises:
        InputError: a kind or a language that has no words here.
    """
    kind = "multi_choice" if sample.meta.extra.get("multi_choice") else sample.meta.kind or "open"
    if kind in VERBATIM:
        return sample
    text = REPORT if kind == "report" else _question_text(sample, kind, style)
    context = sample.meta.extra.get("context")
    if context and kind != "report":
        text = f"Context: {context}\n{text if text.startswith(chr(10)) else chr(10) + text}"
    return replace(
        sample, messages=(*sample.messages[:-1], Message("user", (*_image_parts(sample), text)))
    )


def _question_text(sample: Sample, kind: str, style: PromptStyle) -> str:
    language = sample.meta.language or "en"
    instruction = INSTRUCTIONS.get((kind, language, style))
    if instruction is None:
        if language not in _CHOICE_LAYOUT:
            raise InputError(
                f"sample {sample.id!r} has the language {language!r}; prompts are worded in en"
                " and zh."
            )
        raise InputError(
            f"sample {sample.id!r} has the kind {kind!r};"
            f" {suggest_name(kind, {k for k, _, _ in INSTRUCTIONS})}"
        )
    if kind == "multi_choice":
        question, _, options = sample.question.partition("\nA. ")
        return _CHOICE_LAYOUT[language].format(question, f"A. {options}", instruction)
    if kind == "choice":
        return _CHOICE_LAYOUT[language].format(
            question_stem(sample), with_choices("", sample.choices).strip("\n"), instruction
        )
    return f"{question_stem(sample)}\n{instruction}"


def _image_parts(sample: Sample) -> tuple[str | int, ...]:
    """The images of the last turn as parts, labelled where there are several."""
    images = [part for part in sample.messages[-1].parts if isinstance(part, int)]
    if len(images) < 2:
        return tuple(images)
    return tuple(
        part
        for position, image in enumerate(images, 1)
        for part in (f"<image_{position}>: ", image)
    )
