"""The score on the items without an overlap with training data, compared with the score on all.

The overlaps are the JSONL that `lingshu overlap` writes. A row belongs to the task that its `test`
names: the name itself, or the last part of a path without its suffix (benchmarks/slake,
slake.jsonl, slake.py), or the folder of a rows.jsonl. A row without `test` belongs to every task.
Within a task, `test_id` is the id of the item.

Every kind but boilerplate makes an item unclean, unless other kinds are named.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from lingshu.core.errors import InputError, parse_names
from lingshu.core.files import enumerate_jsonl, read_json, sha256_file
from lingshu.core.stats import Interval
from lingshu.evaluate.store import ScoredRun, ScoredTask
from lingshu.evaluate.summary import Summary, summarize
from lingshu.search.overlap import CONTAMINATION_KINDS, KINDS

ROWS_FILE = "rows.jsonl"
SUFFIXES = (".jsonl", ".json", ".py", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class Overlaps:
    """A file of overlaps: for each test set, as it is named there, the kinds by item.

    `test_sets` are those that were compared, those without an overlap too where the run card next
    to the file names them; None stands for a set without a name. `not_compared` counts what could
    not be compared with the `training_sets`, by reason.
    """

    name: str
    items: Mapping[str | None, Mapping[str, frozenset[str]]]
    test_sets: tuple[str | None, ...]
    training_sets: tuple[str, ...] = ()
    not_compared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KindCount:
    """How many items of a task have an overlap of one kind, and the score on them."""

    kind: str
    n_items: int
    is_excluded: bool
    accuracy: Interval


@dataclass(frozen=True)
class CleanTask:
    """One task under one protocol: summaries of all items, the clean ones and the others.

    `difference` is contaminated - clean, see `contrast`. `n_not_in_run` counts overlaps with items
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
    """A run on its clean items; `excluded` tasks and `unknown_test_sets` have no partner.

    `not_compared` counts rows and images that could not be compared, by reason; their items are
    among the clean ones.
    """

    overlaps: str
    kinds: tuple[str, ...]
    training_sets: tuple[str, ...]
    tasks: tuple[CleanTask, ...]
    excluded: tuple[str, ...] = ()
    unknown_test_sets: tuple[str, ...] = ()
    not_compared: Mapping[str, int] = field(default_factory=dict)


def parse_kinds(text: str | None) -> tuple[str, ...]:
    """The kinds of a comma-separated list that make an item unclean; all but boilerplate for None.

    Raises:
        InputError: an unknown kind, or an empty list.
    """
    if text is None:
        return CONTAMINATION_KINDS
    return parse_names(text, KINDS, what="kind of overlap", option="--overlap-kinds")


