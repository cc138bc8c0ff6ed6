"""Replies with the scores they must get; every reply that was once read wrong adds a row to
tests/golden.
"""

import json
from pathlib import Path

import pytest

from lingshu.core.types import Message, Sample
from lingshu.scoring import choice, exact, yes_no

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
    assert yes_no.parse_polarity(row["reply"]) == (row["prediction"], row["status"])


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
