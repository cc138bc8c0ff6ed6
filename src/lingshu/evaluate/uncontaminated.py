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

from lingshu.core.errors import InputError, suggest_name
from lingshu.core.files import enumerate_jsonl, read_json, sha256_file
from lingshu.core.stats import Interval
from lingshu.evaluate.store import ScoredRun, ScoredTask
from lingshu.evaluate.summary import Row, Summary, summarize
from lingshu.search.overlap import KINDS

BOILERPLATE = "boilerplate"
DEFAULT_KINDS = tuple(kind for kind in KINDS if kind != BOILERPLATE)
ROWS_FILE = "rows.jsonl"
SUFFIXES = (".jsonl", ".json", ".py", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class Overlaps:
    """What a file of overlaps says: for each test set, as it is named there, the kinds by item.

    `tests` are the sets that were compared, those without an overlap too where the run card beside
    the file names them; None stands for a set without a name. `trains` is what they were compared
    with, `unread` what could not be, by reason.
    """

    name: str
    items: Mapping[str | None, Mapping[str, frozenset[str]]]
    test_sets: tuple[str | None, ...]
    training_sets: tuple[str, ...] = ()
    not_compared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KindCount:
    """How many items of a task have an overlap of one kind (an item may have several), and the
    score on them.
    """

    kind: str
    n_items: int
    is_excluded: bool
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
    n_not_in_run: int = 0


@dataclass(frozen=True)
class CleanComparison:
    """A run on its clean items. `left_out` names the tasks that were not compared, `unknown` the
    test sets that are no task.

    `unread` counts rows and images that could not be compared, by reason: items behind them stand
    among the clean ones.
    """

    overlaps: str
    kinds: tuple[str, ...]
    training_sets: tuple[str, ...]
    tasks: tuple[CleanTask, ...]
    excluded: tuple[str, ...] = ()
    unknown_test_sets: tuple[str, ...] = field(default=())
    not_compared: Mapping[str, int] = field(default_factory=dict)


def parse_kinds(text: str | None) -> tuple[str, ...]:
    """The kinds that make an item unclean, from a list with commas between; all but boilerplate
    without one.

    Raises:
        InputError: a kind that there is not.
    """
    if text is None:
        return DEFAULT_KINDS
    names = {part.strip() for part in text.split(",") if part.strip()}
    for name in sorted(names):
        if name not in KINDS:
            raise InputError(f"there is no kind of overlap {name!r}; {suggest_name(name, KINDS)}")
    if not names:
        raise InputError(f"--overlap-kinds names nothing; choose among {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in names)


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
    kinds_by_test: dict[str | None, dict[str, set[str]]] = {}
    for line_number, row in enumerate_jsonl(path, allow_truncated=False):
        test, item, kind = row.get("test"), row.get("test_id"), row.get("kind")
        if kind not in KINDS or not isinstance(item, str | int) or not isinstance(test, str | None):
            raise InputError(
                f"{path}, line {line_number}: no row of overlaps (test_id and kind are needed); give"
                " what `lingshu overlap` wrote."
            )
        kinds_by_test.setdefault(test, {}).setdefault(str(item), set()).add(str(kind))
    card_path = path.with_name(f"{path.name}.run.json")
    card = read_json(card_path) if card_path.is_file() else {}
    hashes = card.get("hashes")
    # An older card may say that a task was compared and found clean which these rows know nothing
    # of.
    if isinstance(hashes, Mapping) and hashes and sha256_file(path) not in hashes.values():
        raise InputError(
            f"{card_path} was not written for the rows that {path} holds; compare again, or remove the"
            " run card."
        )
    config, notes = (
        part if isinstance(part, Mapping) else {}
        for part in (card.get("config"), card.get("notes"))
    )
    failed = notes.get("failed")
    not_compared = (
        {str(reason): n for reason, n in failed.items() if isinstance(n, int)}
        if isinstance(failed, Mapping)
        else {}
    )
    # What a search left out because too many items were alike is not compared either.
    n_not_compared = notes.get("pairs_not_compared")
    not_compared |= (
        {"pairs of look-alikes": n_not_compared}
        if isinstance(n_not_compared, int) and n_not_compared > 0
        else {}
    )
    name_lists = [config.get("against"), config.get("train")]
    against, training_sets = (
        [str(name) for name in names] if isinstance(names, list) else [] for names in name_lists
    )
    items = {
        test: {item: frozenset(kinds) for item, kinds in by_item.items()}
        for test, by_item in kinds_by_test.items()
    }
    return Overlaps(
        path.name,
        items,
        tuple(dict.fromkeys((*against, *items))),
        tuple(training_sets),
        not_compared,
    )


def task_names(test: str) -> set[str]:
    """The names of tasks that the name of a test set may mean."""
    path = PurePath(test)
    if path.name == ROWS_FILE:
        return {test, path.parent.name}
    # Of slake.zh the ending is part of the name.
    return {test, path.name, path.stem if path.suffix in SUFFIXES else path.name}


def compare_uncontaminated(
    run: ScoredRun, overlaps: Overlaps, kinds: Sequence[str] = DEFAULT_KINDS
) -> CleanComparison:
    """Every task of the run that the overlaps speak of, under each of its protocols.

    Raises:
        InputError: they speak of none.
    """
    tests_by_task: dict[str, list[str | None]] = {
        task.name: [
            test for test in overlaps.test_sets if test is None or task.name in task_names(test)
        ]
        for task in run.tasks
    }
    used_tests = {test for test_sets in tests_by_task.values() for test in test_sets}
    unknown_test_sets = tuple(
        test for test in overlaps.test_sets if test is not None and test not in used_tests
    )
    if not used_tests:
        test_sets = ", ".join(map(str, unknown_test_sets)) or "no test set at all"
        raise InputError(
            f"{overlaps.name} speaks of {test_sets}, and {run.name} has {', '.join(tests_by_task)}; compare the"
            " training data with the tasks by their names (`lingshu overlap TRAIN --against"
            " TASK`)."
        )
    comparisons = []
    for task in run.tasks:
        kinds_by_item: dict[str, set[str]] = {}
        for test in tests_by_task[task.name]:
            for item, item_kinds in overlaps.items.get(test, {}).items():
                kinds_by_item.setdefault(item, set()).update(item_kinds)
        if tests_by_task[task.name]:
            comparisons += [
                _clean_task(task, rows, kinds_by_item, kinds, protocol=protocol)
                for protocol, rows in task.rows.items()
            ]
    excluded = tuple(task.title for task in run.tasks if not tests_by_task[task.name])
    return CleanComparison(
        overlaps.name,
        tuple(kinds),
        overlaps.training_sets,
        tuple(comparisons),
        excluded,
        unknown_test_sets,
        overlaps.not_compared,
    )


def _clean_task(
    task: ScoredTask,
    rows: Sequence[Row],
    kinds_by_item: Mapping[str, set[str]],
    kinds: Sequence[str],
    *,
    protocol: str,
) -> CleanTask:
    contaminated_ids = {
        item for item, item_kinds in kinds_by_item.items() if item_kinds & set(kinds)
    }
    clean = [row for row in rows if str(row["id"]) not in contaminated_ids]
    contaminated = [row for row in rows if str(row["id"]) in contaminated_ids]
    full = summarize(rows)
    clean_summary, contaminated_summary = (
        summarize(part, method=full.method) for part in (clean, contaminated)
    )
    kind_counts: list[KindCount] = []
    for kind in KINDS:
        items = [row for row in rows if kind in kinds_by_item.get(str(row["id"]), ())]
        if items:
            kind_counts.append(
                KindCount(kind, len(items), kind in kinds, summarize(items).accuracy)
            )
    return CleanTask(
        name=task.name,
        title=task.title,
        protocol=protocol,
        full=full,
        clean=clean_summary,
        contaminated=contaminated_summary,
        difference=contrast(contaminated_summary, clean_summary),
        kinds=tuple(kind_counts),
        n_not_in_run=len(kinds_by_item.keys() - {str(row["id"]) for row in rows}),
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
