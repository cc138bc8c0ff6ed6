"""Likelihood and accuracy along a path of merged models: what lies between two of them, and which
weight to take.

OUT/path.json, path.html            the report
OUT/likelihood/<weight>.jsonl       likelihoods of held-out answers, one row a sample
OUT/eval/<weight>/                  evaluations on the tasks that are reported
OUT/choose/<weight>/                evaluations on the tasks that the weight is chosen by, where there are some

Everything but the report itself is kept: an interrupted report goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lingshu.core.errors import ConfigError
from lingshu.core.files import digest, read_json, write_json, write_text
from lingshu.core.shares import Interval
from lingshu.evaluate.barrier import TOLERANCE, Barrier, barrier
from lingshu.evaluate.paired import difference
from lingshu.evaluate.scored import read_run
from lingshu.evaluate.summary import Row, by_facet, group_of, summarise, value_of

PATH_JSON, PATH_HTML = "path.json", "path.html"
HALF = 0.5
Device = Literal["auto", "cpu", "cuda"]
Chosen = Literal["validation accuracy", "likelihood", "reported accuracy"]


@dataclass(frozen=True)
class Nll:
    """Mean negative log-likelihoods in nats a token: of all supervised ones, of entities', and of
    the others.

    The last two are over samples that were marked, None where none was.
    """

    all: float
    entities: float | None
    others: float | None


@dataclass(frozen=True)
class Point:
    """What is known of a merged model: `weight` is the first model's. Scores rows are by task."""

    weight: float
    checkpoint: Path
    digest: str
    nll: Nll | None = None
    scores: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    chosen_by: float | None = None  # the mean accuracy on the tasks that the weight is chosen by

    @property
    def accuracy(self) -> float | None:
        """The unweighted mean over the reported tasks."""
        return _mean([summarise(rows).accuracy.value for rows in self.scores.values()])


@dataclass(frozen=True)
class PathReport:
    """A whole path, its points in order of weight.

    `recommended` is the weight that does best on what it was chosen by.
    """

    points: Sequence[Point]
    barrier: Barrier | None
    recommended: float | None
    chosen: Chosen | None
    gains: Mapping[str, Mapping[str, Interval]]
    notices: Sequence[str]
    data: Mapping[str, Any] | None

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for point in self.points for task in point.scores))


