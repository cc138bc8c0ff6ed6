"""Each of 33 ways to write an answer, on real questions: right for the right option, wrong for
every other.

Where two options say the same, or an option's text is a letter ("C" behind A), a reply of text
alone names no single option: those items are listed apart, and their lettered formats count with
the rest.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lingshu.core.types import Message, Sample
from lingshu.scoring import choice

PARITY = Path(__file__).parent.parent / "golden" / "parity"
DATA = Path(__file__).parents[2].parent / "shared" / "data"
FORMATS = json.loads((PARITY / "answer_formats.json").read_text(encoding="utf-8"))
NO_ANSWER = {"(empty)": "empty", "refusal": "refused"}
TEXT_ONLY = ("text", "The image shows text.")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

pytestmark = pytest.mark.skipif(
    not (DATA / "medxpertqa_mm").is_dir(), reason="needs the questions in ../shared/data"
)


class Item(NamedTuple):
    id: str
    choices: tuple[str, ...]
    gold: int


class FormatCounts(NamedTuple):
    items: int
    replies: int
    wrong: Counter
    ambiguous: Counter
    examples: list


def items(name: str) -> Iterator[Item]:
    for line in (DATA / name / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        options = row.get("options") or parse_options(row["question"])
        pairs = (
            list(options.items())
            if isinstance(options, dict)
            else [(o["letter"], o["content"]) for o in options]
        )
        gold = (row.get("label") or row.get("answer_idx"))[0]
        yield Item(
            row["id"], tuple(text for _, text in pairs), [letter for letter, _ in pairs].index(gold)
        )


def parse_options(question: str) -> dict[str, str]:
    """The options of "... Answer Choices: (A) first (B) second"."""
    body, options, start = question.rsplit("Answer Choices:", 1)[1], {}, 0
    positions = []
    for letter in LETTERS:
        position = body.find(f"({letter}) ", start)
        if position < 0:
            break
        positions.append((letter, position))
        start = position + 4
    for index, (letter, position) in enumerate(positions):
        end = positions[index + 1][1] if index + 1 < len(positions) else None
        options[letter] = body[position + 4 : end].strip()
    return options


def tally_errors(questions: list[Item], seed: int, *, every_option: bool) -> FormatCounts:
    rng, wrong, ambiguous, examples, replies = random.Random(seed), Counter(), Counter(), [], 0
    for item in questions:
        options = choice.parse_options(item.choices)
        question = Sample(
            "x", (Message("user", ("?",)),), gold=(LETTERS[item.gold],), choices=item.choices
        )
        wrong_indices = [
            option_index for option_index in range(len(options)) if option_index != item.gold
        ]
        for index in (
            item.gold,
            *(wrong_indices if every_option else rng.sample(wrong_indices, 1)),
        ):
            is_duplicate = (
                sum(option.normalized == options[index].normalized for option in options) > 1
            )
            resembles_letter = (
                bool(re.fullmatch(r"\W*[A-Za-z]\W*", options[index].text))
                and options[index].normalized.strip().upper() in LETTERS[: len(options)]
            )
            for name, template in FORMATS.items():
                if name in NO_ANSWER and index != item.gold:
                    continue
                reply = (
                    template
                    if name in NO_ANSWER
                    else template.format(L=LETTERS[index], T=item.choices[index])
                )
                score = choice.score(question, reply)
                replies += 1
                is_expected = (
                    score.status == NO_ANSWER[name]
                    if name in NO_ANSWER
                    else (score.value == 1.0) == (index == item.gold)
                )
                if is_expected:
                    continue
                if name in TEXT_ONLY and (is_duplicate or resembles_letter):
                    ambiguous[item.id] += 1
                    continue
                kind = (
                    "class"
                    if name in NO_ANSWER
                    else "right marked wrong"
                    if index == item.gold
                    else "wrong marked right"
                )
                wrong[kind, name] += 1
                examples.append((item.id, reply, score))
    return FormatCounts(len(questions), replies, wrong, ambiguous, examples[:10])


def print_tally(name: str, tally: FormatCounts) -> None:
    counts = f"{tally.items} items, {tally.replies} replies, misread {tally.wrong.total()}"
    print(f"{name}: {counts}; apart ({len(tally.ambiguous)}): {sorted(tally.ambiguous)}")


@pytest.mark.parametrize("name", ["text_mcq_benchmarks", "medxpertqa_mm"])
def test_every_format_on_a_sample(name: str) -> None:
    tally = tally_errors(random.Random(3).sample(list(items(name)), 300), 0, every_option=False)
    print_tally(name, tally)
    assert not tally.wrong, tally.examples


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_mcq_benchmarks", "medxpertqa_mm"])
def test_every_format_on_every_item_and_option(name: str) -> None:
    tally = tally_errors(list(items(name)), 0, every_option=True)
    print_tally(name, tally)
    assert not tally.wrong, tally.examples
