"""The published leaderboard and a run: its tasks by column, averages as printed, differences.

leaderboard.json holds the printed tables of the Lingshu paper (arXiv 2506.07044) and of the model
cards it names; nothing in it was measured again. A task names its column itself (`published` in the
run card), so no task is known here by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from lingshu.core.errors import ArtifactError, InputError, suggest_name
from lingshu.evaluate.statistics import macro
from lingshu.evaluate.store import ScoredRun, ScoredTask
from lingshu.evaluate.summary import Summary, summarize

AVERAGE = "avg_published"  # stands for a column where a row's printed average is meant
DEFAULT_REFERENCE = "Lingshu-7B"  # the row for a run whose model has no printed name
# The printed cells of these columns hold verdicts of a judge (GPT-4.1) on open questions. Its
# version, the decoding and the exact code behind them are not fully known, so a difference of less
# than a point means nothing.
JUDGED_COLUMNS = {("multimodal", "VQA-RAD"), ("multimodal", "SLAKE"), ("multimodal", "PathVQA")}
JUDGED_POINTS, ROUNDING_POINTS = 1.0, 0.05
MAX_TOKENS = 8192  # of the published decoding
# Columns whose data is not known exactly.
UNDOCUMENTED = {
    ("textual", "Medbullets"): "whether four or five options were printed is not documented"
}
Rows = Mapping[str, Mapping[str, Mapping[str, float | None]]]


@dataclass(frozen=True)
class Column:
    """A column of a published table as this run's tasks fill it together, under one protocol.

    `expected` is the number of items that the benchmark has, None where that is not known;
    `is_limited` whether fewer were requested.
    """

    table: str
    column: str
    protocol: str
    tasks: tuple[str, ...]
    expected: int | None
    summary: Summary
    is_limited: bool = False

    @property
    def mismatch_reason(self) -> str | None:
        """Why there is no verdict on the column: the items are not those of the benchmark."""
        n = self.summary.n
        if (n < self.expected) if self.expected is not None else self.is_limited:
            return "part of the benchmark"
        if self.expected is not None and n > self.expected:
            return f"other data, {n} items and not {self.expected}"
        return UNDOCUMENTED.get((self.table, self.column))

    @property
    def is_judged(self) -> bool:
        return (self.table, self.column) in JUDGED_COLUMNS


@dataclass(frozen=True)
class Average:
    """The average of a table as it is published: the unweighted mean of all its `n_columns` columns
    (None until all are there), and the mean over all items.
    """

    table: str
    protocol: str
    columns: tuple[str, ...]
    n_columns: int
    macro: float | None
    micro: float | None


@dataclass(frozen=True)
class Cell:
    """A printed cell and ours; printed values and `difference` (ours - printed) in points.

    `is_outside`: the printed value is outside our 95% interval and further away than `tolerance`;
    None where that is unknown, for `no_verdict_reason` where ours are other items. `skip_reason` is
    why a cell is not compared, `is_unreliable` that the printed value itself is why.
    """

    table: str
    column: str
    protocol: str
    published: float | None
    difference: float | None = None
    tolerance: float | None = None
    is_outside: bool | None = None
    skip_reason: str | None = None
    is_unreliable: bool = False
    no_verdict_reason: str | None = None

    @property
    def marker(self) -> float | None:
        """Where a plot of shares marks the printed value."""
        return None if self.published is None or self.skip_reason else self.published / 100

    @property
    def verdict(self) -> str:
        """Whether ours agrees with the printed value, in a few words."""
        if self.is_unreliable:
            return "not compared †"  # the reason is given below the table, and may be long
        if self.skip_reason:
            return f"not compared: {self.skip_reason}"
        if self.no_verdict_reason:
            return f"{self.no_verdict_reason}: no verdict"
        if self.is_outside is None:
            return "–"
        verdict = "outside" if self.is_outside else "inside"
        return f"{verdict} (±{self.tolerance:.0f})" if self.tolerance == JUDGED_POINTS else verdict


@dataclass(frozen=True)
class PublishedComparison:
    """A run and the published tables; the differences are to the row of `reference`, which the run's
    model or the caller named if `is_reference_named`.

    `rows` has the printed rows of each table, `notes` other deviations from the published runs, by
    table.
    """

    reference: str
    is_reference_named: bool
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    averages: tuple[Average, ...]
    rows: Rows
    unreliable_cells: tuple[Mapping[str, Any], ...]
    sources: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def compared(self, table: str, protocol: str) -> list[tuple[Column, Cell]]:
        """The columns of a table under a protocol, each with its cell; those cells come first."""
        pairs = zip(self.columns, self.cells, strict=False)
        return [pair for pair in pairs if (pair[0].table, pair[0].protocol) == (table, protocol)]

    def compared_averages(self, table: str, protocol: str) -> list[tuple[Average, Cell]]:
        pairs = zip(self.averages, self.cells[len(self.columns) :], strict=True)
        return [pair for pair in pairs if (pair[0].table, pair[0].protocol) == (table, protocol)]


@cache
def load_leaderboard() -> Mapping[str, Any]:
    """The published tables; docs/report.md describes them."""
    path = resources.files("lingshu.evaluate").joinpath("leaderboard.json")
    return json.loads(path.read_text(encoding="utf-8"))


def _table(name: str) -> Mapping[str, Any]:
    return load_leaderboard()["tables"][name]


@cache
def table_columns() -> dict[str, list[str]]:
    """The columns of each published table of models; those of the report table are dataset/metric."""
    columns: dict[str, list[str]] = {}
    for name, table in load_leaderboard()["tables"].items():
        if all("model" in row for row in table["rows"]):
            columns[name] = table.get("columns") or [
                f"{dataset}/{metric}"
                for dataset in table["datasets"]
                for metric in table["metrics"]
            ]
    return columns


def published_column(task: ScoredTask) -> tuple[str, str] | None:
    """The table and column that a run card names: `[table, column]`, or a column of one table.

    Raises:
        ArtifactError: there is no such column.
    """
    target = task.metadata.get("published")
    if not target:
        return None
    table, column = (None, target) if isinstance(target, str) else target
    matches = [
        (name, column)
        for name, columns in table_columns().items()
        if column in columns and table in (None, name)
    ]
    if len(matches) != 1:
        names = [name for columns in table_columns().values() for name in columns]
        raise ArtifactError(
            f"{task.name} belongs to no published column {target!r}; {suggest_name(str(column), names)}"
        )
    return matches[0]


def fill_columns(run: ScoredRun) -> list[Column]:
    """Every published column that the tasks fill, once for each protocol that they all have."""
    tasks_by_column: dict[tuple[str, str], list[ScoredTask]] = {}
    for task in run.tasks:
        column = published_column(task)
        if column is not None:
            tasks_by_column.setdefault(column, []).append(task)
    order = [(table, column) for table, names in table_columns().items() for column in names]
    return [
        _fill_column(table, column, protocol, tasks_by_column[table, column])
        for table, column in sorted(tasks_by_column, key=order.index)
        for protocol in tasks_by_column[table, column][0].rows
        if all(protocol in task.rows for task in tasks_by_column[table, column])
    ]


def _fill_column(table: str, column: str, protocol: str, tasks: Sequence[ScoredTask]) -> Column:
    counts = [task.metadata.get("n") for task in tasks]
    rows = [
        {**row, "id": f"{task.name}/{row['id']}"} for task in tasks for row in task.rows[protocol]
    ]
    names = tuple(task.name for task in tasks)
    is_limited = any(task.limit is not None for task in tasks)
    expected = None if None in counts else sum(map(int, filter(None, counts)))
    return Column(table, column, protocol, names, expected, summarize(rows), is_limited)


def compute_averages(columns: Sequence[Column]) -> list[Average]:
    """The averages of tables that have one, by protocol, of the columns that this run fills."""
    filled: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        filled.setdefault((column.table, column.protocol), []).append(column)
    averages = []
    for (table, protocol), group in filled.items():
        # The other tables print no average, or one that is not the mean of their columns.
        if not str(_table(table).get("average")).startswith("unweighted mean"):
            continue
        names, n_columns = tuple(column.column for column in group), len(table_columns()[table])
        values = [column.summary.accuracy.value for column in group]
        mean = macro(values) if len(group) == n_columns else None
        n_items = sum(column.summary.n for column in group)
        n_correct = sum(column.summary.correct for column in group)
        micro = n_correct / n_items if n_items else None
        averages.append(Average(table, protocol, names, n_columns, mean, micro))
    return averages


def compare(run: ScoredRun, requested: str | None = None) -> PublishedComparison:
    """The run and the published tables. `requested` names the printed row to take differences to;
    without it that is the row of the run's model where it has a printed name, else Lingshu-7B.

    Raises:
        InputError: no printed row has that name, or no task of the run belongs to a published
            column.
    """
    columns = fill_columns(run)
    if not columns:
        names = ", ".join(task.name for task in run.tasks)
        raise InputError(
            f"{run.name} has no task with a published column ({names}); leave out --against paper."
        )
    reference = _find_reference(run.model, requested)
    model = reference or DEFAULT_REFERENCE
    tables = list(dict.fromkeys(column.table for column in columns))
    rows = {
        table: {row["model"]: _cells_by_column(row) for row in _table(table)["rows"]}
        for table in tables
    }
    averages = compute_averages(columns)
    cells = [_cell(column, rows, model) for column in columns]
    cells += [_average_cell(average, columns, rows, model) for average in averages]
    shown = {(column.table, column.column) for column in columns}
    shown |= {(average.table, AVERAGE) for average in averages if average.macro is not None}
    unreliable_cells = tuple(
        entry
        for entry in load_leaderboard()["suspect_cells"]
        if any(t == entry["table"] and fnmatchcase(c, entry["column"]) for t, c in shown)
    )
    named = [row.get("source") for table in tables for row in _table(table)["rows"]]
    named += [_table(table).get("source") for table in tables]
    return PublishedComparison(
        reference=model,
        is_reference_named=reference is not None,
        columns=tuple(columns),
        cells=tuple(cells),
        averages=tuple(averages),
        rows=rows,
        unreliable_cells=unreliable_cells,
        sources=tuple(load_leaderboard()["sources"][x] for x in dict.fromkeys(filter(None, named))),
        notes={table: _decoding_notes(run, columns, table) for table in tables},
    )


def _find_reference(model: str, requested: str | None) -> str | None:
    """The printed name of the requested row or of a model."""
    names = {row["model"] for table in table_columns() for row in _table(table)["rows"]}
    name = requested
    if name is None:
        name = model.rstrip("/").rsplit("/", 1)[-1].rsplit("#", 1)[-1]
    reference = {each.casefold(): each for each in names}.get(name.casefold())
    if reference is None and requested is not None:
        raise InputError(
            f"no published row is called {requested!r}; {suggest_name(requested, names)}"
        )
    return reference


def _decoding_notes(run: ScoredRun, columns: Sequence[Column], table: str) -> tuple[str, ...]:
    """A sentence for each length limit that differs from the published one, with its tasks."""
    names = {name for column in columns if column.table == table for name in column.tasks}
    tasks_by_length: dict[int, list[str]] = {}
    for task in run.tasks:
        if task.name in names and task.max_tokens not in (None, MAX_TOKENS):
            tasks_by_length.setdefault(task.max_tokens, []).append(task.name)
    return tuple(
        f"Replies had at most {length:,} tokens here and {MAX_TOKENS:,} in the published runs:"
        f" {', '.join(tasks)}."
        for length, tasks in sorted(tasks_by_length.items())
    )


def _cells_by_column(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The cells of a printed row by column, its printed average as AVERAGE."""
    cells: dict[str, float | None] = {}
    for name, value in row["scores"].items():
        is_nested = isinstance(value, Mapping)
        cells |= {f"{name}/{key}": v for key, v in value.items()} if is_nested else {name: value}
    return cells | {AVERAGE: row.get("avg_published")}


