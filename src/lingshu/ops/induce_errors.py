"""Errors by rule: each right answer gets a wrong one beside it, its side, denial, organ, modality
or number changed.

English and Chinese. The wrong answer stands in `meta.extra["flawed"]`, its rule in `flaw`, what was
changed in `flaw_was` and `flaw_now`; `critique` takes it from there. The rules ask no teacher, and
see no image.
"""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import MapStep, Pixels
from lingshu.ops._facts import one_of, with_notes
from lingshu.ops._flaws import KINDS, flaw_of


def step(*, kinds: Sequence[str] = KINDS, seed: int = 0) -> MapStep:
    """Note a wrong answer to every sample with one question and a known answer that a rule can
    change.

    Args:
        kinds: the rules that may be used: laterality, negation, organ, modality, number.
        seed: which of the rules that fit is taken, and which word it puts in.

    Drops: several_turns, no_gold, no_error (no rule fits the answer).
    """
    for kind in kinds:
        one_of("induce_errors", "kinds", kind, KINDS)

    def induce(sample: Sample, _: Pixels) -> Sample | Drop:
        flaw = flaw_of(sample, kinds=kinds, seed=seed)
        if isinstance(flaw, Drop):
            return flaw
        return with_notes(
            sample,
            {"flawed": flaw.text, "flaw": flaw.kind, "flaw_was": flaw.was, "flaw_now": flaw.now},
        )

    return MapStep(lambda: induce)
