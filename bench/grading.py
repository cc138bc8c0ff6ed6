"""Grading side by side: choice verdicts per second over 31 answer formats, and against similarity
matching on long replies.

    python bench/grading.py [ROWS.jsonl]

ROWS.jsonl holds `choices` a row (a list of texts, or letter -> text); without it the questions are
made up. Times are seconds of processor time in one process, the fastest of five passes.
"""

from __future__ import annotations

import difflib
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from _record import record, table

from lingshu.core.rows import LETTERS, read_choices
from lingshu.core.types import Message, Sample
from lingshu.scoring import auto, choice
from lingshu.scoring.protocols import table as table_module

FORMATS = Path(__file__).parent.parent / "tests" / "golden" / "parity" / "answer_formats.json"
NO_ANSWER = ("(empty)", "refusal")
PASSES = 5
LONG = 4_000
FINDINGS = (
    "Pneumonia", "Pleural effusion", "Normal study", "Rib fracture", "Lung abscess", "Left atrial enlargement", "Pulmonary embolism",
    "Squamous cell carcinoma of the lung", "Tension pneumothorax", "Interstitial fibrosis", "Aortic dissection", "Hiatal hernia",
    "Repeat the radiograph in two weeks and start antibiotics", "Acute respiratory distress syndrome", "Tuberculosis", "Sarcoidosis",
)  # fmt: skip
FILLER = (
    "the heart is of normal size", "there is no free air", "both hila are unremarkable", "the trachea is in the midline",
    "bone density is within limits", "this makes some of the options less plausible", "a repeat view would help",
    "the history matters here",
)  # fmt: skip

Reply = tuple[Sample, str]


def questions(file: Path | None, count: int, seed: int = 0) -> list[tuple[str, ...]]:
    """The options of some questions: of a file, or four synthetic ones about findings."""
    pick = random.Random(seed)
    if file is None:
        return [tuple(pick.sample(FINDINGS, 4)) for _ in range(count)]
    rows = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    # Options may come as {"letter", "content"}; rows without options are passed over.
    choice_lists = [row.get("choices") or row.get("options") for row in rows]
    lists = [
        (
            [o["content"] for o in one]
            if isinstance(one, list) and one and isinstance(one[0], dict)
            else one
        )
        for one in choice_lists
        if one
    ]
    found = [read_choices(one) for one in lists]
    return pick.sample(found, min(count, len(found)))


def sample(choices: tuple[str, ...], gold: int) -> Sample:
    return Sample("x", (Message("user", ("Which?",)),), gold=(LETTERS[gold],), choices=choices)


def short_replies(lists: Sequence[tuple[str, ...]], template: str) -> list[Reply]:
    pick = random.Random(1)
    gold_indices = [(choices, pick.randrange(len(choices))) for choices in lists]
    return [
        (sample(choices, gold_index), template.format(L=LETTERS[gold_index], T=choices[gold_index]))
        for choices, gold_index in gold_indices
    ]


def long_replies(lists: Sequence[tuple[str, ...]]) -> list[Reply]:
    pick, found = random.Random(2), []
    for choices in lists:
        gold_index, text = pick.randrange(len(choices)), ""
        while len(text) < LONG - 60:
            text += pick.choice(FILLER).capitalize() + ". "
            if pick.random() < 0.1:
                text += f"{pick.choice(choices)} was considered. "
        found.append(
            (
                sample(choices, gold_index),
                f"{text[: LONG - 60]}\n\nThe answer is {LETTERS[gold_index]}.",
            )
        )
    return found


def by_similarity(sample: Sample, reply: str) -> int:
    """The option of the highest difflib ratio to the reply, the fallback of published graders."""
    shown = [
        f"{letter}. {text}".lower() for letter, text in zip(LETTERS, sample.choices, strict=False)
    ]
    ratios = [difflib.SequenceMatcher(None, text, reply.lower()).ratio() for text in shown]
    return ratios.index(max(ratios))


def seconds(grade: Callable[[Sample, str], object], replies: Sequence[Reply]) -> float:
    """Processor seconds of one pass, the fastest of five."""
    best = float("inf")
    for _ in range(PASSES):
        start = time.process_time()
        for question, reply in replies:
            grade(question, reply)
        best = min(best, time.process_time() - start)
    return best


def right(replies: Sequence[Reply]) -> float:
    return sum(choice.score(question, reply).value == 1.0 for question, reply in replies) / len(
        replies
    )


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    lists = questions(file, 300)
    templates = {
        k: v
        for k, v in json.loads(FORMATS.read_text(encoding="utf-8")).items()
        if k not in NO_ANSWER
    }
    medevalkit = table_module.protocol_scorer(auto.score, "medevalkit")
    rows, lingshu_run, peer_run, count = [], 0.0, 0.0, 0
    for name, template in templates.items():
        replies = short_replies(lists, template)
        mine, peer = seconds(choice.score, replies), seconds(medevalkit, replies)
        lingshu_run, peer_run, count = lingshu_run + mine, peer_run + peer, count + len(replies)
        rows.append(
            [
                f"`{name}`",
                f"{mine / len(replies) * 1e6:.1f}",
                f"{peer / len(replies) * 1e6:.1f}",
                f"{100 * right(replies):.1f}",
            ]
        )
    rows.append(
        [
            "**all 31 together, verdicts per second**",
            f"**{count / lingshu_run:,.0f}**",
            f"{count / peer_run:,.0f}",
            "",
        ]
    )
    long = long_replies(lists[:100])
    mine, peer, released = (
        seconds(choice.score, long),
        seconds(by_similarity, long),
        seconds(medevalkit, long),
    )
    source = "synthetic" if file is None else file.parent.name
    summary = (
        f"{len(lists)} questions ({source}), microseconds of CPU time per reply. On replies of"
        f" {LONG:,} characters that end with an answer: strict {mine / len(long) * 1e6:.0f},"
        f" similarity matching (difflib ratio over the options) {peer / len(long) * 1e6:.0f},"
        f" **{peer / mine:.0f} times** as much; the medevalkit protocol"
        f" {released / len(long) * 1e6:.0f}. Of these replies strict reads {100 * right(long):.0f}%"
        " right."
    )
    record(
        "grading",
        "Grading multiple choice",
        summary
        + "\n\n"
        + table(["format", "strict (µs)", "medevalkit (µs)", "strict reads right (%)"], rows),
    )
    print(summary)
    print(f"{count / lingshu_run:,.0f} verdicts per second")


if __name__ == "__main__":
    main()
