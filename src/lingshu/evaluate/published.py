"""The published leaderboard beside a run: which task fills which column, the averages as printed,
and every difference.

leaderboard.json holds the printed tables of the Lingshu paper (arXiv 2506.07044) and of the model
cards it names; nothing in it was measured anew. A task names its column itself (`published` in the
run card), so that no task is known here by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from lingshu.core.errors import ArtifactError, InputError, suggest_name
from lingshu.evaluate.statistics import macro
from lingshu.evaluate.store import ScoredRun, ScoredTask
from lingshu.evaluate.summary import Row, Summary, summarize

AVERAGE = "avg_published"  # stands for a column where a row's printed average is meant
DEFAULT_REFERENCE = "Lingshu-7B"  # the row that stands in where a run's model names none
# The printed cells of these columns hold verdicts of a judge (GPT-4.1) on open questions. Its
# version, the decoding and the exact code behind them are not fully known, so a difference of less
# than a point says nothing.
JUDGED_COLUMNS = {("multimodal", "VQA-RAD"), ("multimodal", "SLAKE"), ("multimodal", "PathVQA")}
JUDGED_POINTS, ROUNDING_POINTS = 1.0, 0.05
MAX_TOKENS = 8192  # of the published decoding
# Columns of which it is not known what data they are over.
UNDOCUMENTED = {
    ("textual", "Medbullets"): "whether four or five options were printed is not documented"
}


@dataclass(frozen=True)
class Column:
    """One column of a published table as this run fills it: pooled over the tasks that belong to
    it, under one protocol.

    `expected` is the number of items that the benchmark has, None where that is not known;
    `limited` whether fewer were wanted.
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
    """The average of a table as it is published: the unweighted mean of all its columns, and the
    mean over all items.

    `macro` is None until every column is there; `columns` are those that are, `of` is how many the
    table has.
    """

    table: str
    protocol: str
    columns: tuple[str, ...]
    n_columns: int
    macro: float | None
    micro: float | None


@dataclass(frozen=True)
class Cell:
    """A printed cell beside ours. Printed values and `difference` (ours - printed) are in points of
    a hundred.

    `outside` says whether the printed value lies outside our 95% interval and further away than
    `tolerance`; None where that cannot be said, for the reason `no_verdict` where ours are other
    items. `skipped` is why a cell is not compared, `suspect` that the reason lies in the printed
    value.
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
class UnreliableCell:
    """A printed cell that is not to be relied on, and why."""

    table: str
    model: str
    column: str
    value: float | None
    reason: str


@dataclass(frozen=True)
class PublishedComparison:
    """A run beside the published tables; the differences are to the row of `reference`.

    `named` is whether the run's model, or whoever asked, named that row. `rows` has the printed
    rows of each table, `notes` what else the run did otherwise than the published ones, by table.
    """

    reference: str
    is_reference_named: bool
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    averages: tuple[Average, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    unreliable_cells: tuple[UnreliableCell, ...]
    sources: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def compared(self, table: str, protocol: str) -> list[tuple[Column, Cell]]:
        """The columns of a table under a protocol, each with its cell."""
        cells = {(cell.table, cell.column, cell.protocol): cell for cell in self.cells}
        return [
            (column, cells[table, column.column, protocol])
            for column in self.columns
            if (column.table, column.protocol) == (table, protocol)
        ]

    def compared_averages(self, table: str, protocol: str) -> list[tuple[Average, Cell]]:
        key = (table, AVERAGE, protocol)
        cells = [cell for cell in self.cells if (cell.table, cell.column, cell.protocol) == key]
        averages = [item for item in self.averages if (item.table, item.protocol) == key[::2]]
        return list(zip(averages, cells, strict=True))


@cache
def load_leaderboard() -> Mapping[str, Any]:
    """The published tables; docs/report.md says what is in them."""
    return json.loads(
        resources.files("lingshu.evaluate").joinpath("leaderboard.json").read_text(encoding="utf-8")
    )


def table_columns() -> dict[str, list[str]]:
    """The columns of each published table of models; those of the report table are dataset/metric."""
    columns_by_table = {}
    for name, table in load_leaderboard()["tables"].items():
        if all("model" in row for row in table["rows"]):
            columns_by_table[name] = table.get("columns") or [
                f"{dataset}/{metric}"
                for dataset in table["datasets"]
                for metric in table["metrics"]
            ]
    return columns_by_table


def published_column(task: ScoredTask) -> tuple[str, str] | None:
    """The table and column that a task's run card names: `[table, column]`, or a column that only
    one table has.

    Raises:
        ArtefactError: there is no such column.
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
        column_names = [name for columns in table_columns().values() for name in columns]
        raise ArtifactError(
            f"{task.name} belongs to no published column {target!r}; {suggest_name(str(column), column_names)}"
        )
    return matches[0]


