"""The score on the items that do not stand in training data, beside the score on all: a run and the
overlaps of its test sets.

The overlaps are the JSONL that `lingshu overlap` writes. A row belongs to the task that its `test`
names: the name itself, or the last part of a path without its ending (benchmarks/slake,
slake.jsonl, slake.py), or the folder of a rows.jsonl. A row without `test` belongs to every task.
Within a task, `test_id` is the id of the item.

Every kind but boilerplate makes an item unclean, unless other kinds are named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from lingshu.core.errors import InputError, nearest
from lingshu.core.files import numbered_jsonl, read_json, sha256_file
from lingshu.core.shares import Interval
from lingshu.evaluate.scored import ScoredRun, ScoredTask
from lingshu.evaluate.summary import Row, Summary, summarise
from lingshu.ops._overlap import KINDS

BOILERPLATE = "boilerplate"
STRICTEST = tuple(kind for kind in KINDS if kind != BOILERPLATE)
ROWS = "rows.jsonl"
ENDINGS = (".jsonl", ".json", ".py", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class Overlaps:
    """What a file of overlaps says: for each test set, as it is named there, the kinds by item.

    `tests` are the sets that were compared, those without an overlap too where the run card beside
    the file names them; None stands for a set without a name. `trains` is what they were compared
    with, `unread` what could not be, by reason.
    """

    name: str
    items: Mapping[str | None, Mapping[str, frozenset[str]]]
    tests: tuple[str | None, ...]
    trains: tuple[str, ...] = ()
    unread: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KindCount:
    """How many items of a task have an overlap of one kind (an item may have several), and the
    score on them.
    """

    kind: str
    items: int
    removes: bool
    accuracy: Interval


@dataclass(frozen=True)
class CleanTask:
    """One task under one protocol: the summaries of all its items, of the clean ones and of the
    others.

    `difference` is contaminated - clean, see `contrast`. `elsewhere` counts overlaps with items
    that the run does not have.
    """

    name: str
    title: str
    protocol: str
    full: Summary
    clean: Summary
    contaminated: Summary
    difference: Interval
    kinds: tuple[KindCount, ...] = ()
    elsewhere: int = 0


@dataclass(frozen=True)
class CleanComparison:
    """A run on its clean items. `left_out` names the tasks that were not compared, `unknown` the
    test sets that are no task.

    `unread` counts rows and images that could not be compared, by reason: items behind them stand
    among the clean ones.
    """

    overlaps: str
    kinds: tuple[str, ...]
    trains: tuple[str, ...]
    tasks: tuple[CleanTask, ...]
    left_out: tuple[str, ...] = ()
    unknown: tuple[str, ...] = field(default=())
    unread: Mapping[str, int] = field(default_factory=dict)


def kinds_of(text: str | None) -> tuple[str, ...]:
    """The kinds that make an item unclean, from a list with commas between; all but boilerplate
    without one.

    Raises:
        InputError: a kind that there is not.
    """
    if text is None:
        return STRICTEST
    given = {part.strip() for part in text.split(",") if part.strip()}
    for name in sorted(given):
        if name not in KINDS:
            raise InputError(f"there is no kind of overlap {name!r}; {nearest(name, KINDS)}")
    if not given:
        raise InputError(f"--clean-kinds names nothing; choose among {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in given)


def read_overlaps(path: Path) -> Overlaps:
    """A file that `lingshu overlap` wrote, with its run card where it lies beside it.

    Raises:
        InputError: there is no such file, a row is none of overlaps, or the run card beside it is
            that of other rows.
    """
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; make it with `lingshu overlap TRAIN --against TEST --out"
            f" {path}`."
        )
    found: dict[str | None, dict[str, set[str]]] = {}
    for number, row in numbered_jsonl(path, torn_ok=False):
        test, item, kind = row.get("test"), row.get("test_id"), row.get("kind")
        if kind not in KINDS or not isinstance(item, str | int) or not isinstance(test, str | None):
            raise InputError(
                f"{path}, line {number}: no row of overlaps (test_id and kind are needed); give"
                " what `lingshu overlap` wrote."
            )
        found.setdefault(test, {}).setdefault(str(item), set()).add(str(kind))
    beside = path.with_name(f"{path.name}.run.json")
    card = read_json(beside) if beside.is_file() else {}
    hashes = card.get("hashes")
    # An older card may say that a task was compared and found clean which these rows know nothing
    # of.
    if isinstance(hashes, Mapping) and hashes and sha256_file(path) not in hashes.values():
        raise InputError(
            f"{beside} was not written for the rows that {path} holds; compare again, or remove the"
            " run card."
        )
    config, notes = (
        part if isinstance(part, Mapping) else {}
        for part in (card.get("config"), card.get("notes"))
    )
    failed = notes.get("failed")
    unread = (
        {str(reason): n for reason, n in failed.items() if isinstance(n, int)}
        if isinstance(failed, Mapping)
        else {}
    )
    # What a search left out because too many items were alike is not compared either.
    capped = notes.get("pairs_not_compared")
    unread |= {"pairs of look-alikes": capped} if isinstance(capped, int) and capped > 0 else {}
    listed = [config.get("against"), config.get("train")]
    against, trains = (
        [str(name) for name in names] if isinstance(names, list) else [] for names in listed
    )
    items = {
        test: {item: frozenset(kinds) for item, kinds in by_item.items()}
        for test, by_item in found.items()
    }
    return Overlaps(
        path.name, items, tuple(dict.fromkeys((*against, *items))), tuple(trains), unread
    )


def names_of(test: str) -> set[str]:
    """The names of tasks that the name of a test set may mean."""
    path = PurePath(test)
    if path.name == ROWS:
        return {test, path.parent.name}
    # Of slake.zh the ending is part of the name.
    return {test, path.name, path.stem if path.suffix in ENDINGS else path.name}


def on_clean_items(
    run: ScoredRun, overlaps: Overlaps, kinds: Sequence[str] = STRICTEST
) -> CleanComparison:
    """Every task of the run that the overlaps speak of, under each of its protocols.

    Raises:
        InputError: they speak of none.
    """
    meant: dict[str, list[str | None]] = {
        task.name: [test for test in overlaps.tests if test is None or task.name in names_of(test)]
        for task in run.tasks
    }
    used = {test for tests in meant.values() for test in tests}
    unknown = tuple(test for test in overlaps.tests if test is not None and test not in used)
    if not used:
        tests = ", ".join(map(str, unknown)) or "no test set at all"
        raise InputError(
            f"{overlaps.name} speaks of {tests}, and {run.name} has {', '.join(meant)}; compare the"
            " training data with the tasks by their names (`lingshu overlap TRAIN --against"
            " TASK`)."
        )
    found = []
    for task in run.tasks:
        marks: dict[str, set[str]] = {}
        for test in meant[task.name]:
            for item, its_kinds in overlaps.items.get(test, {}).items():
                marks.setdefault(item, set()).update(its_kinds)
        if meant[task.name]:
            found += [
                _task(task, rows, marks, kinds, protocol=protocol)
                for protocol, rows in task.rows.items()
            ]
    left_out = tuple(task.title for task in run.tasks if not meant[task.name])
    return CleanComparison(
        overlaps.name,
        tuple(kinds),
        overlaps.trains,
        tuple(found),
        left_out,
        unknown,
        overlaps.unread,
    )


def _task(
    task: ScoredTask,
    rows: Sequence[Row],
    marks: Mapping[str, set[str]],
    kinds: Sequence[str],
    *,
    protocol: str,
) -> CleanTask:
    unclean = {item for item, its_kinds in marks.items() if its_kinds & set(kinds)}
    clean = [row for row in rows if str(row["id"]) not in unclean]
    others = [row for row in rows if str(row["id"]) in unclean]
    full = summarise(rows)
    kept, removed = (summarise(part, method=full.method) for part in (clean, others))
    counted: list[KindCount] = []
    for kind in KINDS:
        items = [row for row in rows if kind in marks.get(str(row["id"]), ())]
        if items:
            counted.append(KindCount(kind, len(items), kind in kinds, summarise(items).accuracy))
    return CleanTask(
        name=task.name,
        title=task.title,
        protocol=protocol,
        full=full,
        clean=kept,
        contaminated=removed,
        difference=contrast(removed, kept),
        kinds=tuple(counted),
        elsewhere=len(marks.keys() - {str(row["id"]) for row in rows}),
    )


def contrast(first: Summary, second: Summary) -> Interval:
    """The score on one set of items minus that on another, with its 95% interval from the intervals
    of the two.

    From Wilson's intervals this is Newcombe's (Statistics in Medicine 17:873, 1998, method 10),
    from others its general form (Zou and Donner, Statistics in Medicine 27:1693, 2008). The two
    sets count as independent; groups with items in both make the interval rather too wide.
    """
    (p, low_p, high_p, n), (q, low_q, high_q, m) = first.accuracy, second.accuracy
    if p is None or low_p is None or high_p is None or q is None or low_q is None or high_q is None:
        return Interval(None if p is None or q is None else p - q, None, None, n + m)
    return Interval(
        p - q,
        p - q - math.hypot(p - low_p, high_q - q),
        p - q + math.hypot(high_p - p, q - low_q),
        n + m,
    )
