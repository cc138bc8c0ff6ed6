"""Format, token F1, free answers and protocols: small cases one can check in the head."""

from __future__ import annotations

import pytest

from lingshu.core.errors import InputError, UnknownNameError
from lingshu.core.types import Message, Meta, Sample, Score
from lingshu.scoring import auto, closed, format, open, token_f1
from lingshu.scoring.protocols import table

CHOICES = ("Cyst", "Abscess", "Hematoma")


def sample(
    *gold: str, choices: tuple[str, ...] = (), kind: str | None = None, question: str = "?"
) -> Sample:
    return Sample(
        "x", (Message("user", (question,)),), gold=gold, choices=choices, meta=Meta(kind=kind)
    )


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("<think>a</think><answer>B</answer>", 1.0),
        ("\n<think>a\nb</think>\n\n<answer>\nB\n</answer>\n", 1.0),
        ("<think></think><answer>B</answer>", 1.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think>a</think><answer>B</answer> done", 0.0),
        ("Well: <think>a</think><answer>B</answer>", 0.0),
        ("<think>a</think> so <answer>B</answer>", 0.0),
        ("<answer>B</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>B</answer><answer>C</answer>", 0.0),
        ("<think>a<think>b</think></think><answer>B</answer>", 0.0),
        ("<think>a <answer>A</answer></think><answer>B</answer>", 0.0),
        ("<think>a</think><answer>B", 0.0),
        ("<answer>B</answer>", 0.0),
        ("B", 0.0),
        ("", None),
    ],
)
def test_format(reply, value):
    assert format.score(sample("B"), reply).value == value


@pytest.mark.parametrize(
    ("gold", "reply", "f1"),
    [
        ("left lung", "Left lung.", 1.0),
        ("left lung", "the left lung", 0.8),
        ("lung", "lung lung lung", 0.5),
        ("x-ray", "X-Ray", 1.0),
        ("1.5 cm", "1.5 cm", 1.0),
        ("左肺", "左肺", 1.0),
        ("左肺", "肺", 2 / 3),
        ("heart", "lung", 0.0),
    ],
)
def test_token_f1(gold, reply, f1):
    assert token_f1.score(sample(gold), reply).value == pytest.approx(f1)


def test_token_f1_takes_the_best_gold_and_leaves_an_empty_reply_unread():
    assert token_f1.score(sample("heart", "left lung"), "left lung").value == 1.0
    assert token_f1.score(sample("heart"), " ") == Score(None, "empty")


@pytest.mark.parametrize(
    ("gold", "reply"),
    [
        ("1.2 cm", "12 mm"),
        ("1.2 cm", "about 1.20 centimeters"),
        ("left", "left side of the image"),
        ("x-ray", "chest X-ray"),
        ("Lung", "lungs"),
        ("coronal", "This is the coronal plane."),
        ("ct", "The image was taken with computed tomography (CT)."),
        ("T2", "T2-weighted"),
        ("both", "both sides"),
        ("肺", "肺部"),
        ("fat", ">fat</"),
    ],
)
def test_a_paraphrased_answer_is_correct(gold, reply):
    for scorer in (open, closed):
        assert scorer.score(sample(gold), reply).value == 1.0


@pytest.mark.parametrize(
    ("gold", "reply"),
    [
        ("1.2 cm", "1.2 mm"),
        ("2", "2 or 3"),
        ("left", "left and right"),
        ("left", "right, not left"),
        ("lung", "lung cancer"),
        ("lung", "lungs, trachea"),
        ("bladder", "kidneys, bladder"),
        ("lung", "The lung is not visible."),
        ("contrast", "a noncontrast CT"),
        ("contrast", "non-contrast"),
        ("liver", "the transverse process of the liver"),
        ("left lung", "lung"),
        ("2", "There are 12 of them"),
        ("呼吸", "呼吸和循环"),
        ("male", "female"),
    ],
)
def test_an_answer_with_other_content_is_not_correct(gold, reply):
    for scorer in (open, closed):
        assert scorer.score(sample(gold), reply).value != 1.0


def test_a_chinese_gold_may_repeat_the_question():
    question = sample("不包含", question="图片中包含肝脏吗?")
    assert [
        closed.score(question, reply).value for reply in ("否", "no", "不包含", "是", "包含")
    ] == [
        1.0,
        1.0,
        1.0,
        0.0,
        0.0,
    ]


def test_an_unknown_protocol_names_the_nearest():
    for lookup in (
        lambda: table.quirks("strikt"),
        lambda: table.protocol_scorer(auto.score, "strikt"),
    ):
        with pytest.raises(UnknownNameError, match="strict"):
            lookup()


def test_strict_is_the_scorer_itself_and_the_others_name_what_they_get_wrong():
    assert table.protocol_scorer(auto.score, "strict") is auto.score
    assert table.quirks("strict") == ()
    assert all(len(table.quirks(name)) > 8 for name in ("paper", "medevalkit"))


def test_protocols_differ_where_their_rules_do():
    question, yes_no_question = sample("B", choices=CHOICES), sample("yes", kind="yes_no")
    assert [
        table.protocol_scorer(auto.score, name)(question, "The answer is: B").value
        for name in table.PROTOCOLS
    ] == [1.0, 0.0, 0.0]
    assert [
        table.protocol_scorer(auto.score, name)(yes_no_question, "Yes, a nodule.").value
        for name in table.PROTOCOLS
    ] == [1.0, 0.0, 0.0]
    assert [
        table.protocol_scorer(auto.score, name)(yes_no_question, "Yes.").value
        for name in table.PROTOCOLS
    ] == [1.0, 1.0, 1.0]


def test_reports_and_rubrics_keep_their_own_score():
    report = sample("No acute disease.", kind="report")
    for name in table.PROTOCOLS:
        assert table.protocol_scorer(auto.score, name)(report, "No acute disease").value == 1.0
    with pytest.raises(InputError, match="judge"):
        auto.score(sample("x", kind="rubric"), "x")


def test_no_questions_have_no_accuracy():
    aggregate = table.aggregate("medevalkit", [{"kind": "open", "value": 1.0}])
    assert (aggregate.all.acc, aggregate.open.acc, aggregate.closed.acc) == (1.0, 1.0, None)