def fill_columns(run: ScoredRun) -> list[Column]:
    """Every published column that the run's tasks fill, once for each protocol that all tasks of
    the column have.
    """
    tasks_by_column: dict[tuple[str, str], list[ScoredTask]] = {}
    for task in run.tasks:
        table_column = published_column(task)
        if table_column is not None:
            tasks_by_column.setdefault(table_column, []).append(task)
    order = [(table, column) for table, names in table_columns().items() for column in names]
    result = []
    for table, column in sorted(tasks_by_column, key=order.index):
        tasks = tasks_by_column[table, column]
        expected_counts = [
            int(task.metadata["n"]) for task in tasks if task.metadata.get("n") is not None
        ]
        expected = sum(expected_counts) if len(expected_counts) == len(tasks) else None
        for protocol in (
            name for name in tasks[0].rows if all(name in task.rows for task in tasks)
        ):
            rows: list[Row] = [
                {**row, "id": f"{task.name}/{row['id']}"}
                for task in tasks
                for row in task.rows[protocol]
            ]
            names, is_limited = (
                tuple(task.name for task in tasks),
                any(task.limit is not None for task in tasks),
            )
            result.append(
                Column(table, column, protocol, names, expected, summarize(rows), is_limited)
            )
    return result


def compute_averages(columns: Sequence[Column]) -> list[Average]:
    """The averages of the tables that have one, for each protocol, of the columns that this run
    fills.
    """
    result = []
    for table, protocol in dict.fromkeys((column.table, column.protocol) for column in columns):
        if not _has_average(table):
            continue
        protocol_columns = [
            column for column in columns if (column.table, column.protocol) == (table, protocol)
        ]
        n_columns = len(table_columns()[table])
        macro_average = (
            macro([column.summary.accuracy.value for column in protocol_columns])
            if len(protocol_columns) == n_columns
            else None
        )
        items = sum(column.summary.n for column in protocol_columns)
        pooled = (
            sum(column.summary.correct for column in protocol_columns) / items if items else None
        )
        result.append(
            Average(
                table,
                protocol,
                tuple(column.column for column in protocol_columns),
                n_columns,
                macro_average,
                pooled,
            )
        )
    return result


def _has_average(table: str) -> bool:
    # The other tables print no average, or one that is not the mean of their columns.
    return str(load_leaderboard()["tables"][table].get("average")).startswith("unweighted mean")


