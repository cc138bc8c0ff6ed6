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

from lingshu.core.nouns import Message, Sample
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


class Tally(NamedTuple):
    items: int
    replies: int
    wrong: Counter
    apart: Counter
    examples: list


def items(name: str) -> Iterator[Item]:
    for line in (DATA / name / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        options = row.get("options") or listed(row["question"])
        pairs = (
            list(options.items())
            if isinstance(options, dict)
            else [(o["letter"], o["content"]) for o in options]
        )
        gold = (row.get("label") or row.get("answer_idx"))[0]
        yield Item(
            row["id"], tuple(text for _, text in pairs), [letter for letter, _ in pairs].index(gold)
        )


def listed(question: str) -> dict[str, str]:
    """The options of "... Answer Choices: (A) first (B) second"."""
    body, found, start = question.rsplit("Answer Choices:", 1)[1], {}, 0
    marks = []
    for letter in LETTERS:
        place = body.find(f"({letter}) ", start)
        if place < 0:
            break
        marks.append((letter, place))
        start = place + 4
    for number, (letter, place) in enumerate(marks):
        end = marks[number + 1][1] if number + 1 < len(marks) else None
        found[letter] = body[place + 4 : end].strip()
    return found


def tally(questions: list[Item], seed: int, *, every_option: bool) -> Tally:
    pick, wrong, apart, examples, replies = random.Random(seed), Counter(), Counter(), [], 0
    for item in questions:
        known = choice.options(item.choices)
        question = Sample(
            "x", (Message("user", ("?",)),), gold=(LETTERS[item.gold],), choices=item.choices
        )
        others = [place for place in range(len(known)) if place != item.gold]
        for said in (item.gold, *(others if every_option else pick.sample(others, 1))):
            twin = sum(option.form == known[said].form for option in known) > 1
            letter_like = (
                bool(re.fullmatch(r"\W*[A-Za-z]\W*", known[said].text))
                and known[said].form.strip().upper() in LETTERS[: len(known)]
            )
            for name, template in FORMATS.items():
                if name in NO_ANSWER and said != item.gold:
                    continue
                reply = (
                    template
                    if name in NO_ANSWER
                    else template.format(L=LETTERS[said], T=item.choices[said])
                )
                found = choice.score(question, reply)
                replies += 1
                good = (
                    found.status == NO_ANSWER[name]
                    if name in NO_ANSWER
                    else (found.value == 1.0) == (said == item.gold)
                )
                if good:
                    continue
                if name in TEXT_ONLY and (twin or letter_like):
                    apart[item.id] += 1
                    continue
                kind = (
                    "class"
                    if name in NO_ANSWER
                    else "right marked wrong"
                    if said == item.gold
                    else "wrong marked right"
                )
                wrong[kind, name] += 1
                examples.append((item.id, reply, found))
    return Tally(len(questions), replies, wrong, apart, examples[:10])


def told(name: str, found: Tally) -> None:
    counts = f"{found.items} items, {found.replies} replies, misread {found.wrong.total()}"
    print(f"{name}: {counts}; apart ({len(found.apart)}): {sorted(found.apart)}")


@pytest.mark.parametrize("name", ["text_mcq_benchmarks", "medxpertqa_mm"])
def test_every_format_on_a_sample(name: str) -> None:
    found = tally(random.Random(3).sample(list(items(name)), 300), 0, every_option=False)
    told(name, found)
    assert not found.wrong, found.examples


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_mcq_benchmarks", "medxpertqa_mm"])
def test_every_format_on_every_item_and_option(name: str) -> None:
    found = tally(list(items(name)), 0, every_option=True)
    told(name, found)
    assert not found.wrong, found.examples
