"""What the steps that mark entities share: dictionaries of terms, and samples whose answers are to
be marked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from lingshu.core.entities import EntityMatcher, find_spans, with_spans
from lingshu.core.errors import InputError
from lingshu.core.types import Drop, Sample

STARTER_FILE = Path(__file__).parent / "_entity_terms.txt"


def starter_terms() -> list[str]:
    """The package's own list: some hundreds of English and Chinese terms, enough to begin with and
    no more.
    """
    lines = (
        line
        for line in STARTER_FILE.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    return [term.strip() for line in lines for term in re.split("[,，]", line) if term.strip()]


def read_terms(path: str) -> list[str]:
    """The terms of a file, one a line; empty lines, and lines that begin with "# ", are passed
    over.

    Raises:
        InputError: the file cannot be read, or holds no term.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"terms {path} cannot be read ({error}); give a UTF-8 text file with one term a line."
        ) from error
    terms = [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
    if not terms:
        raise InputError(f"terms {path} hold no term; write one a line.")
    return terms


def read_sample_terms(sample: Sample, facet: str) -> list[str] | Drop:
    """The terms that a sample brings along: a facet with a JSON list of texts; none where it has no
    such facet.
    """
    value = sample.meta.facet(facet)
    if not value:
        return []
    try:
        terms = json.loads(value)
    except ValueError:
        terms = None
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        return Drop(sample.id, "bad_terms", f"{facet} is no JSON list of texts")
    return terms


def with_gold_answer(sample: Sample) -> Sample:
    """The sample as it is learnt from: a question with a gold answer ends in it."""
    return sample.with_answer(sample.gold[0]) if not sample.answered and sample.gold else sample


def mark_sample(sample: Sample, matcher: EntityMatcher) -> Sample:
    """The sample with the spans of all terms in its answers, a gold answer included."""
    return with_spans(sample, find_spans(with_gold_answer(sample), matcher))
