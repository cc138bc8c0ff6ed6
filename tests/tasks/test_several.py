"""Several right options: the set counts, in whatever way its letters are written."""

from __future__ import annotations

import pytest

from lingshu.core.messages import user_turn
from lingshu.core.nouns import Meta, Sample
from lingshu.tasks._several import score

SAMPLE = Sample(
    "a",
    (user_turn("Q?\nA. one\nB. two\nC. three\nD. four", 0),),
    gold=("ABD", "A, B, D"),
    meta=Meta(kind="closed", extra={"several": "yes"}),
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
