"""Medical terms in answers, marked by a dictionary: whole words, the longest first, English and
Chinese.

The offline way to the spans that entity-weighted training reads; label_entities asks a language
model instead. It has to run after every step that changes answers: spans that no longer fit their
text make training drop the sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.core.entities import Terms
from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import MapStep, Pixels
from lingshu.ops._entities import listed, marked, read_terms, starter
from lingshu.ops._facts import require


def step(
    *,
    terms: str | None = None,
    words: Sequence[str] = (),
    facet: str | None = None,
    built_in: bool = True,
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
        bool(terms or words or facet or built_in),
        "mark_entities: no terms are given; give terms, words or facet, or built_in: true.",
    )

    def opened():
        every = [*(starter() if built_in else ()), *words, *(read_terms(terms) if terms else ())]
        shared = Terms(every, plurals=plurals, hyphens=hyphens)

        def look(sample: Sample, _: Pixels) -> Sample | Drop:
            own = listed(sample, facet) if facet else []
            if isinstance(own, Drop):
                return own
            return marked(
                sample, Terms([*every, *own], plurals=plurals, hyphens=hyphens) if own else shared
            )

        return look

    return MapStep(opened, reads=(terms,) if terms else ())
