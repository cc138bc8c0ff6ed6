"""The words of the published protocol, in both styles and languages, and what is done with images
and contexts.
"""

from __future__ import annotations

from typing import Any

import pytest

from lingshu.core.errors import InputError
from lingshu.core.messages import user_turn
from lingshu.core.prompts import REPORT, build_prompt, instructions, question_stem
from lingshu.core.rows import with_choices
from lingshu.core.types import Image, Meta, PromptStyle, Sample

OPTIONS = ("Pneumonia", "Normal")
LETTER = "Answer with the option's letter from the given choices"
LISTED = "\nQuestion: Q?\nOptions: \nA. Pneumonia\nB. Normal\n"


def sample(
    question: str = "Q?", *, images: int = 0, choices: tuple[str, ...] = (), **fields: object
) -> Sample:
    extra = Meta(**{"kind": "choice" if choices else "open", "language": "en", **fields})
    parts = tuple(Image(path=f"{i}.png") for i in range(images))
    return Sample(
        "a",
        (user_turn(with_choices(question, choices), images),),
        parts,
        choices=choices,
        meta=extra,
    )


@pytest.mark.parametrize(
    ("kind", "language", "style", "text"),
    [
        ("choice", "en", "direct", LISTED + LETTER + " directly."),
        ("choice", "en", "cot", LISTED + LETTER + ' and put the letter in one "\\boxed{}".'),
        ("choice", "zh", "direct", "\n问题： Q?\n选项： \nA. Pneumonia\nB. Normal\n请直接使用给定选项中的选项字母来回答该问题。"),
        ("yes_no", "en", "direct", "Q?\nPlease output 'yes' or 'no'(no extra output)."),
        ("yes_no", "en", "cot", 'Q?\nPlease output "yes" or "no" and put the answer in one "\\boxed{}".'),
        ("yes_no", "zh", "direct", "Q?\n请输出'是'或'否'(不要有任何其它输出)。"),
        ("closed", "en", "direct", "Q?\nAnswer the question using a single word or phrase."),
        ("closed", "en", "cot", 'Q?\nAnswer the question using a single word or phrase and put the answer in one "\\boxed{}".'),
        ("closed", "zh", "cot", "Q?\n请用一个单词或者短语回答该问题，并将答案放在一个'\\boxed{}'中。"),
        ("open", "en", "direct", "Q?\nPlease answer the question concisely."),
        ("open", "zh", "cot", "Q?\n请简要回答该问题，并将答案放在一个'\\boxed{}'中。"),
        ("report", "en", "cot", REPORT),
    ],
)  # fmt: skip
def test_the_texts_are_those_of_the_protocol(
    kind: str, language: str, style: PromptStyle, text: str
) -> None:
    choices = OPTIONS if kind == "choice" else ()
    prompted = build_prompt(sample(choices=choices, kind=kind, language=language), style)
    assert prompted.question == text


def test_every_family_has_both_styles_in_both_languages() -> None:
    families = {kind for kind, _, _ in instructions()}
    assert len(instructions()) == len(families) * 4


def test_one_image_comes_first_and_several_are_labeled() -> None:
    assert build_prompt(sample(images=1), "direct").messages[-1].parts[0] == 0
    parts = build_prompt(sample(images=2), "direct").messages[-1].parts
    assert parts[:4] == ("<image_1>: ", 0, "<image_2>: ", 1)


def test_a_context_precedes_the_question() -> None:
    question = sample("Context: c1\nc2\n\nQ", choices=("yes", "no"), extra={"context": "c1\nc2"})
    assert question_stem(question) == "Q"
    assert build_prompt(question, "direct").question.startswith(
        "Context: c1\nc2\n\nQuestion: Q\nOptions: \nA. yes\nB. no\n"
    )


def test_several_right_options_are_prompted_as_letters() -> None:
    question = sample(with_choices("Q?", OPTIONS), kind="closed", extra={"multi_choice": "yes"})
    assert build_prompt(question, "direct").question == (
        LISTED + "Answer with the letters of all right options from the given choices directly."
    )


@pytest.mark.parametrize("fields", [{"language": "fr"}, {"kind": "chioce"}])
def test_an_unknown_language_or_kind_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"en and zh|did you mean 'choice'"):
        build_prompt(sample(**fields), "direct")


def test_a_rubric_dialogue_stays_as_it_is() -> None:
    question = sample(kind="rubric")
    assert build_prompt(question, "cot") is question
