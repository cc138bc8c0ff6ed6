"""Replies in the dialects of many models, each with the verdict that a careful reader gives, and grids
that hold each form against its mirror image.

tests/golden/replies.jsonl was labeled before it was scored: `want` is "right" where the reply gives
the gold answer, "wrong" where it gives another, "none" where it gives no single answer.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from lingshu.core.reply_text import to_plain_text
from lingshu.core.types import Message, Meta, Reply, Sample
from lingshu.evaluate.score import score_reply
from lingshu.scoring import auto, choice, report, yes_no

GOLDEN = Path(__file__).parent.parent / "golden"
ROWS = [json.loads(line) for line in (GOLDEN / "replies.jsonl").read_text("utf-8").splitlines()]
OPTIONS = ("Pneumonia", "Pleural effusion", "Pneumothorax", "Lung cancer")


def value(row: dict[str, Any], gold: str) -> float | None:
    sample = Sample(
        "x",
        (Message("user", (row["question"],)),),
        gold=(gold,),
        choices=tuple(row.get("choices", ())),
        meta=Meta(kind=row.get("scorer")),
    )
    return score_reply(auto.score, sample, Reply("x", row["reply"], finish=row.get("finish"))).value


def possible_golds(row: dict[str, Any]) -> list[str]:
    if row.get("choices"):
        return [chr(ord("A") + index) for index in range(len(row["choices"]))]
    return ["yes", "no"] if row.get("scorer") == "yes_no" else [row["gold"]]


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in ROWS}))
def test_a_reply_gets_the_verdict_of_a_reader(kind: str) -> None:
    misread = []
    for row in (row for row in ROWS if row["kind"] == kind):
        if row["want"] == "right":
            is_read = value(row, row["gold"]) == 1.0
        elif row["want"] == "wrong":
            is_read = value(row, row["gold"]) != 1.0
        else:
            is_read = all(value(row, gold) != 1.0 for gold in possible_golds(row))
        if not is_read:
            misread.append((row["reply"], row["gold"], row["want"]))
    assert not misread


# Sentences with and without the denial: "{}" is the finding.
MIRRORED = [
    ("There is a {}.", "There is no {}."),
    ("There is a {} in this image.", "There is not a {} in this image."),
    ("There appears to be a {}.", "There does not appear to be a {}."),
    ("The image shows a {}.", "The image shows no {}."),
    ("The image shows a {}.", "The image does not show a {}."),
    ("The scan demonstrates a {}.", "The scan fails to demonstrate a {}."),
    ("A {} is present.", "No {} is present."),
    ("A {} is seen in the left lung.", "No {} is seen in the left lung."),
    ("A {} can be identified.", "A {} cannot be identified."),
    ("I can see a {}.", "I cannot see a {}."),
    ("The patient has a {}.", "The patient does not have a {}."),
    ("Evidence of a {} is seen.", "No evidence of a {} is seen."),
    ("It appears that there is a {}.", "It appears that there is no {}."),
    ("Based on the image, there is a {}.", "Based on the image, there is no {}."),
    ("The findings are consistent with a {}.", "The findings are not consistent with a {}."),
    ("{}: present", "{}: absent"),
    ("Positive for {}.", "Negative for {}."),
    ("No pneumonia. There is a {}.", "There is pneumonia. There is no {}."),
    ("Yes, a {}.", "No {}."),
]
MIRRORED_ZH = [
    ("图中有{}。", "图中没有{}。"),
    ("可见{}。", "未见{}。"),
    ("发现{}。", "未发现{}。"),
    ("{}存在。", "{}不存在。"),
    ("可以看到{}。", "看不到{}。"),
    ("图像显示{}", "图像未显示{}"),
    ("是的,有{}。", "不,没有{}。"),
]


@pytest.mark.parametrize(
    ("question", "finding", "pairs"),
    [
        ("Is there a nodule?", "nodule", MIRRORED),
        ("Does the image show a pleural effusion?", "pleural effusion", MIRRORED),
        ("Can a rib fracture be seen in this image?", "rib fracture", MIRRORED),
        ("图中有结节吗?", "结节", MIRRORED_ZH),
        ("图像中是否存在胸腔积液?", "胸腔积液", MIRRORED_ZH),
    ],
)
def test_a_sentence_and_its_denial_are_read_alike(
    question: str, finding: str, pairs: list[tuple[str, str]]
) -> None:
    misread = [
        reply
        for pair in pairs
        for reply, polarity in zip(
            (template.format(finding) for template in pair), ("yes", "no"), strict=True
        )
        if yes_no.parse_polarity(reply, question).polarity != polarity
    ]
    assert not misread


@pytest.mark.parametrize(
    "reply",
    [
        "There is a fracture.",
        "The image shows cardiomegaly.",
        "There may be a nodule.",
        "A nodule cannot be excluded.",
        "It is unclear whether there is a nodule.",
        "There is no lack of nodules.",
        "There is no image.",
    ],
)
def test_an_undecided_sentence_has_no_polarity(reply: str) -> None:
    assert yes_no.parse_polarity(reply, "Is there a nodule?").polarity is None


# {X} is the answer, {Y} another option.
ANSWERED = [
    "{X}",
    "({X})",
    "The answer is {X}.",
    "Answer: {X}",
    "\\boxed{{{X}}}",
    "<think>It could be {Y}.</think>{X}",
    "[THINK]The answer is {Y}.[/THINK]The answer is {X}.",
    '{{"answer": "{X}", "second_choice": "{Y}"}}',
    '{{"{X}": true, "{Y}": false}}',
    "{X}: yes\n{Y}: no",
    "{Y} ❌ {X} ✅",
    "{X}: 80%, {Y}: 20%",
    "{X} is more likely than {Y}.",
    "{Y} is less likely than {X}, so {X}.",
    "I prefer {X} to {Y}.",
    "{X} over {Y}.",
    "{X}, not {Y}",
    "Not {Y} but rather the answer is {X}.",
    "My first answer was {Y}. I change my answer to {X}.",
    "The answer is {Y}. Correction: the answer is {X}.",
    "Answer: {X}. If there were fever, the answer would be {Y}.",
    "{X}\n\nQuestion: What next?\nAnswer: {Y}",
    "First choice: {X}, second choice: {Y}",
    "Ranking: {X} > {Y}",
    "I cannot view the image, but the best answer is {X}.",
    "La respuesta correcta es {X}.",
    "Die richtige Antwort ist {X}.",
    "正解は{X}です。",
    "정답은 {X}입니다.",
    "答案不是{Y}，而是{X}",
    "{X}比{Y}更符合",
    "应选择选项{X},而不是选项{Y}。",
]


@pytest.mark.parametrize("template", ANSWERED)
def test_every_letter_is_read_wherever_it_is(template: str) -> None:
    letters = "ABCD"
    misread = [
        (reply, parsed)
        for x, y in itertools.permutations(letters, 2)
        if (parsed := choice.parse_choice(reply := template.format(X=x, Y=y), OPTIONS)).letters
        != (x,)
        or parsed.status != "ok"
    ]
    assert not misread


AFFIRM_BOTH = [
    "{X}: yes\n{Y}: yes",
    '{{"{X}": true, "{Y}": true}}',
    "{X} ✅ {Y} ✅",
    "{X}: 50%, {Y}: 50%",
    "{X} or {Y}",
    "Both {X} and {Y} are correct.",
    "{X} is correct. {Y} is correct.",
]
DENIED = [
    "{X} is the least likely.",
    "{X} is less likely than the others.",
    "Definitely not {X}.",
    "It is anything but {X}.",
    "If there were fever, it would be {X}.",
    "{X} is inconsistent with the findings.",
    "<think>The answer is {X}.</think>",
    '<tool_call>{{"name": "zoom", "arguments": {{"region": "{X}"}}}}</tool_call>',
]


@pytest.mark.parametrize("template", AFFIRM_BOTH)
def test_two_affirmed_options_are_no_answer(template: str) -> None:
    for x, y in itertools.permutations("ABCD", 2):
        parsed = choice.parse_choice(template.format(X=x, Y=y), OPTIONS)
        assert parsed.status in ("multiple", "unparsed"), (parsed, x, y)


@pytest.mark.parametrize("template", DENIED)
def test_a_denied_or_conditional_option_is_no_answer(template: str) -> None:
    for x in "ABCD":
        parsed = choice.parse_choice(template.format(X=x), OPTIONS)
        assert parsed.status != "ok" or parsed.letters != (x,), (parsed, x)


def test_the_letter_that_an_elimination_leaves_is_the_answer() -> None:
    for x in "ABCD":
        others = [letter for letter in "ABCD" if letter != x]
        for template in ("{} and {} are wrong. {} is excluded.", "We can rule out {}, {} and {}."):
            assert choice.parse_choice(template.format(*others), OPTIONS).letters == (x,)


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Answer: B. The meniscus sign is typical, and the", "B"),
        ("Option B (pleural effusion) would show blunting. Option", None),
        ("The film shows a blunted angle. Pleural effusion usually presents with", None),
    ],
)
def test_a_truncated_reply_counts_only_for_what_it_declared(reply: str, read: str | None) -> None:
    sample = Sample("x", (Message("user", ("?",)),), gold=("B",), choices=OPTIONS)
    score = score_reply(choice.score, sample, Reply("x", reply, finish="length"))
    assert score.prediction == read
    assert score.status == ("ok" if read else "unparsed")


LONG = "The lesion is extra-axial with a broad dural base. " * 40


@pytest.mark.parametrize(
    "end",
    [
        "Answer: B. If the patient had fever, the answer would be A.",
        "I first thought A, but the correct choice is B.",
        "The answer is A... no, B.",
        "Option A is unlikely. Option C is excluded. Option D is ruled out. This leaves B.",
    ],
)
def test_the_end_of_a_long_reply_is_read_as_a_short_one(end: str) -> None:
    for reply in (end, f"{LONG}\n\n{end}", f"\\boxed{{x + 1}}. {end}"):
        assert choice.parse_choice(reply, OPTIONS).letters == ("B",), reply[-100:]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ("", "empty"),
        ("<think>The answer is B.</think>", "empty"),
        ('{"name": "zoom", "arguments": {"label": "B"}}', "unparsed"),
        ('{"answer": null}', "unparsed"),
    ],
)
def test_a_structure_without_an_answer_is_not_an_empty_reply(reply: str, status: str) -> None:
    assert choice.parse_choice(reply, OPTIONS).status == status
    assert yes_no.parse_polarity(reply).status == status


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>...</think>Findings: clear.<|im_end|>", "Findings: clear."),
        ("<answer>Clear lungs.</answer>", "Clear lungs."),
        ('{"report": "Clear lungs."}', "Clear lungs."),
        # Sections of a report are not its answer, and nothing of it is an invented turn.
        ("<findings>Clear.</findings><conclusion>Normal.</conclusion>", None),
        ("[FINDINGS]\nClear.\n[CONCLUSION]\nNormal.", None),
        ('{"findings": "Clear.", "impression": "Normal."}', None),
        ("Findings: clear.\nProblem: pain.\nImpression: normal.", None),
        ("**Analysis**\nClear.\n**Conclusion**\nNormal.", None),
    ],
)
def test_a_report_keeps_all_its_sections(reply: str, expected: str | None) -> None:
    assert report.extract_report(reply) == (reply if expected is None else expected)


def test_a_bound_is_not_a_quotation() -> None:
    assert to_plain_text("> quoted") == "quoted"
    assert to_plain_text("> 4 cm") == "> 4 cm"


def test_the_conclusion_of_a_long_reply_is_a_verdict() -> None:
    question = "Is there a nodule?"
    for polarity, sentence in (("yes", "there is a nodule"), ("no", "there is no nodule")):
        reply = f"{LONG * 3}Overall, {sentence}."
        assert yes_no.parse_polarity(reply, question).polarity == polarity