def read_overlaps(path: Path) -> Overlaps:
    """A file that `lingshu overlap` wrote, with its run card if that is next to it.

    Raises:
        InputError: there is no such file, a row is not an overlap, or the run card is that of other
            rows.
    """
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; make it with `lingshu overlap TRAIN --against TEST --out"
            f" {path}`."
        )
    kinds: dict[str | None, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line_number, row in enumerate_jsonl(path, allow_truncated=False):
        test, item, kind = row.get("test"), row.get("test_id"), row.get("kind")
        if kind not in KINDS or not isinstance(item, str | int) or not isinstance(test, str | None):
            raise InputError(
                f"{path}, line {line_number}: not a row of overlaps (test_id and kind are needed);"
                " give what `lingshu overlap` wrote."
            )
        kinds[test][str(item)].add(str(kind))
    card_path = path.with_name(f"{path.name}.run.json")
    card = read_json(card_path) if card_path.is_file() else {}
    hashes = _mapping(card, "hashes")
    # An older card may say that a task was compared and found clean which these rows do not cover.
    if hashes and sha256_file(path) not in hashes.values():
        raise InputError(
            f"{card_path} was not written for the rows in {path}; compare again, or remove the run"
            " card."
        )
    config, notes = _mapping(card, "config"), _mapping(card, "notes")
    failed = _mapping(notes, "failed")
    not_compared = {str(reason): n for reason, n in failed.items() if isinstance(n, int)}
    # What a search left out because too many items were alike is not compared either.
    n_pairs = notes.get("pairs_not_compared")
    if isinstance(n_pairs, int) and n_pairs > 0:
        not_compared["pairs of look-alikes"] = n_pairs
    against, training_sets = (
        [str(name) for name in names] if isinstance(names, list) else []
        for names in (config.get("against"), config.get("train"))
    )
    items = {
        test: {item: frozenset(found) for item, found in by_item.items()}
        for test, by_item in kinds.items()
    }
    test_sets = tuple(dict.fromkeys((*against, *items)))
    return Overlaps(path.name, items, test_sets, tuple(training_sets), not_compared)


def _mapping(card: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = card.get(key)
    return value if isinstance(value, Mapping) else {}


def task_names(test: str) -> set[str]:
    """The names of tasks that the name of a test set may mean."""
    path = PurePath(test)
    if path.name == ROWS_FILE:
        return {test, path.parent.name}
    # The suffix of slake.zh is part of the name.
    return {test, path.name, path.stem if path.suffix in SUFFIXES else path.name}


def compare_uncontaminated(
    run: ScoredRun, overlaps: Overlaps, kinds: Sequence[str] = CONTAMINATION_KINDS
) -> CleanComparison:
    """Every task of the run that the overlaps cover, under each of its protocols.

    Raises:
        InputError: they cover none.
    """
    tests = overlaps.test_sets
    tests_by_task = {
        task.name: [test for test in tests if test is None or task.name in task_names(test)]
        for task in run.tasks
    }
    used_tests = {None}.union(*tests_by_task.values())
    unknown_test_sets = tuple(test for test in tests if test and test not in used_tests)
    if not any(tests_by_task.values()):
        test_sets = ", ".join(unknown_test_sets) or "no test set at all"
        raise InputError(
            f"{overlaps.name} covers {test_sets}, and {run.name} has {', '.join(tests_by_task)};"
            " compare the training data with the tasks by their names (`lingshu overlap TRAIN"
            " --against TASK`)."
        )
    comparisons = []
    for task in run.tasks:
        kinds_by_item: dict[str, set[str]] = defaultdict(set)
        for test in tests_by_task[task.name]:
            for item, item_kinds in overlaps.items.get(test, {}).items():
                kinds_by_item[item] |= item_kinds
        comparisons += [
            _clean_task(task, protocol, kinds_by_item, kinds)
            for protocol in (task.rows if tests_by_task[task.name] else ())
        ]
    return CleanComparison(
        overlaps.name,
        tuple(kinds),
        overlaps.training_sets,
        tuple(comparisons),
        tuple(task.title for task in run.tasks if not tests_by_task[task.name]),
        unknown_test_sets,
        overlaps.not_compared,
    )


def _clean_task(
    task: ScoredTask, protocol: str, kinds_by_item: Mapping[str, set[str]], kinds: Sequence[str]
) -> CleanTask:
    rows = [(row, kinds_by_item.get(str(row["id"]), set())) for row in task.rows[protocol]]
    full = summarize([row for row, _ in rows])
    clean_rows = [row for row, found in rows if found.isdisjoint(kinds)]
    clean = summarize(clean_rows, method=full.method)
    contaminated_rows = [row for row, found in rows if not found.isdisjoint(kinds)]
    contaminated = summarize(contaminated_rows, method=full.method)
    rows_by_kind = {kind: [row for row, found in rows if kind in found] for kind in KINDS}
    return CleanTask(
        name=task.name,
        title=task.title,
        protocol=protocol,
        full=full,
        clean=clean,
        contaminated=contaminated,
        difference=contrast(contaminated, clean),
        kinds=tuple(
            KindCount(kind, len(items), kind in kinds, summarize(items).accuracy)
            for kind, items in rows_by_kind.items()
            if items
        ),
        n_not_in_run=len(kinds_by_item.keys() - {str(row["id"]) for row, _ in rows}),
    )


def contrast(first: Summary, second: Summary) -> Interval:
    """The score on one set of items minus that on another, with a 95% interval from both.

    From Wilson's intervals this is Newcombe's (Statistics in Medicine 17:873, 1998, method 10),
    from others its general form (Zou and Donner, Statistics in Medicine 27:1693, 2008). The two
    sets count as independent; groups with items in both make the interval slightly too wide.
    """
    (p, low_p, high_p, n), (q, low_q, high_q, m) = first.accuracy, second.accuracy
    if p is None or low_p is None or high_p is None or q is None or low_q is None or high_q is None:
        return Interval(None if p is None or q is None else p - q, None, None, n + m)
    below, above = math.hypot(p - low_p, high_q - q), math.hypot(high_p - p, q - low_q)
    return Interval(p - q, p - q - below, p - q + above, n + m)
