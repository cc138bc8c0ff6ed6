"""A summary of scores rows: counts by status, and accuracy with a 95% interval that fits how the
items hang together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lingshu.core.nouns import STATUSES
from lingshu.core.shares import Interval, wilson
from lingshu.evaluate.statistics import FEW_GROUPS, bootstrap_mean, or_wilson, share_of_few
from lingshu.scoring._reports import NEEDS_JUDGE

Row = Mapping[str, Any]  # one row of a SCORES file
Method = Literal["wilson", "bootstrap", "clustered bootstrap"]
METHODS: Mapping[Method, str] = {
    "wilson": "Wilson",
    # Of few, each counts for as many items as it is worth (statistics.share_of_few).
    "bootstrap": f"bootstrap over items (below {FEW_GROUPS}: Wilson)",
    "clustered bootstrap": f"bootstrap over whole groups (below {FEW_GROUPS}: Wilson)",
}
Metric = Literal["accuracy", "mean score"]
# their scorers give parts of a point, even where every part found is nought or one
GRADED_KINDS = ("report", "rubric")


@dataclass(frozen=True)
class Summary:
    """The result over some scores. `n` counts all asked except errors; `accuracy` counts an unread
    reply as not right.

    `right` is the number of right replies, or the sum of the values of a scorer that gives parts of
    a point. `method` is how the intervals were made, `groups` the number of patients, studies or
    images behind the items. `metric` is "mean score" for such a scorer. `unjudged` counts the rows
    of status `error` that did not fail but wait for a judge.
    """

    n: int
    right: float
    accuracy: Interval
    read: Interval
    statuses: Mapping[str, int]
    truncated: int = 0
    method: Method = "wilson"
    groups: int = 0
    metric: Metric = "accuracy"
    unjudged: int = 0

    @property
    def errors(self) -> int:
        """How many samples failed."""
        return self.statuses["error"] - self.unjudged

    @property
    def waits(self) -> bool:
        """Whether there is nothing to tell until a judge has been asked."""
        return not self.n and self.unjudged > 0


def summarise(rows: Sequence[Row], *, method: Method | None = None) -> Summary:
    """The summary of scores rows, its intervals made by `method`, or by the one that fits the rows."""
    counted = [row for row in rows if row["status"] != "error" and not unscored(row)]
    read = [row for row in counted if row["value"] is not None]
    method = method or fitting(counted)
    return Summary(
        n=len(counted),
        right=_whole(sum(map(value_of, read))),
        accuracy=_interval(counted, method),
        read=_interval(read, method),
        statuses={status: sum(row["status"] == status for row in rows) for status in STATUSES},
        truncated=sum(bool(row.get("truncated")) for row in counted),
        method=method,
        groups=len({group_of(row) for row in counted}),
        metric=_metric(counted),
        unjudged=sum(map(unjudged, rows)),
    )


def unjudged(row: Row) -> bool:
    """Whether a row has no score only because a judge must give it."""
    return row["status"] == "error" and str(row.get("note") or "").startswith(NEEDS_JUDGE)


def unscored(row: Row) -> bool:
    """Whether there was nothing to score: a reply that was read and has no value, as under a rubric
    without positive points.
    """
    return row["status"] == "ok" and row["value"] is None


def _metric(rows: Sequence[Row]) -> Metric:
    parts = any(row.get("kind") in GRADED_KINDS or value_of(row) not in (0.0, 1.0) for row in rows)
    return "mean score" if parts else "accuracy"


def fitting(rows: Sequence[Row]) -> Method:
    """How to make the interval of these rows: clustered where any two share a group, Wilson for
    right or wrong alone.
    """
    if len({group_of(row) for row in rows}) < len(rows):
        return "clustered bootstrap"
    return "wilson" if all(value_of(row) in (0.0, 1.0) for row in rows) else "bootstrap"


def group_of(row: Row) -> Hashable:
    """What a row is drawn together with: its patient, study or image; without one, or with an empty
    text for it, itself alone.
    """
    return ("id", row["id"]) if row.get("group") in (None, "") else ("group", row["group"])


def value_of(row: Row) -> float:
    """A row's share of accuracy: a reply that could not be read is not right."""
    return 0.0 if row["value"] is None else float(row["value"])


def _interval(rows: Sequence[Row], method: Method) -> Interval:
    values = [value_of(row) for row in rows]
    if method == "wilson":
        return wilson(int(sum(values)), len(values))
    groups = [group_of(row) for row in rows]
    return share_of_few(values, groups) or or_wilson(
        _clipped(bootstrap_mean(values, groups)), len(set(groups))
    )


def _clipped(found: Interval) -> Interval:
    """Values of rubrics may be negative; their mean is clipped to 0..1, after averaging."""
    value, low, high = (None if end is None else min(1.0, max(0.0, end)) for end in found[:3])
    return Interval(value, low, high, found.n)


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def by_facet(
    rows: Sequence[Row], facets: Sequence[str], *, method: Method | None = None
) -> dict[str, dict[str, Summary]]:
    """Summaries by the value of each facet, in sorted order; rows that do not know a facet stand
    under "unknown".
    """
    found: dict[str, dict[str, Summary]] = {}
    for facet in facets:
        groups: dict[str, list[Row]] = {}
        for row in rows:
            value = row.get(facet)
            groups.setdefault("unknown" if value is None else str(value), []).append(row)
        if set(groups) - {"unknown"}:
            found[facet] = {
                value: summarise(groups[value], method=method) for value in sorted(groups)
            }
    return found


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, a dash where it is not known."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval_text(interval: Interval) -> str:
    return "–" if interval.low is None else f"{percent(interval.low)} to {percent(interval.high)}"
