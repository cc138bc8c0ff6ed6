"""Replies with the scores they must get; every reply that was once read wrong adds a row to
tests/golden.
"""

import json
from pathlib import Path

import pytest

from lingshu.core import reply_text
from lingshu.core.types import Message, Sample
from lingshu.scoring import choice, exact, yes_no
from lingshu.scoring._gated_pattern import GatedPattern

GOLDEN = Path(__file__).parent.parent / "golden"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sample(gold: list[str], choices: list[str] | None = None) -> Sample:
    return Sample("x", (Message("user", ("?",)),), gold=tuple(gold), choices=tuple(choices or ()))


@pytest.mark.parametrize("row", rows(GOLDEN / "choice.jsonl"), ids=lambda row: row["reply"][:40])
def test_choice(row):
    parsed = choice.parse_choice(row["reply"], row["choices"])
    assert (parsed.status, parsed.letters[0] if parsed.status == "ok" else None) == (
        row["status"],
        row["prediction"],
    )


@pytest.mark.parametrize("row", rows(GOLDEN / "yes_no.jsonl"), ids=lambda row: row["reply"][:40])
def test_yes_no(row):
    assert yes_no.parse_polarity(row["reply"])[:2] == (row["prediction"], row["status"])


@pytest.mark.parametrize("row", rows(GOLDEN / "exact.jsonl"), ids=lambda row: row["reply"][:40])
def test_exact(row):
    score = exact.score(sample(row["gold"]), row["reply"])
    assert (score.value, score.status) == (row["value"], row["status"])


@pytest.mark.parametrize(
    "choices",
    [
        ["Cyst", "Abscess", "Hematoma", "Normal variant"],
        ["A. Type A dissection", "B. Hepatitis C", "C. B cell lymphoma", "D. E. coli infection"],
        ["肺炎", "胸腔积液", "正常", "肋骨骨折"],
        ["10", "100", "1.0", "0.1"],
    ],
)
def test_every_answer_format(choices):
    """Each of 33 ways to write an answer is right for the right option and wrong for all others."""
    formats = json.loads((GOLDEN / "parity" / "answer_formats.json").read_text(encoding="utf-8"))
    options = choice.parse_options(tuple(choices))
    wrong = []
    for gold in options:
        for option in options:
            for name, template in formats.items():
                has_answer = name not in ("(empty)", "refusal")
                reply = template.format(L=option.letter, T=option.text) if has_answer else template
                score = choice.score(sample([gold.letter], choices), reply)
                if (score.value == 1.0) != (has_answer and gold == option) or (
                    score.status == "ok"
                ) != has_answer:
                    wrong.append((name, reply, gold.letter, score))
    assert not wrong


# Marks that affirm or deny an option in a list of verdicts, and how they are joined to its letter.
AFFIRMED = (
    "yes",
    "Yes",
    "true",
    "True",
    "correct",
    "right",
    "✓",
    "✔",
    "✅",
    "√",
    "对",
    "正确",
    "是",
)
DENIED = ("no", "false", "incorrect", "wrong", "unlikely", "excluded", "ruled out", "impossible",
          "implausible", "not correct", "✗", "✘", "❌", "✖", "×", "错", "不正确", "不对", "否", "不是")  # fmt: skip
JOINTS = ("{}: {}", "{} - {}", "{}) {}", "({}) {}", "{}. {}", "{}：{}", "{} = {}", "{}, {}")
SEPARATORS = ("\n", "; ", ". ", ", ")
FINDINGS = ["Cyst", "Abscess", "Hematoma", "Normal variant"]


def verdict_list(marks: tuple[str, ...], joint: str, separator: str) -> str:
    return separator.join(
        joint.format(letter, mark) for letter, mark in zip("ABCD", marks, strict=False)
    )


@pytest.mark.parametrize(
    "reply",
    ["A: yes\nB: yes", "A - True. B - True. C - True. D - True.", "A) ✓ B) ✓ C) ✓", "A：对\nB：对",
     "A: correct\nB: correct", "A: yes\nB: yes\nC: no", "(A) right; (B) right"],
)  # fmt: skip
def test_a_list_that_affirms_several_options_is_several_answers(reply):
    assert choice.parse_choice(reply, FINDINGS)[:2] == (
        tuple(letter for letter in "ABCD" if letter in reply and f"{letter}: no" not in reply),
        "multiple",
    )


@pytest.mark.parametrize(
    "reply", ["A: yes\nB: no", "A) ✓ B) ✗ C) ✗", "A：对\nB：错", "A. True. B. False."]
)
def test_a_list_that_affirms_one_option_chooses_it(reply):
    assert choice.parse_choice(reply, FINDINGS)[:2] == (("A",), "ok")


def prefilter_replies() -> list[tuple[str, list[str]]]:
    formats = json.loads((GOLDEN / "parity" / "answer_formats.json").read_text(encoding="utf-8"))
    recorded = [row["inputs"] for row in rows(GOLDEN / "parity" / "judge_multi_choice.jsonl")]
    return [
        *((row["reply"], row["choices"]) for row in rows(GOLDEN / "choice.jsonl")),
        *((inputs["response"], inputs["choices"]) for inputs in recorded if inputs["response"]),
        *((row["reply"], FINDINGS) for row in rows(GOLDEN / "yes_no.jsonl")),
        *((row["reply"], FINDINGS) for row in rows(GOLDEN / "exact.jsonl")),
        *((text.format(L="B", T="Abscess"), FINDINGS) for text in formats.values()),
        *(
            (verdict_list(marks, joint, separator), FINDINGS)
            for mark in AFFIRMED + DENIED
            for marks in ((mark, mark), (mark,) * 4, (mark, "no"), ("yes", mark), (mark, "✗", "✗"))
            for joint in JOINTS
            for separator in SEPARATORS
        ),
    ]


def test_skipping_a_pattern_changes_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern is skipped where none of its required substrings occurs; that must never matter."""
    replies = prefilter_replies()
    parsed = [choice.parse_choice(reply, choices) for reply, choices in replies]
    monkeypatch.setattr(GatedPattern, "may_match", lambda *_: True)
    monkeypatch.setattr(reply_text, "contains_any", lambda *_: True)
    for (reply, choices), before in zip(replies, parsed, strict=True):
        assert choice.parse_choice(reply, choices) == before, reply
