"""The order of samples, one by one and packed."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from lingshu.train.batching import PackedPlan, best_fit

LENGTHS = tuple(int(x) for x in np.random.default_rng(0).integers(5, 90, 200))


def test_best_fit_fills_packs_and_loses_nothing() -> None:
    assert best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert best_fit([12, 3], 10) == [[0], [1]]  # an item over the capacity stands alone
    packs = best_fit(LENGTHS, 100)
    assert sorted(item for pack in packs for item in pack) == list(range(200))
    assert all(sum(LENGTHS[i] for i in pack) <= 100 for pack in packs)
    assert len(packs) <= 1.05 * sum(LENGTHS) / 100 + 1


def test_a_packed_plan_resumes_at_any_step() -> None:
    plan = PackedPlan(LENGTHS, capacity=128, batch=4, seed=1)
    batches = list(islice(plan.batches(0), 60))
    for start in (1, 17, 18, 41):
        assert list(islice(plan.batches(start), 5)) == batches[start : start + 5]
    assert all(len(batch) == 4 for batch in batches)
    epoch = plan.steps(1.0)
    seen = [i for batch in batches[:epoch] for pack in batch for i in pack]
    assert len(set(seen)) == len(seen) > 180
    assert batches[:epoch] != batches[epoch : 2 * epoch]
    assert plan.steps(2.0) == pytest.approx(2 * epoch, abs=1)


def test_few_samples_still_fill_a_batch() -> None:
    plan = PackedPlan((5, 6), capacity=100, batch=3, seed=0)
    batch = next(plan.batches(0))
    assert len(batch) == 3 and set(batch[0]) == {0, 1}
    assert plan.steps(0.01) == 1
