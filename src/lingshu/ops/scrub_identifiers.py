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

from lingshu.core.pseudonyms import is_pseudonym
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.deidentify import rules
from lingshu.deidentify.ids import ID_KINDS
from lingshu.ops._sample_fields import format_counts, map_texts, require


def step(*, extra: bool = True, max_identifiers: int | None = None) -> MapStep:
    """Replace identifiers in messages, choices and open gold answers.

    Args:
        extra: whether the values of `meta.extra` are scrubbed too.
        max_identifiers: a sample with more identifiers than this is dropped; None keeps all.

    Drops: too_many_identifiers. Changed samples carry the note `scrubbed` with the counts of each
    kind.
    """
    require(
        max_identifiers is None or max_identifiers >= 0,
        f"scrub_identifiers: max_identifiers is {max_identifiers}; it must be at least 0.",
    )

    def scrub_sample(sample: Sample, _: Pixels) -> Sample | Drop:
        total_counts: Counter[str] = Counter()

        def scrub_value(text: str) -> str:
            scrubbed, counts = rules.scrub_text(text)
            total_counts.update(counts)
            return scrubbed

        scrubbed_sample = map_texts(sample, scrub_value)
        if extra:
            # A keyed hash of an id tells nothing, and digits in it are no telephone number.
            notes = {
                key: value if key in ID_KINDS and is_pseudonym(value) else scrub_value(value)
                for key, value in sample.meta.extra.items()
            }
            scrubbed_sample = replace(
                scrubbed_sample, meta=replace(scrubbed_sample.meta, extra=notes)
            )
        if not total_counts:
            return sample
        if max_identifiers is not None and total_counts.total() > max_identifiers:
            return Drop(sample.id, "too_many_identifiers", format_counts(total_counts))
        return with_extra(scrubbed_sample, {"scrubbed": format_counts(total_counts)})

    return MapStep(lambda: scrub_sample)
