"""The ledger of a run: what came into each step, what it added, dropped and gave on, by source; it
must add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

CountsByStep = dict[str, dict[str, dict[str, Any]]]
# Drops that are failures of a step or a process, not decisions about data.
FAILURES = ("error", "worker_died")


class StepCounts:
    """Counts by step and source: `in`, `added` (a sample that became three adds two), `out`, and
    drops by reason.
    """

    def __init__(self, counts_by_step: CountsByStep | None = None) -> None:
        self._steps: CountsByStep = {}
        if counts_by_step:
            self.merge(counts_by_step)

    def _cell(self, step: str, source: str) -> dict[str, Any]:
        sources = self._steps.get(step) or self._steps.setdefault(step, {})
        return sources.get(source) or sources.setdefault(
            source, {"in": 0, "added": 0, "out": 0, "drops": {}}
        )

    def record_in(self, step: str, source: str, count: int = 1) -> None:
        self._cell(step, source)["in"] += count

    def record_out(self, step: str, source: str, count: int = 1) -> None:
        self._cell(step, source)["out"] += count

    def record_added(self, step: str, source: str, count: int) -> None:
        self._cell(step, source)["added"] += count

    def record_drop(self, step: str, source: str, reason: str) -> None:
        drops = self._cell(step, source)["drops"]
        drops[reason] = drops.get(reason, 0) + 1

    def merge(self, counts_by_step: CountsByStep) -> None:
        """Add the counts of a part of the run."""
        for step, sources in counts_by_step.items():
            for source, counts in sources.items():
                cell = self._cell(step, source)
                for key in ("in", "added", "out"):
                    cell[key] += counts[key]
                for reason, count in counts["drops"].items():
                    cell["drops"][reason] = cell["drops"].get(reason, 0) + count

    def as_dict(self) -> CountsByStep:
        return self._steps

    def drops(self) -> dict[str, int]:
        """Every drop of the run by reason, in the order of reasons."""
        totals = Counter[str]()
        for sources in self._steps.values():
            for counts in sources.values():
                totals.update(counts["drops"])
        return dict(sorted(totals.items()))

    @property
    def failures(self) -> int:
        return sum(count for reason, count in self.drops().items() if reason in FAILURES)

    def check_balance(
        self,
        order: Sequence[str],
        step_sources: Mapping[str, Sequence[str]],
        sources: Sequence[str],
    ) -> None:
        """What came in went out or was dropped, at every step and from each step to the next, for
        every source.

        `order` names the steps; `applies` the sources that a step is limited to (empty: all).

        Raises:
            AssertionError: the runner lost or invented a row.
        """
        for source in sources:
            previous_out: int | None = None
            for step in order:
                if step_sources.get(step) and source not in step_sources[step]:
                    continue
                cell = self._cell(step, source)
                assert cell["in"] + cell["added"] == cell["out"] + sum(cell["drops"].values()), (
                    step,
                    source,
                    cell,
                )
                assert previous_out is None or previous_out == cell["in"], (
                    step,
                    source,
                    previous_out,
                    cell,
                )
                previous_out = cell["out"]

    def card_rows(
        self, order: Sequence[str], ops: Mapping[str, str], stats: Mapping[str, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The steps of a dataset card, in order: totals, and the same by source."""
        rows = []
        for step in order:
            sources = {name: self._steps[step][name] for name in sorted(self._steps.get(step, {}))}
            totals: dict[str, Any] = {
                key: sum(cell[key] for cell in sources.values()) for key in ("in", "added", "out")
            }
            drops = Counter[str]()
            for cell in sources.values():
                drops.update(cell["drops"])
                cell["drops"] = dict(sorted(cell["drops"].items()))
            drops_by_reason = dict(sorted(drops.items()))
            rows.append(
                {
                    "name": step,
                    "op": ops.get(step),
                    **totals,
                    "drops": drops_by_reason,
                    "stats": dict(stats.get(step, {})),
                    "sources": sources,
                }
            )
        return rows
