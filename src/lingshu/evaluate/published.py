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

from lingshu.core.errors import ArtefactError, InputError, nearest
from lingshu.evaluate.scored import ScoredRun, ScoredTask
from lingshu.evaluate.statistics import macro
from lingshu.evaluate.summary import Row, Summary, summarise

AVERAGE = "avg_published"  # stands for a column where a row's printed average is meant
REFERENCE = "Lingshu-7B"  # the row that stands in where a run's model names none
# The printed cells of these columns hold verdicts of a judge (GPT-4.1) on open questions. Its
# version, the decoding and the exact code behind them are not fully known, so a difference of less
# than a point says nothing.
JUDGED = {("multimodal", "VQA-RAD"), ("multimodal", "SLAKE"), ("multimodal", "PathVQA")}
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
    limited: bool = False

    @property
    def unlike(self) -> str | None:
        """Why there is no verdict on the column: the items are not those of the benchmark."""
        n = self.summary.n
        if (n < self.expected) if self.expected is not None else self.limited:
            return "part of the benchmark"
        if self.expected is not None and n > self.expected:
            return f"other data, {n} items and not {self.expected}"
        return UNDOCUMENTED.get((self.table, self.column))

    @property
    def judged(self) -> bool:
        return (self.table, self.column) in JUDGED


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
    of: int
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
    outside: bool | None = None
    skipped: str | None = None
    suspect: bool = False
    no_verdict: str | None = None


@dataclass(frozen=True)
class Suspect:
    """A printed cell that is not to be relied on, and why."""

    table: str
    model: str
    column: str
    value: float | None
    reason: str


