"""A step over a few samples as the runner would take it, in one plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from lingshu.core.messages import user_turn
from lingshu.core.step_types import Decision, MapStep, Step, TableStep
from lingshu.core.types import Drop, Image, Message, Meta, Sample
from lingshu.imaging.cache import ImageCache


@dataclass(frozen=True)
class StepResult:
    kept: list[Sample]
    drops: list[Drop]

    @property
    def reasons(self) -> dict[str, str]:
        return {drop.id: drop.reason for drop in self.drops}

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self.kept]


def run_map_step(step: Step, samples: Sequence[Sample]) -> StepResult:
    """Every sample through a map step."""
    assert isinstance(step, MapStep)
    apply = step.open()
    kept: list[Sample] = []
    drops: list[Drop] = []
    with ImageCache() as image_cache:
        for sample in samples:
            result = apply(sample, image_cache)
            for item in [result] if isinstance(result, Sample | Drop) else result:
                (kept if isinstance(item, Sample) else drops).append(item)  # type: ignore[arg-type]
    return StepResult(kept, drops)


def run_decide(
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
    with ImageCache() as image_cache:
        signatures = [step.compute_signature(sample, image_cache) for sample in samples]
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


def run_table_step(
    step: Step, samples: Sequence[Sample], **columns: Sequence[str] | Sequence[int] | None
) -> StepResult:
    """The samples that a table step keeps, with its notes, and its drops."""
    result = run_decide(step, samples, **columns)  # type: ignore[arg-type]
    assert all(drop.id == samples[row].id for row, drop in result.drops.items())
    kept = [
        with_extra(sample, dict(result.notes.get(row, {})))
        for row, sample in enumerate(samples)
        if row not in result.drops
    ]
    return StepResult(kept, [result.drops[row] for row in sorted(result.drops)])


def with_extra(sample: Sample, extra: dict[str, str]) -> Sample:
    return with_meta(
        sample, meta=Meta(**{**fields(sample.meta), "extra": {**sample.meta.extra, **extra}})
    )


def fields(meta: Meta) -> dict:
    return {name: getattr(meta, name) for name in Meta.__dataclass_fields__}


def with_meta(sample: Sample, *, meta: Meta) -> Sample:
    return Sample(sample.id, sample.messages, sample.images, sample.gold, sample.choices, meta)


def qa_sample(
    name: str,
    question: str,
    answer: str | None = None,
    *,
    images: Sequence[Image] = (),
    **metadata: object,
) -> Sample:
    """A dialogue of one question and its answer; `gold`, `choices` and what Meta knows by name,
    everything else to `extra`.
    """
    gold, choices = metadata.pop("gold", None), metadata.pop("choices", ())
    meta_fields = {
        key: value for key, value in metadata.items() if key in Meta.__dataclass_fields__
    }
    extra = {key: str(value) for key, value in metadata.items() if key not in meta_fields}
    turns = [
        user_turn(question, len(images)),
        *([] if answer is None else [Message("assistant", (answer,))]),
    ]
    return Sample(
        name,
        tuple(turns),
        tuple(images),
        gold,  # pyright: ignore[reportArgumentType]
        choices,  # pyright: ignore[reportArgumentType]
        Meta(**meta_fields, extra=extra),  # pyright: ignore[reportArgumentType]
    )
