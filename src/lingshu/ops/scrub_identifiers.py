"""Identifier scrubbing: names, dates, contacts, record numbers and addresses in a sample's texts are
replaced by placeholders.

English and Chinese, by rule: [NAME] after titles and labels, [DATE] (years alone stay), [PHONE],
[EMAIL], [URL], [ID] (record, accession, social-security and Chinese identity numbers, DICOM UIDs),
[AGE] above 89, [ADDRESS]. Rules miss what no rule describes: a bare name is not found.
docs/benchmarks.md has the measurements. Texts that could harm a patient still need human review.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from lingshu.core.pseudonyms import is_pseudonym
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.deidentify.ids import ID_KINDS
from lingshu.deidentify.rules import scrub_text
from lingshu.ops._sample_fields import check_minimum, format_counts, map_texts


def step(*, extra: bool = True, max_identifiers: int | None = None) -> MapStep:
    """Replace identifiers in messages, choices and open gold answers.

    Args:
        extra: whether the values of `meta.extra` are scrubbed too.
        max_identifiers: a sample with more identifiers than this is dropped; None keeps all.

    Drops: too_many_identifiers. Changed samples carry the note `scrubbed` with counts by kind.
    """
    check_minimum("scrub_identifiers", 0, max_identifiers=max_identifiers)

    def scrub_sample(sample: Sample, _: Pixels) -> Sample | Drop:
        total: Counter[str] = Counter()

        def scrub(text: str) -> str:
            scrubbed, counts = scrub_text(text)
            total.update(counts)
            return scrubbed

        scrubbed_sample = map_texts(sample, scrub)
        if extra:
            # A keyed hash of an id reveals nothing, and digits in it are not a phone number.
            notes = {
                key: value if key in ID_KINDS and is_pseudonym(value) else scrub(value)
                for key, value in sample.meta.extra.items()
            }
            meta = replace(scrubbed_sample.meta, extra=notes)
            scrubbed_sample = replace(scrubbed_sample, meta=meta)
        if not total:
            return sample
        if max_identifiers is not None and total.total() > max_identifiers:
            return Drop(sample.id, "too_many_identifiers", format_counts(total))
        return with_extra(scrubbed_sample, {"scrubbed": format_counts(total)})

    return MapStep(lambda: scrub_sample)