@dataclass(frozen=True)
class PaperComparison:
    """A run beside the published tables; the differences are to the row of `reference`.

    `named` is whether the run's model, or whoever asked, named that row. `rows` has the printed
    rows of each table, `notes` what else the run did otherwise than the published ones, by table.
    """

    reference: str
    named: bool
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    averages: tuple[Average, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    suspects: tuple[Suspect, ...]
    sources: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@cache
def leaderboard() -> Mapping[str, Any]:
    """The published tables; docs/report.md says what is in them."""
    return json.loads(
        resources.files("lingshu.evaluate").joinpath("leaderboard.json").read_text(encoding="utf-8")
    )


def tables() -> dict[str, list[str]]:
    """The columns of each published table of models; those of the report table are dataset/metric."""
    found = {}
    for name, table in leaderboard()["tables"].items():
        if all("model" in row for row in table["rows"]):
            found[name] = table.get("columns") or [
                f"{dataset}/{metric}"
                for dataset in table["datasets"]
                for metric in table["metrics"]
            ]
    return found


def place(task: ScoredTask) -> tuple[str, str] | None:
    """The table and column that a task's run card names: `[table, column]`, or a column that only
    one table has.

    Raises:
        ArtefactError: there is no such column.
    """
    named = task.facts.get("published")
    if not named:
        return None
    table, column = (None, named) if isinstance(named, str) else named
    at = [
        (name, column)
        for name, columns in tables().items()
        if column in columns and table in (None, name)
    ]
    if len(at) != 1:
        known = [name for columns in tables().values() for name in columns]
        raise ArtefactError(
            f"{task.name} belongs to no published column {named!r}; {nearest(str(column), known)}"
        )
    return at[0]


def columns(run: ScoredRun) -> list[Column]:
    """Every published column that the run's tasks fill, once for each protocol that all tasks of
    the column have.
    """
    at: dict[tuple[str, str], list[ScoredTask]] = {}
    for task in run.tasks:
        where = place(task)
        if where is not None:
            at.setdefault(where, []).append(task)
    order = [(table, column) for table, names in tables().items() for column in names]
    found = []
    for table, column in sorted(at, key=order.index):
        tasks = at[table, column]
        stated = [int(task.facts["n"]) for task in tasks if task.facts.get("n") is not None]
        expected = sum(stated) if len(stated) == len(tasks) else None
        for protocol in (
            name for name in tasks[0].rows if all(name in task.rows for task in tasks)
        ):
            rows: list[Row] = [
                {**row, "id": f"{task.name}/{row['id']}"}
                for task in tasks
                for row in task.rows[protocol]
            ]
            names, limited = (
                tuple(task.name for task in tasks),
                any(task.limit is not None for task in tasks),
            )
            found.append(Column(table, column, protocol, names, expected, summarise(rows), limited))
    return found


def averages(filled: Sequence[Column]) -> list[Average]:
    """The averages of the tables that have one, for each protocol, of the columns that this run
    fills.
    """
    found = []
    for table, protocol in dict.fromkeys((column.table, column.protocol) for column in filled):
        if not _averaged(table):
            continue
        mine = [column for column in filled if (column.table, column.protocol) == (table, protocol)]
        of = len(tables()[table])
        whole = (
            macro([column.summary.accuracy.value for column in mine]) if len(mine) == of else None
        )
        items = sum(column.summary.n for column in mine)
        pooled = sum(column.summary.right for column in mine) / items if items else None
        found.append(
            Average(table, protocol, tuple(column.column for column in mine), of, whole, pooled)
        )
    return found


def _averaged(table: str) -> bool:
    # The other tables print no average, or one that is not the mean of their columns.
    return str(leaderboard()["tables"][table].get("average")).startswith("unweighted mean")


def compare(run: ScoredRun, wanted: str | None = None) -> PaperComparison:
    """The run beside the published tables. `wanted` names the printed row to take differences to.

    Without it that is the row of the run's model where it bears a printed name, else Lingshu-7B.

    Raises:
        InputError: no printed row has that name, or no task of the run belongs to a published
            column.
    """
    filled = columns(run)
    if not filled:
        names = ", ".join(task.name for task in run.tasks)
        raise InputError(
            f"{run.name} has no task with a published column ({names}); leave out --against paper."
        )
    known = {row["model"] for name in tables() for row in leaderboard()["tables"][name]["rows"]}
    asked = (
        run.model.rstrip("/").rsplit("/", 1)[-1].rsplit("#", 1)[-1] if wanted is None else wanted
    )
    reference = {name.casefold(): name for name in known}.get(asked.casefold())
    if reference is None and wanted is not None:
        raise InputError(f"no published row is called {wanted!r}; {nearest(wanted, known)}")
    mine = reference or REFERENCE
    used = dict.fromkeys(column.table for column in filled)
    rows = {
        table: {row["model"]: _printed(row) for row in leaderboard()["tables"][table]["rows"]}
        for table in used
    }
    averaged = averages(filled)
    cells = [_cell(column, rows, mine) for column in filled] + [
        _average_cell(one, filled, rows, mine) for one in averaged
    ]
    shown = {(column.table, column.column) for column in filled} | {
        (one.table, AVERAGE) for one in averaged if one.macro is not None
    }
    suspects = tuple(
        Suspect(**entry)
        for entry in leaderboard()["suspect_cells"]
        if any(
            table == entry["table"] and fnmatchcase(column, entry["column"])
            for table, column in shown
        )
    )
    sources = [
        row["source"]
        for table in used
        for row in leaderboard()["tables"][table]["rows"]
        if "source" in row
    ]
    sources += [
        leaderboard()["tables"][table]["source"]
        for table in used
        if "source" in leaderboard()["tables"][table]
    ]
    told = tuple(leaderboard()["sources"][source] for source in dict.fromkeys(sources))
    notes = {
        table: _decoding(run, [column for column in filled if column.table == table])
        for table in used
    }
    return PaperComparison(
        mine,
        reference is not None,
        tuple(filled),
        tuple(cells),
        tuple(averaged),
        rows,
        suspects,
        told,
        notes,
    )


def _decoding(run: ScoredRun, filled: Sequence[Column]) -> tuple[str, ...]:
    """A sentence for each other length limit than the published one, with the tasks that had it."""
    names = {name for column in filled for name in column.tasks}
    lengths: dict[int, list[str]] = {}
    for task in run.tasks:
        if task.name in names and task.max_tokens not in (None, MAX_TOKENS):
            lengths.setdefault(task.max_tokens, []).append(task.name)
    return tuple(
        f"Replies had at most {length:,} tokens here and {MAX_TOKENS:,} in the published runs:"
        f" {', '.join(tasks)}."
        for length, tasks in sorted(lengths.items())
    )


def _printed(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The cells of a printed row by column, its printed average as AVERAGE."""
    cells: dict[str, float | None] = {}
    for name, value in row["scores"].items():
        cells |= (
            {f"{name}/{metric}": number for metric, number in value.items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
    return cells | {AVERAGE: row.get("avg_published")}


def suspicion(table: str, model: str, column: str) -> str | None:
    """Why a printed cell is not to be relied on, None where nothing is known against it."""
    for cell in leaderboard()["suspect_cells"]:
        if (
            table == cell["table"]
            and cell["model"] in ("*", model)
            and fnmatchcase(column, cell["column"])
        ):
            return cell["reason"]
    return None


def _unlike(
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
    doubt = suspicion(table, model, column)
    return value, doubt, doubt is not None


def _cell(column: Column, rows: Mapping[str, Any], model: str) -> Cell:
    value, skipped, suspect = _unlike(column.table, column.column, rows, model)
    ours = column.summary.accuracy
    if skipped is None and ours.value is None:
        skipped = "nothing of ours to compare"
    if skipped or value is None or ours.value is None:
        return Cell(
            column.table, column.column, column.protocol, value, skipped=skipped, suspect=suspect
        )
    difference = 100 * ours.value - value
    tolerance = JUDGED_POINTS if column.judged else ROUNDING_POINTS
    outside = None
    if column.unlike is None and ours.low is not None and ours.high is not None:
        outside = not 100 * ours.low <= value <= 100 * ours.high and abs(difference) > tolerance
    return Cell(
        column.table,
        column.column,
        column.protocol,
        value,
        difference,
        tolerance,
        outside,
        no_verdict=column.unlike,
    )


def _average_cell(
    average: Average, filled: Sequence[Column], rows: Mapping[str, Any], model: str
) -> Cell:
    value, skipped, suspect = _unlike(average.table, AVERAGE, rows, model)
    if skipped is None and average.macro is None:
        skipped = f"{len(average.columns)} of {average.of} columns"
    if skipped or value is None or average.macro is None:
        return Cell(
            average.table, AVERAGE, average.protocol, value, skipped=skipped, suspect=suspect
        )
    # One decimal, as it is printed. Its interval would need those of all columns together, so none
    # is claimed.
    mine = [
        column
        for column in filled
        if (column.table, column.protocol) == (average.table, average.protocol)
    ]
    unlike = next((f"{column.column}: {column.unlike}" for column in mine if column.unlike), None)
    return Cell(
        average.table,
        AVERAGE,
        average.protocol,
        value,
        round(100 * average.macro, 1) - value,
        no_verdict=unlike,
    )