def report_path(
    out: Path,
    points: Sequence[tuple[float, Path]],
    *,
    data: Path | None,
    tasks: Sequence[str] = (),
    choose: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    batch: int = 8,
    device: Device = "auto",
    threads: int | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> int:
    """Measure every point of a path and write OUT/path.json and path.html; returns 1 where samples
    dropped or replies failed.

    `points` are weights of the first model (1 is that model itself, 0 the second) with checkpoint
    folders. `data` are held-out answers (a DATASET or a folder of rows) for likelihoods, `tasks`
    are evaluated and reported. The weight is recommended by accuracy on `choose`, tasks of
    validation data; without them by likelihood on `data`; without those by `tasks` themselves,
    which the report then warns of. `evaluation` are further options of `lingshu eval`.

    Raises:
        ConfigError: no point, two of one weight, or nothing to measure.
        LingshuError: a checkpoint, data or task that cannot be used; what was measured stays.
    """
    if not points or len({_name(weight) for weight, _ in points}) < len(points):
        raise ConfigError(
            f"a path with the weights {[weight for weight, _ in points]} cannot be told; give each"
            " weight once."
        )
    if data is None and not tasks and not choose:
        raise ConfigError(
            "a path needs data for likelihoods or tasks for accuracy; give --data FOLDER or --tasks"
            " NAMES."
        )
    from lingshu.models.load import identify

    ordered = sorted(points)
    found = [Point(float(weight), folder, identify(str(folder))[1]) for weight, folder in ordered]
    asked = {"threads": threads, **(evaluation or {})}
    hill, about, groups, drops = None, None, set[Hashable](), 0
    if data is not None:
        likely = _likelihoods(out, found, data, batch=batch, device=device, threads=threads)
        found, hill, about, groups = (
            likely.points,
            likely.barrier(tolerance),
            likely.about,
            likely.groups,
        )
        drops = sum(likely.about["drops"].values())
    code = int(drops > 0)
    scored = []
    chosen_on = set[Hashable]()
    for point in found:
        scores, failed = _evaluated(out / "eval" / _name(point.weight), point, tasks, asked)
        judged, failed_too = _evaluated(out / "choose" / _name(point.weight), point, choose, asked)
        chosen_on |= {
            ("group", row["group"])
            for rows in judged.values()
            for row in rows
            if row.get("group") is not None
        }
        by = _mean([summarise(rows).accuracy.value for rows in judged.values()])
        scored.append(replace(point, scores=scores, chosen_by=by))
        code = max(code, failed, failed_too)
    report = _assemble(
        scored,
        hill,
        about,
        shared=sorted(set(tasks) & set(choose)),
        groups=groups,
        chosen_on=chosen_on,
    )
    write_json(out / PATH_JSON, as_json(report))
    from lingshu.apps._merge_path_page import path_page

    write_text(out / PATH_HTML, path_page(report))
    _tell(report, out)
    return code


# --- measuring
# -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Likely:
    points: list[Point]
    sums: Sequence[Sequence[float]]
    tokens: Sequence[int]
    names: Sequence[Hashable]
    about: dict[str, Any]

    @property
    def groups(self) -> set[Hashable]:
        return set(self.names)

    def barrier(self, tolerance: float) -> Barrier | None:
        return barrier(
            [point.weight for point in self.points],
            self.sums,
            self.tokens,
            self.names,
            tolerance=tolerance,
        )


def _likelihoods(
    out: Path,
    points: Sequence[Point],
    data: Path,
    *,
    batch: int,
    device: Device,
    threads: int | None,
) -> _Likely:
    from lingshu.models.load import check_folder
    from lingshu.models.processor import load_processor
    from lingshu.train.likelihood import held_out, measured

    first = points[0].checkpoint
    held = held_out([data], load_processor(first, check_folder(first)[0]))
    found, sums = [], []
    for point in points:
        _say(f"likelihood at weight {point.weight:g}")
        path = out / "likelihood" / f"{_name(point.weight)}.jsonl"
        rows = measured(
            point.checkpoint, point.digest, held, path, batch=batch, device=device, threads=threads
        )
        sums.append([row.nll for row in rows])
        marked = [
            row for row in rows if row.entity_tokens is not None and row.entity_nll is not None
        ]
        ours = sum(row.entity_tokens or 0 for row in marked)
        rest = sum(row.tokens for row in marked) - ours
        told = sum(row.entity_nll or 0.0 for row in marked)
        nll = Nll(
            sum(row.nll for row in rows) / sum(row.tokens for row in rows),
            told / ours if ours else None,
            (sum(row.nll for row in marked) - told) / rest if rest else None,
        )
        found.append(replace(point, nll=nll))
    entities = None if held.entities is None else held.entities.as_json()
    about = {
        "folder": str(data),
        "samples": len(held.samples),
        "drops": dict(held.drops),
        "entities": entities,
    }
    names = [
        ("id", s.id) if s.meta.group is None else ("group", s.meta.group) for s in held.samples
    ]
    return _Likely(found, sums, [text.supervised for text in held.data.texts], names, about)


def _evaluated(
    folder: Path, point: Point, tasks: Sequence[str], options: Mapping[str, Any]
) -> tuple[dict[str, Sequence[Row]], int]:
    """Scores rows by task, and the exit code of the evaluation; a finished one is read, not run
    again.
    """
    if not tasks:
        return {}, 0
    from lingshu.apps._eval_data import find_tasks
    from lingshu.apps.evaluate import evaluate

    names = [task.name for task in find_tasks(tuple(tasks))]
    told = {name: str(value) for name, value in options.items()}
    key = digest([point.digest, list(tasks), told, _material(tasks, options.get("data"))])
    done = folder / "asked.json"
    if not (done.is_file() and read_json(done).get("key") == key):
        _say(f"evaluation at weight {point.weight:g}")
        with redirect_stdout(sys.stderr):
            code = evaluate(str(point.checkpoint), ",".join(tasks), out=folder, **options)
        write_json(done, {"key": key, "code": code})
    # The folder may hold other tasks, of an earlier report.
    run = {task.name: task for task in read_run(folder).tasks}
    return {name: run[name].rows[run[name].protocol] for name in names if name in run}, int(
        read_json(done)["code"]
    )


def _material(tasks: Sequence[str], data: Path | None) -> list[list[object]]:
    """What decides the questions besides their names: the files of tasks and data, by size and time
    of change.
    """
    files = [Path(name) for name in tasks] + ([] if data is None else sorted(Path(data).rglob("*")))
    found = [(path, path.stat()) for path in files if path.is_file()]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]


def _name(weight: float) -> str:
    return f"{weight:.6g}"


def _say(text: str) -> None:
    print(f"path: {text}", file=sys.stderr, flush=True)


# --- what it comes to
# ------------------------------------------------------------------------------------------------


