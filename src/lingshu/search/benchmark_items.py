"""Samples as items to compare: each question without choices, its answer, images and studies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lingshu.core.rows import LETTERS
from lingshu.core.types import Sample
from lingshu.search.image_hash import ImageSignature
from lingshu.search.overlap import BenchmarkItem

# What must not occur on both sides of a split, in addition to the sample's group.
STUDY_FACETS = ("study", "patient")
# The label of a choice within a question: "(A) ", or "A. ", "A) ", "A: " after a blank or newline.
_CHOICE_MARK = re.compile(r"(?:(?<=\s)|^)(?:\(([A-Z])\)|([A-Z])[.):])\s+")
_LABEL = re.compile(r"\s*(?:answer choices|answer options|options|choices)\s*:?\s*$", re.I)


def benchmark_items(
    sample: Sample, signatures: Sequence[ImageSignature] = ()
) -> Iterator[BenchmarkItem]:
    """One item for each turn of the user, all under the sample's id and with its images.

    A turn's reply belongs to it; in an unanswered sample the gold does, unless it is a letter.
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
        # What was cut from the question is still compared as n-grams.
        removed = [text[len(question) :]] if len(question) < len(text) else []
        answer = " ".join((*removed, *replies))
        yield BenchmarkItem(sample.id, question, answer, choices, tuple(signatures), studies)


def split_choices(text: str, choices: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """A question without the choices that it lists, and the choices: given, else read."""
    if not ("A)" in text or "A." in text or "A:" in text):
        return text, tuple(choices)
    marks = [(m.start(), m.end(), m[1] or m[2]) for m in _CHOICE_MARK.finditer(text)]
    # The longest run of A, B, C, ... that ends the text: a vitamin A does not begin a list.
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
