"""Identifier scrubbing: names, dates, contacts, record numbers and addresses in a sample's texts
become placeholders.

English and Chinese, by rule: [NAME] after titles and labels, [DATE] (years alone stay), [PHONE],
[EMAIL], [URL], [ID] (record, accession, social-security and Chinese identity numbers, DICOM UIDs),
[AGE] above 89, [ADDRESS]. Rules miss what no rule describes: a bare name is not found.
docs/benchmarks.md holds what was measured. Texts that a patient could be harmed by still need a
person's eye.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import MapStep, Pixels
from lingshu.imaging.pseudonyms import is_pseudonym
from lingshu.ops import _identifiers
from lingshu.ops._facts import require, tally, with_notes, with_words
from lingshu.sources._ids import KINDS


def step(*, extra: bool = True, max_found: int | None = None) -> MapStep:
    """Replace identifiers in messages, choices and open gold answers.

    Args:
        extra: whether the values of `meta.extra` are scrubbed too.
        max_found: a sample with more identifiers than this is dropped; None keeps all.

    Drops: too_many_identifiers. Changed samples carry the note `scrubbed` with the counts of each
    kind.
    """
    require(
        max_found is None or max_found >= 0,
        f"scrub_identifiers: max_found is {max_found}; it must be at least 0.",
    )

    def change(sample: Sample, _: Pixels) -> Sample | Drop:
        found: Counter[str] = Counter()

        def clean(text: str) -> str:
            scrubbed, counts = _identifiers.scrub(text)
            found.update(counts)
            return scrubbed

        changed = with_words(sample, clean)
        if extra:
            # A keyed hash of an id tells nothing, and digits in it are no telephone number.
            notes = {
                key: value if key in KINDS and is_pseudonym(value) else clean(value)
                for key, value in sample.meta.extra.items()
            }
            changed = replace(changed, meta=replace(changed.meta, extra=notes))
        if not found:
            return sample
        if max_found is not None and found.total() > max_found:
            return Drop(sample.id, "too_many_identifiers", tally(found))
        return with_notes(changed, {"scrubbed": tally(found)})

    return MapStep(lambda: change)
