"""What the scorers guarantee in addition to their golden files: golds in every format, errors that name the
sample, no crash.
"""

import random

import pytest

from lingshu.core.errors import InputError
from lingshu.core.types import Message, Meta, Sample, Score
from lingshu.scoring import auto, choice, exact, yes_no

CHOICES = ("Cyst", "Abscess", "Hematoma")


def sample(*gold: str, choices: tuple[str, ...] = (), kind: str | None = None) -> Sample:
    return Sample(
        "x", (Message("user", ("?",)),), gold=gold or None, choices=choices, meta=Meta(kind=kind)
    )


@pytest.mark.parametrize("gold", ["B", "b", "(B)", "B.", "Abscess", "abscess", "B. Abscess"])
@pytest.mark.parametrize(
    "choices",
    [
        CHOICES,
        ("A. Cyst", "B. Abscess", "C. Hematoma"),
        ("(A) Cyst", "(B) Abscess", "(C) Hematoma"),
    ],
)
def test_a_gold_is_a_letter_a_text_or_both(gold, choices):
    assert choice.score(sample(gold, choices=choices), "The answer is B").value == 1.0
    assert choice.score(sample(gold, choices=choices), "cyst").value == 0.0


def test_several_golds_are_each_accepted():
    two_golds = sample("A", "C", choices=CHOICES)
    assert [choice.score(two_golds, reply).value for reply in "ABC"] == [1.0, 0.0, 1.0]


def test_a_single_letter_word_is_not_a_label():
    assert [option.text for option in choice.parse_options(("A. fumigatus", "C. albicans"))] == [
        "A. fumigatus",
        "C. albicans",
    ]


@pytest.mark.parametrize(
    ("scorer", "bad"),
    [
        (choice, sample("D", choices=CHOICES)),
        (choice, sample("-1", choices=CHOICES)),
        (choice, sample("A")),
        (choice, sample(choices=CHOICES)),
        (yes_no, sample("left")),
        (yes_no, sample()),
        (exact, sample()),
    ],
)
def test_a_gold_that_cannot_be_matched_is_named(scorer, bad):
    with pytest.raises(InputError, match="'x'"):
        scorer.score(bad, "A")


def test_tied_options_are_reported():
    assert choice.score(sample("A", choices=CHOICES), "A or C") == Score(
        None, "multiple", None, "A or C"
    )


@pytest.mark.parametrize(
    ("question", "reply", "value"),
    [
        (sample("B", choices=CHOICES), "(B)", 1.0),
        (sample("yes"), "Yes, there is a nodule.", 1.0),
        (sample("left lung"), "Left lung.", 1.0),
        (sample("2", kind="count"), "two", 1.0),
        (sample("no", kind="exact"), "no", 1.0),
    ],
)
def test_auto_takes_the_scorer_that_fits(question, reply, value):
    assert auto.score(question, reply).value == value


@pytest.mark.parametrize(
    ("gold", "reply", "value"),
    [
        ("2", "-2", 0.0),
        ("3", "a T-score of -3", 0.0),
        ("-2", "-2", 1.0),
        ("12", "vitamin B-12", 1.0),
        ("pneumonia", "Negative for pneumonia", 0.0),
        ("pneumonia", "The patient denies pneumonia.", 0.0),
        ("pneumonia", "The image lacks pneumonia.", 0.0),
        ("pneumonia", "Lungs clear of pneumonia", 0.0),
        ("negative for pneumonia", "Negative for pneumonia.", 1.0),
        ("pneumonia", "The image shows pneumonia.", 1.0),
    ],
)
def test_a_free_answer_with_another_sign_or_denied_is_not_the_gold(gold, reply, value):
    assert [auto.score(sample(gold, kind=kind), reply).value for kind in ("closed", "open")] == [
        value,
        value,
    ]


def random_reply(seed: int) -> str:
    parts = ["A", "b", "(C)", "\\boxed{", "}", "<answer>", "</answer>", "<think>", "</think>", "not ", "yes", "no", "是否", "答案", "**",
             "\x00", "\u202e", "\ud83d", "$", "Cyst", " ", "\n", "the answer is ", "9" * 400, ".", "1e999", "١", "½", "İ"]  # fmt: skip
    rng = random.Random(seed)
    return "".join(rng.choice(parts) for _ in range(rng.randrange(1, 40)))


@pytest.mark.parametrize(
    "seeds", [range(500), pytest.param(range(500, 10_000), marks=pytest.mark.slow)]
)
def test_no_reply_raises(seeds):
    questions = [sample("B", choices=CHOICES), sample("yes"), sample("1.2 cm", "left, right")]
    for reply in map(random_reply, seeds):
        for question in questions:
            assert auto.score(question, reply).value in (None, 0.0, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_million_characters_take_no_more_than_seconds():
    for part in (
        "x",
        " ",
        "A ",
        "\\boxed{",
        "<answer>",
        "the answer is ",
        "(A) ",
        "no ",
        "答案是",
        "not ",
        "$",
        "Cyst ",
    ):
        for question in (sample("B", choices=CHOICES), sample("yes"), sample("left, right")):
            auto.score(question, part * (1_000_000 // len(part)))
