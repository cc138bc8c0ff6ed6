"""Samples as items to be compared: each question apart from its choices, with its answer, images
and studies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lingshu.core.nouns import Sample
from lingshu.core.rows import LETTERS
from lingshu.ops._image_signature import Signature
from lingshu.ops._overlap import Item

# What may not stand on both sides of a split, besides the sample's group.
STUDIES = ("study", "patient")
# The mark of a choice within a question: "(A) ", or "A. ", "A) " and "A: " after a blank or at the
# start of a line.
_MARK = re.compile(r"(?:(?<=\s)|^)(?:\(([A-Z])\)|([A-Z])[.):])\s+")
_LABEL = re.compile(r"\s*(?:answer choices|answer options|options|choices)\s*:?\s*$", re.I)


def items(sample: Sample, signatures: Sequence[Signature] = ()) -> Iterator[Item]:
    """One item for each turn of the user, all under the sample's id and with its images.

    The words of a turn's reply belong to it; in a sample that waits for its answer the gold stands
    in, unless it is a letter.
    """
    studies = tuple(
        dict.fromkeys(v for name in ("group", *STUDIES) if (v := sample.meta.facet(name)))
    )
    asked = [place for place, message in enumerate(sample.messages) if message.role == "user"]
    for place in asked:
        replies = [m.text for m in sample.messages[place + 1 : place + 2] if m.role == "assistant"]
        if not replies and sample.gold and not sample.choices and place == asked[-1]:
            replies = [sample.gold[0]]
        text = sample.messages[place].text
        question, choices = split_choices(text, sample.choices)
        yield Item(
            sample.id,
            question,
            " ".join((*listed(text, question), *replies)),
            choices,
            tuple(signatures),
            studies,
        )


def split_choices(text: str, choices: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """A question without the choices that it lists, and the choices; those given count, else those
    that were read.
    """
    marks = (
        [(m.start(), m.end(), m[1] or m[2]) for m in _MARK.finditer(text)]
        if _may_list(text)
        else []
    )
    # The longest run of A, B, C, ... that ends the text: a vitamin A in the question begins no
    # list.
    best: list[tuple[int, int, str]] = []
    for place, mark in enumerate(marks):
        if mark[2] != "A":
            continue
        run = [mark]
        for other in marks[place + 1 :]:
            if len(run) < len(LETTERS) and other[2] == LETTERS[len(run)]:
                run.append(other)
        if len(run) >= len(best):
            best = run
    if len(best) < 2:
        return text, tuple(choices)
    ends = [*(start for start, _, _ in best[1:]), len(text)]
    read = tuple(text[start:end].strip() for (_, start, _), end in zip(best, ends, strict=True))
    return _LABEL.sub("", text[: best[0][0]]).strip(), tuple(choices) or read


def listed(text: str, question: str) -> list[str]:
    """What was cut from a text to leave its question; nothing is lost to the comparison of n-grams."""
    return [] if len(question) == len(text) else [text[len(question) :]]


def _may_list(text: str) -> bool:
    return "A)" in text or "A." in text or "A:" in text