def compare(run: ScoredRun, requested: str | None = None) -> PublishedComparison:
    """The run beside the published tables. `wanted` names the printed row to take differences to.

    Without it that is the row of the run's model where it bears a printed name, else Lingshu-7B.

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
    model_names = {
        row["model"]
        for name in table_columns()
        for row in load_leaderboard()["tables"][name]["rows"]
    }
    model_name = (
        run.model.rstrip("/").rsplit("/", 1)[-1].rsplit("#", 1)[-1]
        if requested is None
        else requested
    )
    reference = {name.casefold(): name for name in model_names}.get(model_name.casefold())
    if reference is None and requested is not None:
        raise InputError(
            f"no published row is called {requested!r}; {suggest_name(requested, model_names)}"
        )
    reference_model = reference or DEFAULT_REFERENCE
    used_tables = dict.fromkeys(column.table for column in columns)
    rows = {
        table: {
            row["model"]: _cells_by_column(row)
            for row in load_leaderboard()["tables"][table]["rows"]
        }
        for table in used_tables
    }
    averages = compute_averages(columns)
    cells = [_cell(column, rows, reference_model) for column in columns] + [
        _average_cell(average, columns, rows, reference_model) for average in averages
    ]
    shown_cells = {(column.table, column.column) for column in columns} | {
        (average.table, AVERAGE) for average in averages if average.macro is not None
    }
    unreliable_cells = tuple(
        UnreliableCell(**entry)
        for entry in load_leaderboard()["suspect_cells"]
        if any(
            table == entry["table"] and fnmatchcase(column, entry["column"])
            for table, column in shown_cells
        )
    )
    sources = [
        row["source"]
        for table in used_tables
        for row in load_leaderboard()["tables"][table]["rows"]
        if "source" in row
    ]
    sources += [
        load_leaderboard()["tables"][table]["source"]
        for table in used_tables
        if "source" in load_leaderboard()["tables"][table]
    ]
    source_texts = tuple(load_leaderboard()["sources"][source] for source in dict.fromkeys(sources))
    notes = {
        table: _decoding_notes(run, [column for column in columns if column.table == table])
        for table in used_tables
    }
    return PublishedComparison(
        reference_model,
        reference is not None,
        tuple(columns),
        tuple(cells),
        tuple(averages),
        rows,
        unreliable_cells,
        source_texts,
        notes,
    )


def _decoding_notes(run: ScoredRun, columns: Sequence[Column]) -> tuple[str, ...]:
    """A sentence for each other length limit than the published one, with the tasks that had it."""
    names = {name for column in columns for name in column.tasks}
    task_names_by_length: dict[int, list[str]] = {}
    for task in run.tasks:
        if task.name in names and task.max_tokens not in (None, MAX_TOKENS):
            task_names_by_length.setdefault(task.max_tokens, []).append(task.name)
    return tuple(
        f"Replies had at most {length:,} tokens here and {MAX_TOKENS:,} in the published runs:"
        f" {', '.join(tasks)}."
        for length, tasks in sorted(task_names_by_length.items())
    )


def _cells_by_column(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The cells of a printed row by column, its printed average as AVERAGE."""
    cells: dict[str, float | None] = {}
    for name, value in row["scores"].items():
        cells |= (
            {f"{name}/{metric}": metric_value for metric, metric_value in value.items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
    return cells | {AVERAGE: row.get("avg_published")}


def reason_unreliable(table: str, model: str, column: str) -> str | None:
    """Why a printed cell is not to be relied on, None where nothing is known against it."""
    for cell in load_leaderboard()["suspect_cells"]:
        if (
            table == cell["table"]
            and cell["model"] in ("*", model)
            and fnmatchcase(column, cell["column"])
        ):
            return cell["reason"]
    return None


def _published_value(
    table: str, column: str, rows: Mapping[str, Any], model: str
) -> tuple[float | None, str | None, bool]:
    """A printed cell, why it is not to be compared, and whether that is because the cell is
    suspect.
    """
    if model not in rows[table]:
        return None, f"{model} has no row in this table", False
    value = rows[table][model].get(column)
    if value is None:
        return None, "not published", False
    caveat = reason_unreliable(table, model, column)
    return value, caveat, caveat is not None


def _cell(column: Column, rows: Mapping[str, Any], model: str) -> Cell:
    value, skip_reason, is_unreliable = _published_value(column.table, column.column, rows, model)
    accuracy = column.summary.accuracy
    if skip_reason is None and accuracy.value is None:
        skip_reason = "nothing of ours to compare"
    if skip_reason or value is None or accuracy.value is None:
        return Cell(
            column.table,
            column.column,
            column.protocol,
            value,
            skip_reason=skip_reason,
            is_unreliable=is_unreliable,
        )
    difference = 100 * accuracy.value - value
    tolerance = JUDGED_POINTS if column.is_judged else ROUNDING_POINTS
    is_outside = None
    if column.mismatch_reason is None and accuracy.low is not None and accuracy.high is not None:
        is_outside = (
            not 100 * accuracy.low <= value <= 100 * accuracy.high and abs(difference) > tolerance
        )
    return Cell(
        column.table,
        column.column,
        column.protocol,
        value,
        difference,
        tolerance,
        is_outside,
        no_verdict_reason=column.mismatch_reason,
    )


def _average_cell(
    average: Average, columns: Sequence[Column], rows: Mapping[str, Any], model: str
) -> Cell:
    value, skip_reason, is_unreliable = _published_value(average.table, AVERAGE, rows, model)
    if skip_reason is None and average.macro is None:
        skip_reason = f"{len(average.columns)} of {average.n_columns} columns"
    if skip_reason or value is None or average.macro is None:
        return Cell(
            average.table,
            AVERAGE,
            average.protocol,
            value,
            skip_reason=skip_reason,
            is_unreliable=is_unreliable,
        )
    # One decimal, as it is printed. Its interval would need those of all columns together, so none
    # is claimed.
    protocol_columns = [
        column
        for column in columns
        if (column.table, column.protocol) == (average.table, average.protocol)
    ]
    mismatch_reason = next(
        (
            f"{column.column}: {column.mismatch_reason}"
            for column in protocol_columns
            if column.mismatch_reason
        ),
        None,
    )
    return Cell(
        average.table,
        AVERAGE,
        average.protocol,
        value,
        round(100 * average.macro, 1) - value,
        no_verdict_reason=mismatch_reason,
    )
