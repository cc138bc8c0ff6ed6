"""Errors by rule: each right answer gets a wrong one beside it, its side, denial, organ, modality
or number changed.

English and Chinese. The wrong answer stands in `meta.extra["wrong_answer"]`, its rule in `error_kind`, what was
changed in `error_original` and `error_replacement`; `critique` takes it from there. The rules ask no teacher, and
see no image.
"""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.ops._perturbations import KINDS, inject_error_into_sample
from lingshu.ops._sample_fields import check_choice


def step(*, kinds: Sequence[str] = KINDS, seed: int = 0) -> MapStep:
    """Note a wrong answer to every sample with one question and a known answer that a rule can
    change.

    Args:
        kinds: the rules that may be used: laterality, negation, organ, modality, number.
        seed: which of the rules that fit is taken, and which word it puts in.

    Drops: several_turns, no_gold, no_error (no rule fits the answer).
    """
    for kind in kinds:
        check_choice("induce_errors", "kinds", kind, KINDS)

    def induce(sample: Sample, _: Pixels) -> Sample | Drop:
        error = inject_error_into_sample(sample, kinds=kinds, seed=seed)
        if isinstance(error, Drop):
            return error
        return with_extra(
            sample,
            {
                "wrong_answer": error.text,
                "error_kind": error.kind,
                "error_original": error.original,
                "error_replacement": error.replacement,
            },
        )

    return MapStep(lambda: induce)
