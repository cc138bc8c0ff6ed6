"""The words of the published protocol, in both styles and languages, and what is done with images
and contexts.
"""

from __future__ import annotations

from typing import Any

import pytest

from lingshu.core.errors import InputError
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Image, Meta, Sample, Style
from lingshu.core.rows import with_choices
from lingshu.tasks._prompts import INSTRUCTIONS, REPORT, prompt, stem

OPTIONS = ("Pneumonia", "Normal")
LETTER = "Answer with the option's letter from the given choices"
LISTED = "\nQuestion: Q?\nOptions: \nA. Pneumonia\nB. Normal\n"


def sample(
    question: str = "Q?", *, images: int = 0, choices: tuple[str, ...] = (), **facts: object
) -> Sample:
    told = Meta(**{"kind": "choice" if choices else "open", "language": "en", **facts})
    shown = tuple(Image(path=f"{i}.png") for i in range(images))
    return Sample(
        "a",
        (user_turn(with_choices(question, choices), images),),
        shown,
        choices=choices,
        meta=told,
    )


@pytest.mark.parametrize(
    ("kind", "language", "style", "text"),
    [
        ("choice", "en", "direct", LISTED + LETTER + " directly."),
        ("choice", "en", "reasoned", LISTED + LETTER + ' and put the letter in one "\\boxed{}".'),
        ("choice", "zh", "direct", "\n问题： Q?\n选项： \nA. Pneumonia\nB. Normal\n请直接使用给定选项中的选项字母来回答该问题。"),
        ("yes_no", "en", "direct", "Q?\nPlease output 'yes' or 'no'(no extra output)."),
        ("yes_no", "en", "reasoned", 'Q?\nPlease output "yes" or "no" and put the answer in one "\\boxed{}".'),
        ("yes_no", "zh", "direct", "Q?\n请输出'是'或'否'(不要有任何其它输出)。"),
        ("closed", "en", "direct", "Q?\nAnswer the question using a single word or phrase."),
        ("closed", "en", "reasoned", 'Q?\nAnswer the question using a single word or phrase and put the answer in one "\\boxed{}".'),
        ("closed", "zh", "reasoned", "Q?\n请用一个单词或者短语回答该问题，并将答案放在一个'\\boxed{}'中。"),
        ("open", "en", "direct", "Q?\nPlease answer the question concisely."),
        ("open", "zh", "reasoned", "Q?\n请简要回答该问题，并将答案放在一个'\\boxed{}'中。"),
        ("report", "en", "reasoned", REPORT),
    ],
)  # fmt: skip
def test_the_words_are_those_of_the_protocol(
    kind: str, language: str, style: Style, text: str
) -> None:
    choices = OPTIONS if kind == "choice" else ()
    asked = prompt(sample(choices=choices, kind=kind, language=language), style)
    assert asked.question == text


def test_every_family_has_both_styles_in_both_languages() -> None:
    families = {kind for kind, _, _ in INSTRUCTIONS}
    assert len(INSTRUCTIONS) == len(families) * 4


def test_one_image_comes_first_and_several_are_labelled() -> None:
    assert prompt(sample(images=1), "direct").messages[-1].parts[0] == 0
    parts = prompt(sample(images=2), "direct").messages[-1].parts
    assert parts[:4] == ("<image_1>: ", 0, "<image_2>: ", 1)


def test_a_context_stands_above_the_question() -> None:
    asked = sample("Context: c1\nc2\n\nQ", choices=("yes", "no"), extra={"context": "c1\nc2"})
    assert stem(asked) == "Q"
    assert prompt(asked, "direct").question.startswith(
        "Context: c1\nc2\n\nQuestion: Q\nOptions: \nA. yes\nB. no\n"
    )


def test_several_right_options_are_asked_for_as_letters() -> None:
    asked = sample(with_choices("Q?", OPTIONS), kind="closed", extra={"several": "yes"})
    assert prompt(asked, "direct").question == (
        LISTED + "Answer with the letters of all right options from the given choices directly."
    )


@pytest.mark.parametrize("facts", [{"language": "fr"}, {"kind": "chioce"}])
def test_what_has_no_words_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"en and zh|did you mean 'choice'"):
        prompt(sample(**facts), "direct")


def test_a_rubric_dialogue_stays_as_it_is() -> None:
    asked = sample(kind="rubric")
    assert prompt(asked, "reasoned") is asked
