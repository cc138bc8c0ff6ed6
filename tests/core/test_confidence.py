"""Confidence: it belongs to the answer that was read, and is None where nothing is known."""

import math

import pytest

from lingshu.core.confidence import (
    Confidence,
    TokenLogProbs,
    answer_word,
    read_confidence,
    stated_confidence,
    with_log_probs,
)
from lingshu.core.messages import user_turn
from lingshu.core.types import AnswerToken, Reply, Sample, Score, TextLogProb
from lingshu.scoring import auto

CHOICE = Sample(
    "c", (user_turn("Which?", 0),), gold=("B",), choices=("Pneumonia", "Effusion", "Edema")
)
YES_NO = Sample("y", (user_turn("Is there an effusion?", 0),), gold=("yes",))
OPEN = Sample("o", (user_turn("Where is it?", 0),), gold=("left lung",))


def confidence(sample: Sample, text: str, *tokens: AnswerToken, **fields) -> Confidence | None:
    reply = Reply(sample.id, text, answer_tokens=tokens, **fields)
    return read_confidence(reply, auto.score(sample, text), lambda text: auto.score(sample, text))


def at(text: str, word: str, number: int, probabilities: dict[str, float]) -> AnswerToken:
    """The token of the `number`-th `word` in a text, with its probability and others."""
    start = -1
    for _ in range(number + 1):
        start = text.index(word, start + 1)
    return AnswerToken(start, word, probabilities)


@pytest.mark.parametrize(
    ("sample", "text", "word", "number", "probabilities", "expected"),
    [
        (CHOICE, "B", "B", 0, {"B": 0.7, "A": 0.2}, 0.7),
        (CHOICE, "(b) Effusion", "b", 0, {"b": 0.6, "A": 0.3, "B": 0.1}, 0.7),
        (CHOICE, "The answer is **B**.", "B", 0, {"B": 0.55, "C": 0.4}, 0.55),
        (YES_NO, "Yes, there is.", "Yes", 0, {"Yes": 0.5, "yes": 0.2, "No": 0.3}, 0.7),
        (YES_NO, "No.", "No", 0, {"No": 0.9, "Yes": 0.1, "absent": 0.0}, 0.9),
        (YES_NO, "True", "True", 0, {"True": 0.6, "Yes": 0.1, "False": 0.3}, 0.7),
        (YES_NO, "否", "否", 0, {"否": 0.8, "是": 0.2}, 0.8),
        # Other text in place of a word is not the answer either: "a" is not among the words.
        (YES_NO, "There is no effusion.", "no", 0, {"no": 0.9}, 0.9),
    ],
)
def test_the_probability_is_that_of_every_way_to_write_the_answer_there(
    sample, text, word, number, probabilities, expected
):
    token = at(text, word, number, probabilities)
    assert confidence(sample, text, token) == Confidence(expected, "answer token")


def test_an_answer_counts_where_the_reply_first_commits_to_it_for_good():
    text = "B. Option A lacks a meniscus. So the answer is B."
    tokens = (
        at(text, "B", 0, dict(B=0.6, A=0.4)),
        at(text, "A", 0, dict(A=0.99)),
        at(text, "B", 1, dict(B=0.999)),
    )
    assert confidence(CHOICE, text, *tokens) == Confidence(0.6, "answer token")
    changed = "<think>The answer is A.</think>Answer: B"
    tokens = (at(changed, "A", 1, dict(A=0.9)), at(changed, "B", 0, dict(B=0.8)))
    assert confidence(CHOICE, changed, *tokens) == Confidence(0.8, "answer token")


@pytest.mark.parametrize("text", ["没有", "Bronchitis is unlike B1; Effusion"])
def test_a_part_of_a_word_is_no_answer(text):
    sample, word = (YES_NO, "有") if text == "没有" else (CHOICE, "B")
    known = confidence(sample, text, at(text, word, 0, {word: 0.99}), log_prob=TextLogProb(-0.5, 2))
    assert known == Confidence(round(math.exp(-0.5), 4), "wording")


def test_what_is_known_best_counts():
    log_prob = TextLogProb(-1.0, 2)
    stated = "left lung (confidence: 85%)"
    assert confidence(OPEN, stated, log_prob=log_prob) == Confidence(0.85, "stated")
    assert confidence(OPEN, "left lung", log_prob=log_prob) == Confidence(0.3679, "wording")
    long = confidence(OPEN, "left lung", log_prob=TextLogProb(-10.0, 100))
    assert long == Confidence(round(math.exp(-0.1), 4), "mean token")
    reply = Reply("o", stated, log_prob=log_prob)
    agreed = read_confidence(reply, auto.score(OPEN, stated), lambda _: Score(None), agreement=0.6)
    assert agreed == Confidence(0.6, "agreement")


def test_nothing_is_known_of_an_unread_reply_or_without_probabilities():
    assert confidence(CHOICE, "I cannot say", log_prob=TextLogProb(-0.1, 3)) is None
    assert confidence(CHOICE, "B") is None
    failed = Reply("c", None, error="no")
    assert read_confidence(failed, Score(None, "error"), lambda _: Score(None)) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B\nConfidence: 85%", 0.85),
        ('{"answer": "B", "confidence": 0.81}', 0.81),
        ("B. **Confidence:** 8/10", 0.8),
        ("Answer: B. Confidence level is about 70 percent.", 0.7),
        ("I am 90% confident that it is B.", 0.9),
        ("B (90% sure)", 0.9),
        ("答案：B，置信度：95%", 0.95),
        ("Probability = .65", 0.65),
        ("B. Confidence: 95", 0.95),
        ("confidence 4 out of 5", 0.8),
        ("confidence: 0", 0.0),
        ("confidence: 1", None),
        ("confidence: 8", None),
        ("confidence: 120%", None),
        ("confidence: 3/0", None),
        ("confidence: high", None),
        ("B. The 95% confidence interval is 1.2 to 3.4.", None),
        ("<think>confidence: 10%</think>B, confidence: 60%", 0.6),
        ("<think>confidence: 10%</think>B", None),
        ("", None),
    ],
)
def test_a_stated_confidence_is_read_with_its_scale(text, value):
    assert stated_confidence(text) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("token", "word"),
    [(" B", "B"), ("(b)", "b"), ("**Yes", "Yes"), ("▁No", "No"), ("有", "有"), ("Bron", None), ("", None)],
)  # fmt: skip
def test_an_answer_word_is_all_of_a_token(token, word):
    assert answer_word(token) == word


def test_tokens_of_a_server_are_placed_in_the_text():
    """Reasoning in another field comes first; its tokens are none of the text's."""
    tokens = [
        TokenLogProbs("A", math.log(0.9), {}),
        TokenLogProbs("\n\n", 0.0, {}),
        TokenLogProbs("Answer", math.log(0.5), {"B": math.log(0.3)}),
        TokenLogProbs(": ", 0.0, {}),
        TokenLogProbs("B", math.log(0.6), {" B": math.log(0.1), "C": math.log(0.2), "x": -1e4}),
    ]
    reply = with_log_probs(Reply("c", "Answer: B"), tokens)
    assert reply.answer_tokens == (AnswerToken(8, "B", {"B": 0.7, "C": 0.2}),)
    assert reply.log_prob == TextLogProb(round(math.log(0.3), 4), 3)
    for text in ("other text", ""):
        assert with_log_probs(Reply("c", text), tokens).log_prob is None