def _assemble(
    points: Sequence[Point],
    hill: Barrier | None,
    about: Mapping[str, Any] | None,
    *,
    shared: Sequence[str],
    groups: set[Hashable],
    chosen_on: set[Hashable],
) -> PathReport:
    notices: list[str] = []
    by: Chosen | None
    worth: list[float | None]
    if any(point.chosen_by is not None for point in points):
        by, worth = "validation accuracy", [point.chosen_by for point in points]
        if shared:
            notices.append(
                f"The weight was chosen on {', '.join(shared)}, which is also reported: its score"
                " is no estimate for new data."
            )
    elif about is not None:
        by, worth = (
            "likelihood",
            [None if point.nll is None else -point.nll.all for point in points],
        )
    else:
        by, worth = "reported accuracy", [point.accuracy for point in points]
        notices.append(
            "The weight was chosen on the tasks that are reported, so its score there is too good;"
            " choose by validation data instead."
        )
    tested = {
        group_of(row) for point in points[:1] for rows in point.scores.values() for row in rows
    }
    if chosen_on & tested and not shared:
        notices.append(
            f"{len(chosen_on & tested)} groups of the tasks that the weight is chosen by are in the"
            " reported tasks, too."
        )
    if groups & tested:
        notices.append(
            f"{len(groups & tested)} groups of the likelihood data are in the reported tasks, too."
        )
    if about is not None and hill is None:
        notices.append(
            "The path lacks one of its two ends (weights 0 and 1), so there is no barrier to tell."
        )
    known = [
        (value, -abs(point.weight - HALF), point.weight)
        for value, point in zip(worth, points, strict=True)
        if value is not None
    ]
    # Of equally good weights the one nearest to the middle.
    best = max(known)[2] if known else None
    return PathReport(
        points, hill, best, by if known else None, _gains(points, best), notices, about
    )


def _gains(points: Sequence[Point], best: float | None) -> dict[str, dict[str, Interval]]:
    """By task, how much more the middle and the recommended weight get right than the first model,
    question by question.
    """
    at = {point.weight: point for point in points}
    gains: dict[str, dict[str, Interval]] = {}
    for weight in dict.fromkeys(w for w in (HALF, best) if w in at and w != 1.0):
        for task, rows in at[weight].scores.items() if 1.0 in at else ():
            ours, theirs = (
                {row["id"]: row for row in each if row["status"] != "error"}
                for each in (rows, at[1.0].scores[task])
            )
            both = [name for name in ours if name in theirs]
            if both:
                first, second = ([value_of(each[name]) for name in both] for each in (ours, theirs))
                gains.setdefault(task, {})[_name(weight)] = difference(
                    first, second, [group_of(ours[name]) for name in both]
                )
    return gains


def kinds(rows: Sequence[Row]) -> dict[str, Interval]:
    """Accuracy by kind of question; none where the rows have one kind or no kind."""
    found = {
        str(kind): summary.accuracy
        for kind, summary in by_facet(rows, ["kind"]).get("kind", {}).items()
    }
    return found if len(found) > 1 else {}


def as_json(report: PathReport) -> dict[str, Any]:
    """path.json: shares between 0 and 1, likelihoods in nats a token."""
    hill = report.barrier
    told = None
    if hill is not None:
        told = {
            **hill.value._asdict(), "at": hill.at, "tolerance": hill.tolerance, "connected": hill.connected, "certain": hill.certain,
            "excess": [{"weight": weight, **interval._asdict()} for weight, interval in hill.excess],
        }  # fmt: skip
    return {
        "points": [_point_json(point) for point in report.points],
        "barrier": told,
        "recommended": {"weight": report.recommended, "by": report.chosen},
        "gains": {
            task: {weight: i._asdict() for weight, i in gains.items()}
            for task, gains in report.gains.items()
        },
        "notices": list(report.notices),
        "data": report.data,
    }


def _point_json(point: Point) -> dict[str, Any]:
    return {
        "weight": point.weight,
        "checkpoint": str(point.checkpoint),
        "digest": point.digest,
        "nll": (
            None
            if point.nll is None
            else {"all": point.nll.all, "entities": point.nll.entities, "others": point.nll.others}
        ),
        "chosen_by": point.chosen_by,
        "tasks": {
            task: {
                "accuracy": summarise(rows).accuracy._asdict(),
                "by_kind": {kind: interval._asdict() for kind, interval in kinds(rows).items()},
            }
            for task, rows in point.scores.items()
        },
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _tell(report: PathReport, out: Path) -> None:
    for point in report.points:
        nll = "" if point.nll is None else f", {point.nll.all:.4f} nats a token"
        right = "" if point.accuracy is None else f", {100 * point.accuracy:.1f}% right"
        print(f"weight {point.weight:g}{nll}{right}")
    if report.barrier is not None and not report.barrier.value.value:
        print("no barrier: no average is less likely than the straight line between the two models")
    elif report.barrier is not None:
        value, low, high, _ = report.barrier.value
        span = "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
        found = (
            f"{'within' if report.barrier.connected else 'above'} the"
            f" {report.barrier.tolerance:.4f} tolerated"
        )
        print(f"barrier {value:.4f}{span} nats a token at weight {report.barrier.at:g}, {found}")
    if report.recommended is not None:
        print(f"recommended weight: {report.recommended:g}, by {report.chosen}")
    for notice in report.notices:
        print(f"note: {notice}")
    print(f"report: {out / PATH_HTML}")
