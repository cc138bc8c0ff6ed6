"""Identifier scrubbing: names, dates, contacts, record numbers and places in a sample's texts are
replaced by placeholders.

English, Chinese, German, French, Spanish and Japanese, by rule (deidentify/packs): [NAME] after
titles, labels and cues, [DATE] (years alone stay), [PHONE], [EMAIL], [URL], [ID] (record,
accession, insurance, device and identity numbers, DICOM UIDs), [AGE] above 89, [LOCATION], [PATH].
Rules miss what no rule describes; a detector (`detectors`) adds names. docs/benchmarks.md has the
measurements. Texts that could harm a patient still need human review.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from lingshu.core import registry
from lingshu.core.pseudonyms import is_pseudonym
from lingshu.core.step_types import MapStep, Pixels, SampleFunction
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.deidentify.ids import ID_KINDS
from lingshu.deidentify.scrub import scrub
from lingshu.deidentify.spans import KIND_NOTE, RULE_NOTE, IdentifierSpan, Scrubbed, count_notes
from lingshu.deidentify.verdicts import read_verdicts
from lingshu.ops._sample_fields import check_minimum, map_texts


def step(
    *,
    extra: bool = True,
    max_identifiers: int | None = None,
    keep_dates: bool = False,
    detectors: Mapping[str, Mapping[str, object]] | None = None,
    verdicts: str | None = None,
) -> MapStep:
    """Replace identifiers in messages, choices and open gold answers.

    Args:
        extra: whether the values of `meta.extra` are scrubbed too.
        max_identifiers: a sample with more identifiers than this is dropped; None keeps all.
        keep_dates: whether dates stay, because the reader has shifted them (`dates: shift`).
        detectors: models that add identifiers, each with its options, such as
            `{token_classification: {model: FOLDER}}` (deidentify/detectors).
        verdicts: a JSONL file with what readers of OUT/residual_risk.html found: `missed` is
            removed from every text, `wrong` is not replaced (deidentify/verdicts.py).

    Drops: too_many_identifiers. Changed samples carry the notes `scrubbed` and `scrubbed_by` with
    counts by kind and by rule; those of the reader are included.
    """
    check_minimum("scrub_identifiers", 0, max_identifiers=max_identifiers)
    modules = {name: registry.load("detectors", name) for name in detectors or {}}
    read = read_verdicts(Path(verdicts)) if verdicts else None

    def open_function() -> SampleFunction:
        found = [modules[name].detector(**given) for name, given in (detectors or {}).items()]
        scrubber = partial(
            scrub,
            dates="keep" if keep_dates else "remove",
            detectors=[*found, *([read.find_missed] if read else [])],
            wrong=read.wrong if read else frozenset(),
        )
        return partial(_scrub_sample, scrubber, extra=extra, max_identifiers=max_identifiers)

    return MapStep(open_function, [verdicts] if verdicts else [])


def _scrub_sample(
    scrubber: Callable[[str], Scrubbed],
    sample: Sample,
    _: Pixels,
    *,
    extra: bool,
    max_identifiers: int | None,
) -> Sample | Drop:
    found: list[IdentifierSpan] = []

    def clean(text: str) -> str:
        scrubbed = scrubber(text)
        found.extend(scrubbed.spans)
        return scrubbed.text

    scrubbed_sample = map_texts(sample, clean)
    if extra:
        notes = {
            key: value if _is_own_note(key, value) else clean(value)
            for key, value in sample.meta.extra.items()
        }
        meta = replace(scrubbed_sample.meta, extra=notes)
        scrubbed_sample = replace(scrubbed_sample, meta=meta)
    if not found:
        return sample
    counts = count_notes(found, sample.meta.extra)
    if max_identifiers is not None and len(found) > max_identifiers:
        return Drop(sample.id, "too_many_identifiers", counts[KIND_NOTE])
    return with_extra(scrubbed_sample, counts)


def _is_own_note(key: str, value: str) -> bool:
    """Counts, and keyed hashes, which reveal nothing: digits in one are not a phone number."""
    return key in (KIND_NOTE, RULE_NOTE) or (key in ID_KINDS and is_pseudonym(value))
