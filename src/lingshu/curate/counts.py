"""The rows that each step received, added, dropped and passed on, by source; they must balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

CountsByStep = dict[str, dict[str, dict[str, Any]]]
# Drops that are failures of a step or a process, not decisions about data.
FAILURES = ("error", "worker_died")
_KEYS = ("in", "added", "out")


class StepCounts:
    """Counts by step and source; a sample split into three adds two to `added`."""

    def __init__(self) -> None:
        self._steps: CountsByStep = {}

    def _cell(self, step: str, source: str) -> dict[str, Any]:
        sources = self._steps.setdefault(step, {})
        if source not in sources:
            sources[source] = {"in": 0, "added": 0, "out": 0, "drops": {}}
        return sources[source]

    def add(
        self, step: str, source: str, key: Literal["in", "added", "out"], count: int = 1
    ) -> None:
        self._cell(step, source)[key] += count

    def drop(self, step: str, source: str, reason: str) -> None:
        drops = self._cell(step, source)["drops"]
        drops[reason] = drops.get(reason, 0) + 1

    def merge(self, counts_by_step: CountsByStep) -> None:
        """Add the counts of a part of the run."""
        for step, sources in counts_by_step.items():
            for source, counts in sources.items():
                cell = self._cell(step, source)
                for key in _KEYS:
                    cell[key] += counts[key]
                for reason, count in counts["drops"].items():
                    cell["drops"][reason] = cell["drops"].get(reason, 0) + count

    def as_dict(self) -> CountsByStep:
        return self._steps

    def drops(self) -> dict[str, int]:
        """Every drop of the run by reason, sorted by reason."""
        return _sum_drops(cell for sources in self._steps.values() for cell in sources.values())

    def check_balance(
        self,
        order: Sequence[str],
        step_sources: Mapping[str, Sequence[str]],
        sources: Sequence[str],
    ) -> None:
        """Check that each row in was passed on or dropped, at every step and between steps.

        `order` names the steps; `step_sources` the sources that a step is limited to (empty: all).

        Raises:
            AssertionError: the runner lost or invented a row.
        """
        for source in sources:
            passed_on: int | None = None
            for step in order:
                if step_sources.get(step) and source not in step_sources[step]:
                    continue
                cell = self._cell(step, source)
                balance = cell["in"] + cell["added"] - cell["out"] - sum(cell["drops"].values())
                assert balance == 0, (step, source, cell)
                assert passed_on in (None, cell["in"]), (step, source, passed_on, cell)
                passed_on = cell["out"]

    def card_rows(
        self, order: Sequence[str], ops: Mapping[str, str], stats: Mapping[str, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The steps of a dataset card in order: totals, and the same by source."""
        rows = []
        for step in order:
            sources = {name: self._steps[step][name] for name in sorted(self._steps.get(step, {}))}
            cells = sources.values()
            for cell in cells:
                cell["drops"] = dict(sorted(cell["drops"].items()))
            totals = {key: sum(cell[key] for cell in cells) for key in _KEYS}
            details = {"stats": dict(stats.get(step, {})), "sources": sources}
            drops = {"drops": _sum_drops(cells)}
            rows.append({"name": step, "op": ops.get(step), **totals, **drops, **details})
        return rows


def count_failures(drops: Mapping[str, int]) -> int:
    """The drops that are failures, of drops by reason."""
    return sum(drops.get(reason, 0) for reason in FAILURES)


def _sum_drops(cells: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    totals = Counter[str]()
    for cell in cells:
        totals.update(cell["drops"])
    return dict(sorted(totals.items()))
