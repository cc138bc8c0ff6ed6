"""The words that ask: four families (choice, yes or no, closed, open) in English and Chinese, and
reports.

The instructions are those of the published protocol (docs/eval.md), so that a model meets the words
it was measured with.
"""

from __future__ import annotations

from dataclasses import replace

from lingshu.core.errors import InputError, nearest
from lingshu.core.nouns import Message, Sample, Style
from lingshu.core.rows import with_choices

REPORT = (
    "You are a helpful assistant. Please generate a report for the given images, including both"
    " findings and impressions. Return the report in the following format: Findings: {}"
    " Impression: {}."
)
_BOX = ' and put the {} in one "\\boxed{{}}".'
# (kind, language, style) -> the instruction below the question.
INSTRUCTIONS: dict[tuple[str, str, Style], str] = {
    ("choice", "en", "direct"): "Answer with the option's letter from the given choices directly.",
    ("choice", "en", "reasoned"): (
        "Answer with the option's letter from the given choices" + _BOX.format("letter")
    ),
    ("choice", "zh", "direct"): "请直接使用给定选项中的选项字母来回答该问题。",
    (
        "choice",
        "zh",
        "reasoned",
    ): '请直接使用给定选项中的选项字母来回答该问题,并将答案包裹在"\\boxed{}"里',
    # Several right options: not in the published protocol, which asks these items for one letter.
    (
        "several",
        "en",
        "direct",
    ): "Answer with the letters of all right options from the given choices directly.",
    (
        "several",
        "en",
        "reasoned",
    ): (
        "Answer with the letters of all right options from the given choices"
        + _BOX.format("letters")
    ),
    ("several", "zh", "direct"): "请直接使用给定选项中所有正确选项的字母来回答该问题。",
    (
        "several",
        "zh",
        "reasoned",
    ): '请直接使用给定选项中所有正确选项的字母来回答该问题,并将答案包裹在"\\boxed{}"里',
    ("yes_no", "en", "direct"): "Please output 'yes' or 'no'(no extra output).",
    ("yes_no", "en", "reasoned"): 'Please output "yes" or "no"' + _BOX.format("answer"),
    ("yes_no", "zh", "direct"): "请输出'是'或'否'(不要有任何其它输出)。",
    ("yes_no", "zh", "reasoned"): "请输出'是'或'否'，并将答案放在一个'\\boxed{}'中。",
    ("closed", "en", "direct"): "Answer the question using a single word or phrase.",
    ("closed", "en", "reasoned"): (
        "Answer the question using a single word or phrase" + _BOX.format("answer")
    ),
    ("closed", "zh", "direct"): "请用一个单词或者短语回答该问题。",
    ("closed", "zh", "reasoned"): "请用一个单词或者短语回答该问题，并将答案放在一个'\\boxed{}'中。",
    ("open", "en", "direct"): "Please answer the question concisely.",
    ("open", "en", "reasoned"): "Please answer the question concisely" + _BOX.format("answer"),
    ("open", "zh", "direct"): "请简要回答该问题。",
    ("open", "zh", "reasoned"): "请简要回答该问题，并将答案放在一个'\\boxed{}'中。",
}
_CHOICE_LAYOUT = {"en": "\nQuestion: {}\nOptions: \n{}\n{}", "zh": "\n问题： {}\n选项： \n{}\n{}"}
AS_THEY_ARE = ("rubric",)


def stem(sample: Sample) -> str:
    """A sample's question without the choices listed below it and without its context."""
    text = sample.question
    if sample.choices:
        text = text.removesuffix(with_choices("", sample.choices))
    context = sample.meta.extra.get("context")
    return text.removeprefix(f"Context: {context}\n\n") if context else text


def prompt(sample: Sample, style: Style) -> Sample:
    """The sample with its last user turn worded for its kind and language; several images carry
    `<image_i>: ` before each.

    A report is asked for in one way in both styles, and a rubric dialogue stays as it is.

    Raises:
        InputError: a kind or a language that has no words here.
    """
    kind = "several" if sample.meta.extra.get("several") else sample.meta.kind or "open"
    if kind in AS_THEY_ARE:
        return sample
    text = REPORT if kind == "report" else _worded(sample, kind, style)
    context = sample.meta.extra.get("context")
    if context and kind != "report":
        text = f"Context: {context}\n{text if text.startswith(chr(10)) else chr(10) + text}"
    return replace(
        sample, messages=(*sample.messages[:-1], Message("user", (*_shown(sample), text)))
    )


def _worded(sample: Sample, kind: str, style: Style) -> str:
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
            f" {nearest(kind, {k for k, _, _ in INSTRUCTIONS})}"
        )
    if kind == "several":
        question, _, options = sample.question.partition("\nA. ")
        return _CHOICE_LAYOUT[language].format(question, f"A. {options}", instruction)
    if kind == "choice":
        return _CHOICE_LAYOUT[language].format(
            stem(sample), with_choices("", sample.choices).strip("\n"), instruction
        )
    return f"{stem(sample)}\n{instruction}"


def _shown(sample: Sample) -> tuple[str | int, ...]:
    """The images of the last turn as parts, labelled where there are several."""
    images = [part for part in sample.messages[-1].parts if isinstance(part, int)]
    if len(images) < 2:
        return tuple(images)
    return tuple(
        part
        for position, image in enumerate(images, 1)
        for part in (f"<image_{position}>: ", image)
    )
