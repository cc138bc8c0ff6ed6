"""An item with a known answer, as steps ask a teacher about it: its question, its gold, and whether
a reply is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lingshu.core.rows import LETTERS
from lingshu.core.types import Sample
from lingshu.ops._sample_fields import answer_text
from lingshu.scoring import auto, choice, exact


@dataclass(frozen=True)
class QAItem:
    """The question as it is asked, options below it; the gold in short (a letter where there are
    options) and in full.
    """

    sample: Sample
    question: str
    gold: str
    gold_text: str

    @property
    def format_section(self) -> str:
        return "form: choice" if self.sample.choices else "form: open"

    def matches_exactly(self, reply: str) -> bool:
        """Whether a bare answer is the gold, letter by letter once both are written alike."""
        return (choice if self.sample.choices else exact).score(self.sample, reply).value == 1.0

    def is_correct(self, reply: str) -> bool:
        """Whether a free reply gives the gold."""
        return auto.score(self.sample, reply).value == 1.0


def qa_item(sample: Sample) -> QAItem | str:
    """The item of a sample that asks one question; else the reason why there is none."""
    if sum(message.role == "user" for message in sample.messages) != 1:
        return "several_turns"
    text = answer_text(sample).strip()
    letter = sample.gold[0] if sample.gold else text
    if sample.choices and letter not in LETTERS[: len(sample.choices)]:
        return "no_gold"
    if not text or not sample.question.strip():
        return "no_gold"
    gold = letter if sample.choices else text
    answered_sample = replace(sample, gold=sample.gold or (gold,))
    return QAItem(
        answered_sample,
        sample.question.strip(),
        gold,
        f"{letter}. {sample.choices[LETTERS.index(letter)]}" if sample.choices else text,
    )
