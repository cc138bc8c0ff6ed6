"""Errors by rule: each right answer gets a wrong one with its side, negation, organ, modality or
number changed.

English and Chinese. The wrong answer is stored in `meta.extra["wrong_answer"]`, its rule in
`error_kind`, what was changed in `error_original` and `error_replacement`; `critique` uses them.
The rules need no teacher and do not see the image.
"""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.ops._perturbations import KINDS, inject_error_into_item
from lingshu.ops._sample_fields import check_choice
from lingshu.ops._teacher import qa_item


def step(*, kinds: Sequence[str] = KINDS, seed: int = 0) -> MapStep:
    """Note a wrong answer on every sample with one question and an answer that a rule can change.

    Args:
        kinds: the allowed rules: laterality, negation, organ, modality, number.
        seed: chooses among the rules that apply, and the word that is inserted.

    Drops: several_turns, no_gold, no_error (no rule applies to the answer).
    """
    for kind in kinds:
        check_choice("inject_errors", "kinds", kind, KINDS)

    def inject(sample: Sample, _: Pixels) -> Sample | Drop:
        item = qa_item(sample)
        if isinstance(item, Drop):
            return item
        error = inject_error_into_item(item, kinds=kinds, seed=seed)
        if isinstance(error, Drop):
            return error
        notes = {
            "wrong_answer": error.text,
            "error_kind": error.kind,
            "error_original": error.original,
            "error_replacement": error.replacement,
        }
        return with_extra(sample, notes)

    return MapStep(lambda: inject)
