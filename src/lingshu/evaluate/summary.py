"""A summary of scores rows: counts by status, and accuracy with the 95% interval that fits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lingshu.core.stats import Interval, wilson
from lingshu.core.types import STATUSES
from lingshu.evaluate.statistics import (
    bootstrap_mean,
    clustered_proportion,
    wilson_fallback,
)
from lingshu.scoring.rubric import NEEDS_JUDGE

Row = Mapping[str, Any]  # one row of a SCORES file
Method = Literal["wilson", "effective wilson", "bootstrap"]
METHODS: Mapping[Method, str] = {
    "wilson": "Wilson",
    # See statistics.clustered_proportion.
    "effective wilson": "Wilson for the effective number of items",
    "bootstrap": "bootstrap over whole groups",
}
UNPARSED_STATUSES = ("unparsed", "refused", "empty", "multiple")
NEEDS_JUDGE_LABEL = "needs a judge: not scored"
MetricName = Literal["accuracy", "mean score"]
# Their scorers give parts of a point, even where every score is 0 or 1.
GRADED_KINDS = ("report", "rubric")
ReplyProblem = Literal["truncated", "refused", "unread"]


@dataclass(frozen=True)
class Summary:
    """The result over some scores. `n` counts all but errors; `accuracy` counts an unread reply as
    not right.

    `correct` is the number of right replies, or the sum of the values of a scorer that gives parts
    of a point, whose `metric` is "mean score". `method` is how the intervals were made, `groups` the
    number of patients, studies or images behind the items. `n_awaiting_judge` counts the rows of
    status `error` that did not fail but wait for a judge.
    """

    n: int
    correct: float
    accuracy: Interval
    parsed_accuracy: Interval
    statuses: Mapping[str, int]
    truncated: int = 0
    method: Method = "wilson"
    groups: int = 0
    metric: MetricName = "accuracy"
    n_awaiting_judge: int = 0
    problems: Mapping[ReplyProblem, int] = field(default_factory=dict)
    unproblematic: Interval | None = None

    @property
    def n_unread(self) -> int:
        """How many replies could not be read; they count as not right."""
        return sum(self.statuses[status] for status in UNPARSED_STATUSES)

    @property
    def is_grouped(self) -> bool:
        """Whether items share a patient, study or image."""
        return self.groups < self.n

    @property
    def method_text(self) -> str:
        return METHODS[self.method]

    @property
    def errors(self) -> int:
        """How many samples failed."""
        return self.statuses["error"] - self.n_awaiting_judge

    @property
    def is_awaiting_judge(self) -> bool:
        """Whether there is nothing to show until a judge has run."""
        return not self.n and self.n_awaiting_judge > 0


def summarize(rows: Sequence[Row], *, method: Method | None = None) -> Summary:
    """The summary of scores rows, its intervals made by `method`, or by the one that fits the rows."""
    scored = [row for row in rows if row["status"] != "error" and not is_unscored(row)]
    parsed = [row for row in scored if row["value"] is not None]
    method = method or choose_interval_method(scored)
    correct = sum(map(row_value, parsed))
    is_graded = any(
        row.get("kind") in GRADED_KINDS or row_value(row) not in (0.0, 1.0) for row in scored
    )
    return Summary(
        n=len(scored),
        correct=int(correct) if correct == int(correct) else correct,
        accuracy=_interval(scored, method),
        parsed_accuracy=_interval(parsed, method),
        statuses={status: sum(row["status"] == status for row in rows) for status in STATUSES},
        truncated=sum(bool(row.get("truncated")) for row in scored),
        method=method,
        groups=len({group_key(row) for row in scored}),
        metric="mean score" if is_graded else "accuracy",
        n_awaiting_judge=sum(map(awaiting_judge, rows)),
        problems=dict(Counter(problem for row in scored if (problem := reply_problem(row)))),
        unproblematic=_interval([row for row in scored if not reply_problem(row)], method),
    )


def reply_problem(row: Row) -> ReplyProblem | None:
    """What is wrong with the reply of a scores row, whatever its score: truncated at max_tokens,
    refused, or not read; None where nothing is.
    """
    if row.get("truncated"):
        return "truncated"
    if row["status"] == "refused":
        return "refused"
    return "unread" if row["status"] in UNPARSED_STATUSES else None


def awaiting_judge(row: Row) -> bool:
    """Whether a row has no score only because a judge must give it."""
    return row["status"] == "error" and str(row.get("note") or "").startswith(NEEDS_JUDGE)


def is_unscored(row: Row) -> bool:
    """Whether a reply was read and has no value, as under a rubric without positive points."""
    return row["status"] == "ok" and row["value"] is None


def choose_interval_method(rows: Sequence[Row]) -> Method:
    """Wilson for single right or wrong answers, for their effective number where rows share a group
    or have parts of a point, a bootstrap for values outside 0 to 1.
    """
    values = list(map(row_value, rows))
    if any(not 0.0 <= value <= 1.0 for value in values):
        return "bootstrap"
    is_single = len({group_key(row) for row in rows}) == len(rows)
    is_binary = all(value in (0.0, 1.0) for value in values)
    return "wilson" if is_single and is_binary else "effective wilson"


def group_key(row: Row) -> Hashable:
    """The unit of resampling: a row's patient, study or image; without one, the row itself."""
    return ("id", row["id"]) if row.get("group") in (None, "") else ("group", row["group"])


def row_value(row: Row) -> float:
    """A row's share of accuracy: a reply that could not be read is not right."""
    return 0.0 if row["value"] is None else float(row["value"])


def _interval(rows: Sequence[Row], method: Method) -> Interval:
    values = [row_value(row) for row in rows]
    if method == "wilson":
        return wilson(int(sum(values)), len(values))
    groups = [group_key(row) for row in rows]
    if method == "effective wilson" and (interval := clustered_proportion(values, groups)):
        return interval
    # Values of rubrics may be negative; their mean is clipped to 0..1, after averaging.
    mean = bootstrap_mean(values, groups)
    value, low, high = (None if x is None else min(1.0, max(0.0, x)) for x in mean[:3])
    return wilson_fallback(Interval(value, low, high, mean.n), len(set(groups)))


def by_facet(
    rows: Sequence[Row], facets: Sequence[str], *, method: Method | None = None
) -> dict[str, dict[str, Summary]]:
    """Summaries by the value of each facet, in sorted order; rows without it are under "unknown"."""
    summaries: dict[str, dict[str, Summary]] = {}
    for facet in facets:
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            value = row.get(facet)
            groups["unknown" if value is None else str(value)].append(row)
        if set(groups) - {"unknown"}:
            summaries[facet] = {
                value: summarize(groups[value], method=method) for value in sorted(groups)
            }
    return summaries


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, a dash where it is not known."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval_text(interval: Interval) -> str:
    return "–" if interval.low is None else f"{percent(interval.low)} to {percent(interval.high)}"
