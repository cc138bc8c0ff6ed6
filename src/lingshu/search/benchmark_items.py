"""Samples as items to be compared: each question apart from its choices, with its answer, images
and studies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lingshu.core.rows import LETTERS
from lingshu.core.types import Sample
from lingshu.search.image_hash import ImageSignature
from lingshu.search.overlap import BenchmarkItem

# What may not stand on both sides of a split, besides the sample's group.
STUDY_FACETS = ("study", "patient")
# The mark of a choice within a question: "(A) ", or "A. ", "A) " and "A: " after a blank or at the
# start of a line.
_CHOICE_MARK = re.compile(r"(?:(?<=\s)|^)(?:\(([A-Z])\)|([A-Z])[.):])\s+")
_LABEL = re.compile(r"\s*(?:answer choices|answer options|options|choices)\s*:?\s*$", re.I)


def benchmark_items(
    sample: Sample, signatures: Sequence[ImageSignature] = ()
) -> Iterator[BenchmarkItem]:
    """One item for each turn of the user, all under the sample's id and with its images.

    The words of a turn's reply belong to it; in a sample that waits for its answer the gold stands
    in, unless it is a letter.
    """
    studies = tuple(
        dict.fromkeys(v for name in ("group", *STUDY_FACETS) if (v := sample.meta.facet(name)))
    )
    user_turns = [index for index, message in enumerate(sample.messages) if message.role == "user"]
    for index in user_turns:
        replies = [m.text for m in sample.messages[index + 1 : index + 2] if m.role == "assistant"]
        if not replies and sample.gold and not sample.choices and index == user_turns[-1]:
            replies = [sample.gold[0]]
        text = sample.messages[index].text
        question, choices = split_choices(text, sample.choices)
        yield BenchmarkItem(
            sample.id,
            question,
            " ".join((*removed_text(text, question), *replies)),
            choices,
            tuple(signatures),
            studies,
        )


def split_choices(text: str, choices: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """A question without the choices that it lists, and the choices; those given count, else those
    that were read.
    """
    marks = (
        [(m.start(), m.end(), m[1] or m[2]) for m in _CHOICE_MARK.finditer(text)]
        if _may_contain_choices(text)
        else []
    )
    # The longest run of A, B, C, ... that ends the text: a vitamin A in the question begins no
    # list.
    longest_run: list[tuple[int, int, str]] = []
    for index, mark in enumerate(marks):
        if mark[2] != "A":
            continue
        run = [mark]
        for next_mark in marks[index + 1 :]:
            if len(run) < len(LETTERS) and next_mark[2] == LETTERS[len(run)]:
                run.append(next_mark)
        if len(run) >= len(longest_run):
            longest_run = run
    if len(longest_run) < 2:
        return text, tuple(choices)
    ends = [*(start for start, _, _ in longest_run[1:]), len(text)]
    parsed_choices = tuple(
        text[start:end].strip() for (_, start, _), end in zip(longest_run, ends, strict=True)
    )
    return _LABEL.sub("", text[: longest_run[0][0]]).strip(), tuple(choices) or parsed_choices


def removed_text(text: str, question: str) -> list[str]:
    """What was cut from a text to leave its question; nothing is lost to the comparison of n-grams."""
    return [] if len(question) == len(text) else [text[len(question) :]]


def _may_contain_choices(text: str) -> bool:
    return "A)" in text or "A." in text or "A:" in text
