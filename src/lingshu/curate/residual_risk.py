"""The residual-risk page: scrubbed texts for people to read, and what they found so far.

It shows texts of rows that may not leave the hospital, so it is written on request only and
readable by its owner alone. The readers' verdicts go back through `scrub_identifiers`
(deidentify/verdicts.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from heapq import nsmallest
from pathlib import Path
from typing import Any

from lingshu.core.files import write_text
from lingshu.core.quotas import stable_hash
from lingshu.core.types import Sample
from lingshu.curate.card import render
from lingshu.curate.config import CurateConfig
from lingshu.deidentify.names import is_ordinary
from lingshu.deidentify.spans import KIND_NOTE, KINDS
from lingshu.deidentify.verdicts import read_verdicts
from lingshu.deidentify.words import tokens

RESIDUAL_PAGE = "residual_risk.html"
_PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(kind.upper() for kind in KINDS)})\]")
_OWNER_ONLY = 0o600


def select_texts(read: Callable[[], Iterable[Sample]], *, n: int, seed: int) -> list[Sample]:
    """`n` samples by id and seed, whatever their order; half of them those with most open words.

    `read` reads the samples, and is called twice. The random half estimates the rate; the other
    shows where a miss is likeliest: capitalized words and numbers that no list explains.
    """

    def order(sample: Sample) -> tuple[int, str]:
        return stable_hash(sample.id, seed), sample.id

    def by_open_words(sample: Sample) -> tuple[int, tuple[int, str]]:
        return -sum(tag == "open" for tag, _ in marked_text(sample)), order(sample)

    random_half = nsmallest((n + 1) // 2, read(), key=order)
    chosen = {sample.id for sample in random_half}
    rest = (sample for sample in read() if sample.id not in chosen)
    return [*random_half, *nsmallest(n // 2, rest, key=by_open_words)]


def marked_text(sample: Sample) -> list[tuple[str, str]]:
    """The dialogue and gold of a sample in pieces: `gone` for placeholders, `open` for words and
    numbers that could identify, "" for the rest.
    """
    texts = [message.text for message in sample.messages]
    text = "\n".join([*texts, *(gold for gold in sample.gold or () if gold not in texts)])
    marks = [(match.start(), match.end(), "gone") for match in _PLACEHOLDER.finditer(text)]
    covered = {position for start, end, _ in marks for position in range(start, end)}
    for word in tokens(text):
        is_open = word.text[:1].isupper() and len(word.text) > 1 and not is_ordinary(word)
        is_open = is_open or sum(map(str.isdigit, word.text)) > 3
        if is_open and word.start not in covered:
            marks.append((word.start, word.end, "open"))
    pieces, position = [], 0
    for start, end, tag in sorted(marks):
        pieces += [("", text[position:start]), (tag, text[start:end])]
        position = end
    return [piece for piece in (*pieces, ("", text[position:])) if piece[1]]


def write_residual_risk(
    folder: Path, read: Callable[[], Iterable[Sample]], config: CurateConfig, *, n: int
) -> None:
    """Write the page; its button makes the file of verdicts.

    Raises:
        InputError: a file of verdicts that a step names cannot be read.
    """
    selected = select_texts(read, n=n, seed=config.seed)
    shown: list[dict[str, Any]] = [
        {
            "id": sample.id,
            "pieces": marked_text(sample),
            "counts": sample.meta.extra.get(KIND_NOTE, "nothing"),
        }
        for sample in selected
    ]
    paths = [step.params["verdicts"] for step in config.steps if step.params.get("verdicts")]
    verdicts = [read_verdicts(Path(str(path))) for path in paths]
    write_text(
        folder / RESIDUAL_PAGE,
        render("residual_risk.html.j2", title=config.name, rows=shown, verdicts=verdicts),
    )
    (folder / RESIDUAL_PAGE).chmod(_OWNER_ONLY)
