"""A step over a few samples as the runner would take it, in one plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from lingshu.core.messages import user_turn
from lingshu.core.nouns import Drop, Image, Message, Meta, Sample
from lingshu.core.steps import Decision, MapStep, Step, TableStep
from lingshu.imaging.pictures import Pictures


@dataclass(frozen=True)
class Outcome:
    kept: list[Sample]
    drops: list[Drop]

    @property
    def reasons(self) -> dict[str, str]:
        return {drop.id: drop.reason for drop in self.drops}

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self.kept]


def mapped(step: Step, samples: Sequence[Sample]) -> Outcome:
    """Every sample through a map step."""
    assert isinstance(step, MapStep)
    change = step.open()
    kept: list[Sample] = []
    drops: list[Drop] = []
    with Pictures() as pictures:
        for sample in samples:
            found = change(sample, pictures)
            for item in [found] if isinstance(found, Sample | Drop) else found:
                (kept if isinstance(item, Sample) else drops).append(item)  # type: ignore[arg-type]
    return Outcome(kept, drops)


def decision(
    step: Step,
    samples: Sequence[Sample],
    *,
    sources: Sequence[str] | None = None,
    ranks: Sequence[int] | None = None,
) -> Decision:
    """What a table step decides over all samples; `sources` and `ranks` are the columns that the
    runner adds.
    """
    assert isinstance(step, TableStep)
    with Pictures() as pictures:
        signatures = [step.sign(sample, pictures) for sample in samples]
    rows = [
        {
            "id": sample.id,
            "source": sources[i] if sources else "all",
            "rank": ranks[i] if ranks else 0,
            **signature,
        }
        for i, (sample, signature) in enumerate(zip(samples, signatures, strict=True))
    ]
    return step.decide(pa.Table.from_pylist(rows))


def decided(
    step: Step, samples: Sequence[Sample], **columns: Sequence[str] | Sequence[int] | None
) -> Outcome:
    """The samples that a table step keeps, with its notes, and its drops."""
    found = decision(step, samples, **columns)  # type: ignore[arg-type]
    assert all(drop.id == samples[row].id for row, drop in found.drops.items())
    kept = [
        with_notes(sample, dict(found.notes.get(row, {})))
        for row, sample in enumerate(samples)
        if row not in found.drops
    ]
    return Outcome(kept, [found.drops[row] for row in sorted(found.drops)])


def with_notes(sample: Sample, notes: dict[str, str]) -> Sample:
    return asked(
        sample, meta=Meta(**{**fields(sample.meta), "extra": {**sample.meta.extra, **notes}})
    )


def fields(meta: Meta) -> dict:
    return {name: getattr(meta, name) for name in Meta.__dataclass_fields__}


def asked(sample: Sample, *, meta: Meta) -> Sample:
    return Sample(sample.id, sample.messages, sample.images, sample.gold, sample.choices, meta)


def said(
    name: str,
    question: str,
    answer: str | None = None,
    *,
    images: Sequence[Image] = (),
    **facts: object,
) -> Sample:
    """A dialogue of one question and its answer; `gold`, `choices` and what Meta knows by name,
    everything else to `extra`.
    """
    gold, choices = facts.pop("gold", None), facts.pop("choices", ())
    known = {key: value for key, value in facts.items() if key in Meta.__dataclass_fields__}
    extra = {key: str(value) for key, value in facts.items() if key not in known}
    turns = [
        user_turn(question, len(images)),
        *([] if answer is None else [Message("assistant", (answer,))]),
    ]
    return Sample(name, tuple(turns), tuple(images), gold, choices, Meta(**known, extra=extra))  # type: ignore[arg-type]
