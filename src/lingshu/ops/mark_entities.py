"""Medical terms in answers, marked by a dictionary: whole words, the longest first, English and
Chinese.

The offline way to the spans that entity-weighted training reads; label_entities asks a language
model instead. It has to run after every step that changes answers: spans that no longer fit their
text make training drop the sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.core.entities import EntityMatcher
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Sample
from lingshu.ops._entities import mark_sample, read_sample_terms, read_terms, starter_terms
from lingshu.ops._sample_fields import require


def step(
    *,
    terms: str | None = None,
    words: Sequence[str] = (),
    facet: str | None = None,
    use_builtin: bool = True,
    plurals: bool = True,
    hyphens: bool = True,
) -> MapStep:
    """Write where terms stand in every answer to `meta.extra["entities"]` (docs/artefacts.md); `[]`
    where there is none.

    Args:
        terms: file with one term a line, besides the other lists.
        words: terms written in the configuration.
        facet: facet of a sample with its own terms as a JSON list, such as `med_terms`; they are
            looked for in it alone.
        built_in: use the package's starter list of some hundred terms, which is no medical
            vocabulary.
        plurals: find English plurals of terms, too.
        hyphens: find a term with a blank, a hyphen or nothing between its parts, too.

    Drops: bad_terms.
    """
    words = list(words)
    require(
        bool(terms or words or facet or use_builtin),
        "mark_entities: no terms are given; give terms, words or facet, or built_in: true.",
    )

    def open_step():
        shared_terms = [
            *(starter_terms() if use_builtin else ()),
            *words,
            *(read_terms(terms) if terms else ()),
        ]
        shared_matcher = EntityMatcher(shared_terms, plurals=plurals, hyphens=hyphens)

        def mark_answers(sample: Sample, _: Pixels) -> Sample | Drop:
            own_terms = read_sample_terms(sample, facet) if facet else []
            if isinstance(own_terms, Drop):
                return own_terms
            return mark_sample(
                sample,
                EntityMatcher([*shared_terms, *own_terms], plurals=plurals, hyphens=hyphens)
                if own_terms
                else shared_matcher,
            )

        return mark_answers

    return MapStep(open_step, input_files=(terms,) if terms else ())
