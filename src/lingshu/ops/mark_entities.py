"""Medical terms in answers, marked by a dictionary: whole words, the longest first, English and
Chinese.

The offline source of the spans that entity-weighted training reads; label_entities asks a language
model instead. It must run after every step that changes answers: spans that no longer match their
text make training drop the sample.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from lingshu.core.entities import EntityMatcher, find_spans, with_spans
from lingshu.core.errors import InputError
from lingshu.core.step_types import MapStep, Pixels, SampleFunction
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import require, with_gold_answer


def step(
    *,
    terms: str | None = None,
    words: Sequence[str] = (),
    facet: str | None = None,
    use_builtin: bool = True,
    plurals: bool = True,
    hyphens: bool = True,
) -> MapStep:
    """Write where terms occur in every answer to `meta.extra["entities"]`; `[]` for none.

    Args:
        terms: file with one term a line, in addition to the other lists.
        words: terms written in the configuration.
        facet: facet of a sample with its own terms as a JSON list, such as `med_terms`; they are
            searched in this sample alone.
        use_builtin: use the package's starter list of some hundred terms; it is not a medical
            vocabulary.
        plurals: also find English plurals of terms.
        hyphens: also find a term with a blank, a hyphen or nothing between its parts.

    Drops: bad_terms.
    """
    require(
        bool(terms or words or facet or use_builtin),
        "mark_entities: no terms are given; give terms, words or facet, or use_builtin: true.",
    )

    def open_step() -> SampleFunction:
        shared_terms = [*words, *(_read_terms(terms) if terms else ())]
        if use_builtin:
            shared_terms = starter_terms() + shared_terms
        shared_matcher = EntityMatcher(shared_terms, plurals=plurals, hyphens=hyphens)

        def mark(sample: Sample, _: Pixels) -> Sample | Drop:
            own_terms = _sample_terms(sample, facet) if facet else []
            if isinstance(own_terms, Drop):
                return own_terms
            matcher = shared_matcher
            if own_terms:
                all_terms = [*shared_terms, *own_terms]
                matcher = EntityMatcher(all_terms, plurals=plurals, hyphens=hyphens)
            return with_spans(sample, find_spans(with_gold_answer(sample), matcher))

        return mark

    return MapStep(open_step, input_files=(terms,) if terms else ())


def starter_terms() -> list[str]:
    """Some hundreds of English and Chinese terms to start with."""
    text = Path(__file__).with_name("_entity_terms.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [term.strip() for line in lines for term in re.split("[,，]", line) if term.strip()]


def _read_terms(path: str) -> list[str]:
    """The terms of a file, one per line; lines that begin with "# " are comments."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"terms {path} cannot be read ({error})"
        raise InputError(f"{problem}; give a UTF-8 text file with one term a line.") from error
    terms = [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
    if not terms:
        raise InputError(f"terms {path} contains no term; write one per line.")
    return terms


def _sample_terms(sample: Sample, facet: str) -> list[str] | Drop:
    """The terms that a sample carries: a facet with a JSON list of texts."""
    value = sample.meta.facet(facet)
    if not value:
        return []
    try:
        terms = json.loads(value)
    except ValueError:
        terms = None
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        return Drop(sample.id, "bad_terms", f"{facet} is not a JSON list of texts")
    return terms