def reason_unreliable(table: str, model: str, column: str) -> str | None:
    """Why a printed cell is not to be relied on, None where nothing is known against it."""
    for cell in load_leaderboard()["suspect_cells"]:
        is_in_row = table == cell["table"] and cell["model"] in ("*", model)
        if is_in_row and fnmatchcase(column, cell["column"]):
            return cell["reason"]
    return None


def _base_cell(table: str, column: str, protocol: str, rows: Rows, model: str) -> Cell:
    """A printed cell with the reason why it is not compared, where there is one."""
    value = rows[table].get(model, {}).get(column)
    caveat = None if value is None else reason_unreliable(table, model, column)
    reason = caveat
    if model not in rows[table]:
        reason = f"{model} has no row in this table"
    elif value is None:
        reason = "not published"
    is_unreliable = caveat is not None
    return Cell(table, column, protocol, value, skip_reason=reason, is_unreliable=is_unreliable)


def _cell(column: Column, rows: Rows, model: str) -> Cell:
    cell = _base_cell(column.table, column.column, column.protocol, rows, model)
    accuracy, printed = column.summary.accuracy, cell.published
    if cell.skip_reason or printed is None:
        return cell
    if accuracy.value is None:
        return replace(cell, skip_reason="nothing of ours to compare")
    difference, reason = 100 * accuracy.value - printed, column.mismatch_reason
    tolerance = JUDGED_POINTS if column.is_judged else ROUNDING_POINTS
    cell = replace(cell, difference=difference, tolerance=tolerance, no_verdict_reason=reason)
    if reason is not None or accuracy.low is None or accuracy.high is None:
        return cell
    is_covered = 100 * accuracy.low <= printed <= 100 * accuracy.high
    return replace(cell, is_outside=not is_covered and abs(difference) > tolerance)


def _average_cell(average: Average, columns: Sequence[Column], rows: Rows, model: str) -> Cell:
    cell = _base_cell(average.table, AVERAGE, average.protocol, rows, model)
    if cell.skip_reason or cell.published is None:
        return cell
    if average.macro is None:
        reason = f"{len(average.columns)} of {average.n_columns} columns"
        return replace(cell, skip_reason=reason)
    reasons = (
        f"{column.column}: {column.mismatch_reason}"
        for column in columns
        if (column.table, column.protocol) == (average.table, average.protocol)
        and column.mismatch_reason
    )
    # One decimal, as it is printed. Its interval would need those of all columns together, so none
    # is claimed.
    difference = round(100 * average.macro, 1) - cell.published
    return replace(cell, difference=difference, no_verdict_reason=next(reasons, None))
