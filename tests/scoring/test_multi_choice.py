"""Several right options: the set counts, in whatever way its letters are written."""

from __future__ import annotations

import pytest

from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Sample
from lingshu.scoring.multi_choice import parse_letters, score

SAMPLE = Sample(
    "a",
    (user_turn("Q?\nA. one\nB. two\nC. three\nD. four", 0),),
    gold=("ABD", "A, B, D"),
    meta=Meta(kind="closed", extra={"multi_choice": "yes"}),
)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("ABD", 1.0),
        ("A, B, D", 1.0),
        ("A、B、D", 1.0),
        ("BDA", 1.0),
        ("The answer is ABD.", 1.0),
        ("答案：ABD。", 1.0),
        ("A, B and D", 1.0),
        (r"\boxed{ABD}", 1.0),
        ("<think>C</think>A B D", 1.0),
        ("ABD，因为它们都对", 1.0),
        ("A. one\nB. two\nD. four", 1.0),
        ("AB", 0.0),
        ("ABCD", 0.0),
        ("C", 0.0),
        ("", None),
        ("nothing of the sort", None),
        ("I cannot determine the answer.", None),
    ],
)
def test_the_set_of_letters_is_compared(reply: str, value: float | None) -> None:
    assert score(SAMPLE, reply).value == value


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("A and B, not C", "AB"),
        ("A, B and C because I think so", "ABC"),
        ("The answer is A and C because I think so", "AC"),
        ("A选项错误，C选项错误，所以选BD", "BD"),
        ("A,B正确，C错误", "AB"),
        ("A、C错误，选BD", "BD"),
        ("AC错误，BD正确", "BD"),
        ("A and C are wrong, B and D are right", "BD"),
        ("A and B, not C or D", "AB"),
        ("A: correct, B: incorrect, C: correct", "AC"),
        ("Options A and D are plausible, but the correct answers are B and C.", "BC"),
        ("At first AB, but the answer is BD.", "BD"),
        ("A and B are seen on CT and MRI", "AB"),
        ("A lesion is seen, so B and C", "BC"),
        ("ABD is the right answer since C is dull", "ABD"),
        ("C and E", "C"),
        ("I think so", ""),
        ("答案：A、B、D。C不符合题意。", "ABD"),
        ("The answers are A, B and D. Option C describes something else.", "ABD"),
        ("Answer: A, B, D\n\nExplanation:\nA: ...\nC: only in children.", "ABD"),
        ("答案：A\n解析：C不符合题意。", "A"),
        ("Answer: A. one\nB. two", "AB"),
        ("Answer:\nA\nC", "AC"),
    ],
)
def test_the_letters_that_a_reply_chooses_are_read(reply: str, letters: str) -> None:
    assert parse_letters(reply, allowed="ABCD") == letters


def test_denied_letters_and_letters_beyond_the_options_are_not_in_the_set() -> None:
    three = Sample("a", SAMPLE.messages, gold=("ABC", "A, B, C"), meta=SAMPLE.meta)
    assert score(three, "A and B, not C").value == 0.0
    assert score(three, "A, B and C because I think so").value == 1.0


def test_the_pronoun_is_not_a_letter_among_nine_options() -> None:
    assert parse_letters("I think A and C", allowed="ABCDEFGHI") == "AC"
    assert parse_letters("A and I", allowed="ABCDEFGHI") == "AI"
