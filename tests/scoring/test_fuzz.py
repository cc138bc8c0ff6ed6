"""Replies meant to break a reader: none raises, under any protocol, and a million characters end
quickly.
"""

from __future__ import annotations

import random
import time

import pytest

from lingshu.core.types import Message, Meta, Sample
from lingshu.core.types import Scorer as ScorerType
from lingshu.scoring import auto, exact, format, token_f1
from lingshu.scoring.protocols import table

PARTS = (
    "A", "b", "(C)", "[D]", "E.", "\\boxed{", "}", "{", "<answer>", "</answer>", "<ANSWER>", "<think>", "</think>",
    "<judge>0</judge>", "not ", "yes", "no", "Yes or no", "是否", "答案", "答案是", "选", "不", "肺", "**", "__", "`", "# ",
    "> ", "\x00", "\x1b", "\u202e", "\u200f", "\u200b", "\ufeff", "\ud83d", "😀", "$", "\\text{", "\\frac{1}{2}",
    "Cyst", "abscess", " ", "  ", "\t", "\n", "\n\n", "\r", "the answer is ", "Answer: ", "option ",
    "I cannot determine ", "9" * 400, "1,000,000", "1.5 cm", "12 mm", ".", "...", "1e999", "١", "½", "İ", "ß", "ſ",
    "Ａ", "：", "。", ", and ", " or ", "A, B, C", "because ", "left ", "right ", "a" * 200, "((((", "))))", "[[[[",
    "''''", "- " * 20, "is " * 20, ";" * 50,
)  # fmt: skip


def sample(
    *gold: str, choices: tuple[str, ...] = (), kind: str | None = None, question: str = "?"
) -> Sample:
    return Sample(
        "x", (Message("user", (question,)),), gold=gold, choices=choices, meta=Meta(kind=kind)
    )


QUESTIONS = (
    sample("B", choices=("Cyst", "Abscess", "Hematoma")),
    sample("B", choices=("Cyst", "Abscess"), question="Which? (A) Cyst (B) Abscess"),
    sample("A", choices=("yes", "no", "maybe")),
    sample("yes", kind="yes_no"),
    sample("1.2 cm", "left, right", kind="closed"),
    sample("不包含", kind="closed", question="图片中包含肝脏吗?"),
    sample("left lung", kind="open"),
    sample("No acute disease.", kind="report"),
)
SCORERS: tuple[ScorerType, ...] = (
    auto.score,
    table.protocol_scorer(auto.score, "paper"),
    table.protocol_scorer(auto.score, "medevalkit"),
    token_f1.score,
    format.score,
    exact.score,
)


def random_reply(seed: int) -> str:
    rng = random.Random(seed)
    text = "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 40)))
    # One reply in 500 is long, up to a million characters.
    if seed % 500 == 7:
        text *= min(rng.choice((10, 100, 1000)), 1_000_000 // len(text) + 1)
    return text[:1_000_000]


def grade_all(replies: range, scorers: tuple[ScorerType, ...]) -> tuple[float, int]:
    """The slowest seconds of processor time for one reply, and which seed it was."""
    slowest = (0.0, -1)
    for seed in replies:
        reply = random_reply(seed)
        for question in QUESTIONS:
            for scorer in scorers:
                start = time.process_time()
                found = scorer(question, reply)
                slowest = max(slowest, (time.process_time() - start, seed))
                assert found.value is None or 0.0 <= found.value <= 1.0
    return slowest


def test_no_reply_raises() -> None:
    grade_all(range(300), SCORERS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_replies_raise_nothing() -> None:
    seconds, seed = grade_all(range(10_000), SCORERS[:1])
    print(
        f"slowest of 10,000 replies: {seconds:.2f} s (seed {seed}, {len(random_reply(seed))} characters)"
    )
    assert seconds < 10


PATHOLOGICAL_PARTS = (
    "x", " ", "\n", "A ", "a\n", "(", "((A", "\\boxed{", "\\text{", "\\text{\\text{", "<answer>", "</answer>",
    "<answer>A</answer>", "<think>", "<think></think>", "</think>", "<", "<think", "</", "the answer is ", "answer ",
    "answer is is ", "answer to a ", "(A) ", "A, ", "A or ", "A is not ", "no ", "no or ", "yes ", "答案是", "答案", "是",
    "选", "不是", "not ", "not be ", "$", "*", "_", "#", "> ", "\\", "Cyst ", "Cyst, ", "cyst is ", "left ", "left, ",
    "lung ", "and ", ",", ".", ". ", ":", ";", "'", "-", "1", "1,", "1.", "1.1", "9,999", "I ", "I am ", "cannot be ",
    "is ", "it is ", "therefore ", "so ", "therefore, A", "option ", "\x00", "\u202e", "İ", "😀", "\ud83d", "a'", "a-",
    "-> ", "= ", "==", "é", "the diagnosis is ", "i do not ", "there is ", "According to ", "不", "是否", "**", "__a",
    "<b>", "\\(", "the ", "{", "}", "[", "]", "A]", "is the most likely ",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_characters_are_scored_quickly() -> None:
    slowest = []
    for part in PATHOLOGICAL_PARTS:
        reply = part * (1_000_000 // len(part))
        for question in QUESTIONS:
            start = time.process_time()
            auto.score(question, reply)
            slowest.append((time.process_time() - start, part, question.meta.kind or "choice"))
    slowest.sort(reverse=True)
    print(*slowest[:12], sep="\n")
    assert slowest[0][0] < 10
