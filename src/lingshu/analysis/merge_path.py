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

from lingshu.analysis.barrier import TOLERANCE, Barrier, barrier
from lingshu.core.errors import ConfigError
from lingshu.core.files import digest, read_json, write_json, write_text
from lingshu.core.stats import Interval
from lingshu.evaluate.report.render import DISCLAIMER, render_page
from lingshu.evaluate.statistics import difference
from lingshu.evaluate.store import read_run
from lingshu.evaluate.summary import Row, by_facet, group_key, row_value, summarize

PATH_JSON, PATH_HTML = "path.json", "path.html"
PAGE_TEMPLATE = "analysis/templates/merge_path.html.j2"
HALF_WEIGHT = 0.5
Device = Literal["auto", "cpu", "cuda"]
SelectionCriterion = Literal["validation accuracy", "likelihood", "reported accuracy"]


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
    selection_accuracy: float | None = (
        None  # the mean accuracy on the tasks that the weight is chosen by
    )

    @property
    def accuracy(self) -> float | None:
        """The unweighted mean over the reported tasks."""
        return _mean([summarize(rows).accuracy.value for rows in self.scores.values()])


@dataclass(frozen=True)
class PathReport:
    """A whole path, its points in order of weight.

    `recommended` is the weight that does best on what it was chosen by.
    """

    points: Sequence[Point]
    barrier: Barrier | None
    recommended: float | None
    criterion: SelectionCriterion | None
    gains: Mapping[str, Mapping[str, Interval]]
    notices: Sequence[str]
    data: Mapping[str, Any] | None

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for point in self.points for task in point.scores))

    @property
    def excess(self) -> dict[float, Interval]:
        return {} if self.barrier is None else dict(self.barrier.excess)

    @property
    def landmarks(self) -> list[tuple[str, Point]]:
        """The points that have a name: both ends, the middle and the recommended one."""
        names = {"the second model": 0.0, "the first model": 1.0, "half and half": HALF_WEIGHT}
        named = {**names, "recommended": self.recommended}.items()
        labels = [
            (" and ".join(name for name, weight in named if weight == point.weight), point)
            for point in self.points
        ]
        return [(label, point) for label, point in labels if label]

    def accuracies(self, task: str) -> dict[float, Interval]:
        """The accuracy on a task by weight."""
        return {
            point.weight: summarize(point.scores[task]).accuracy
            for point in self.points
            if task in point.scores
        }

    def accuracies_by_kind(self, task: str) -> dict[str, dict[float, Interval]]:
        """The accuracy on each kind of question of a task by weight."""
        by_kind: dict[str, dict[float, Interval]] = {}
        for point in self.points:
            for kind, accuracy in accuracy_by_kind(point.scores.get(task, ())).items():
                by_kind.setdefault(kind, {})[point.weight] = accuracy
        return by_kind


def report_path(
    out: Path,
    points: Sequence[tuple[float, Path]],
    *,
    data: Path | None,
    tasks: Sequence[str] = (),
    select_by: Sequence[str] = (),
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
    if not points or len({_weight_name(weight) for weight, _ in points}) < len(points):
        raise ConfigError(
            f"a path with the weights {[weight for weight, _ in points]} cannot be told; give each"
            " weight once."
        )
    if data is None and not tasks and not select_by:
        raise ConfigError(
            "a path needs data for likelihoods or tasks for accuracy; give --data FOLDER or --tasks"
            " NAMES."
        )
    from lingshu.models.load import identify

    ordered = sorted(points)
    measured_points = [
        Point(float(weight), folder, identify(str(folder))[1]) for weight, folder in ordered
    ]
    eval_options = {"threads": threads, **(evaluation or {})}
    path_barrier, data_info, data_groups, drops = None, None, set[Hashable](), 0
    if data is not None:
        likelihoods = _measure_likelihoods(
            out, measured_points, data, batch=batch, device=device, threads=threads
        )
        measured_points, path_barrier, data_info, data_groups = (
            likelihoods.points,
            likelihoods.barrier(tolerance),
            likelihoods.data_info,
            likelihoods.groups,
        )
        drops = sum(likelihoods.data_info["drops"].values())
    code = int(drops > 0)
    evaluated_points = []
    selection_groups = set[Hashable]()
    for point in measured_points:
        scores, failed = _evaluate_point(
            out / "eval" / _weight_name(point.weight), point, tasks, eval_options
        )
        selection_scores, selection_failed = _evaluate_point(
            out / "choose" / _weight_name(point.weight), point, select_by, eval_options
        )
        selection_groups |= {
            ("group", row["group"])
            for rows in selection_scores.values()
            for row in rows
            if row.get("group") is not None
        }
        selection_accuracy = _mean(
            [summarize(rows).accuracy.value for rows in selection_scores.values()]
        )
        evaluated_points.append(
            replace(point, scores=scores, selection_accuracy=selection_accuracy)
        )
        code = max(code, failed, selection_failed)
    report = _assemble(
        evaluated_points,
        path_barrier,
        data_info,
        shared_tasks=sorted(set(tasks) & set(select_by)),
        data_groups=data_groups,
        selection_groups=selection_groups,
    )
    write_json(out / PATH_JSON, as_json(report))
    lead = (
        f"{len(report.points)} averages of two models, W times the first and 1 - W times the"
        f" second. {DISCLAIMER}"
    )
    page = render_page(PAGE_TEMPLATE, title="Between two models", lead=lead, report=report)
    write_text(out / PATH_HTML, page)
    _print_report(report, out)
    return code


# --- measuring
# -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PathLikelihoods:
    points: list[Point]
    sums: Sequence[Sequence[float]]
    tokens: Sequence[int]
    names: Sequence[Hashable]
    data_info: dict[str, Any]

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


def _measure_likelihoods(
    out: Path,
    points: Sequence[Point],
    data: Path,
    *,
    batch: int,
    device: Device,
    threads: int | None,
) -> _PathLikelihoods:
    from lingshu.analysis.likelihood import cached_likelihoods, encode_held_out
    from lingshu.models.load import check_model_folder
    from lingshu.models.processor import load_processor

    first = points[0].checkpoint
    held_out_data = encode_held_out([data], load_processor(first, check_model_folder(first)[0]))
    measured_points, sums = [], []
    for point in points:
        _print_progress(f"likelihood at weight {point.weight:g}")
        path = out / "likelihood" / f"{_weight_name(point.weight)}.jsonl"
        rows = cached_likelihoods(
            point.checkpoint,
            point.digest,
            held_out_data,
            path,
            batch=batch,
            device=device,
            threads=threads,
        )
        sums.append([row.nll for row in rows])
        annotated_rows = [
            row for row in rows if row.entity_tokens is not None and row.entity_nll is not None
        ]
        entity_tokens = sum(row.entity_tokens or 0 for row in annotated_rows)
        other_tokens = sum(row.tokens for row in annotated_rows) - entity_tokens
        entity_nll = sum(row.entity_nll or 0.0 for row in annotated_rows)
        nll = Nll(
            sum(row.nll for row in rows) / sum(row.tokens for row in rows),
            entity_nll / entity_tokens if entity_tokens else None,
            (sum(row.nll for row in annotated_rows) - entity_nll) / other_tokens
            if other_tokens
            else None,
        )
        measured_points.append(replace(point, nll=nll))
    entities = None if held_out_data.entities is None else held_out_data.entities.as_json()
    data_info = {
        "folder": str(data),
        "samples": len(held_out_data.samples),
        "drops": dict(held_out_data.drops),
        "entities": entities,
    }
    names = [
        ("id", s.id) if s.meta.group is None else ("group", s.meta.group)
        for s in held_out_data.samples
    ]
    return _PathLikelihoods(
        measured_points,
        sums,
        [text.supervised for text in held_out_data.data.encodings],
        names,
        data_info,
    )


def _evaluate_point(
    folder: Path, point: Point, tasks: Sequence[str], options: Mapping[str, Any]
) -> tuple[dict[str, Sequence[Row]], int]:
    """Scores rows by task, and the exit code of the evaluation; a finished one is read, not run
    again.
    """
    if not tasks:
        return {}, 0
    from lingshu.cli.eval import evaluate
    from lingshu.evaluate.data import find_tasks
    from lingshu.evaluate.run import EvalConfig

    names = [task.name for task in find_tasks(tuple(tasks))]
    option_strings = {name: str(value) for name, value in options.items()}
    key = digest(
        [point.digest, list(tasks), option_strings, _input_files(tasks, options.get("data"))]
    )
    done_path = folder / "request.json"
    if not (done_path.is_file() and read_json(done_path).get("key") == key):
        _print_progress(f"evaluation at weight {point.weight:g}")
        with redirect_stdout(sys.stderr):
            config = EvalConfig(**options)
            code = evaluate(str(point.checkpoint), ",".join(tasks), out=folder, config=config)
        write_json(done_path, {"key": key, "code": code})
    # The folder may hold other tasks, of an earlier report.
    run = {task.name: task for task in read_run(folder).tasks}
    return {name: run[name].rows[run[name].protocol] for name in names if name in run}, int(
        read_json(done_path)["code"]
    )


def _input_files(tasks: Sequence[str], data: Path | None) -> list[list[object]]:
    """What decides the questions besides their names: the files of tasks and data, by size and time
    of change.
    """
    files = [Path(name) for name in tasks] + ([] if data is None else sorted(Path(data).rglob("*")))
    file_stats = [(path, path.stat()) for path in files if path.is_file()]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in file_stats]


def _weight_name(weight: float) -> str:
    return f"{weight:.6g}"


def _print_progress(text: str) -> None:
    print(f"path: {text}", file=sys.stderr, flush=True)


# --- what it comes to
# ------------------------------------------------------------------------------------------------


def _assemble(
    points: Sequence[Point],
    path_barrier: Barrier | None,
    data_info: Mapping[str, Any] | None,
    *,
    shared_tasks: Sequence[str],
    data_groups: set[Hashable],
    selection_groups: set[Hashable],
) -> PathReport:
    notices: list[str] = []
    criterion: SelectionCriterion | None
    objective: list[float | None]
    if any(point.selection_accuracy is not None for point in points):
        criterion, objective = "validation accuracy", [point.selection_accuracy for point in points]
        if shared_tasks:
            notices.append(
                f"The weight was chosen on {', '.join(shared_tasks)}, which is also reported: its score"
                " is no estimate for new data."
            )
    elif data_info is not None:
        criterion, objective = (
            "likelihood",
            [None if point.nll is None else -point.nll.all for point in points],
        )
    else:
        criterion, objective = "reported accuracy", [point.accuracy for point in points]
        notices.append(
            "The weight was chosen on the tasks that are reported, so its score there is too good;"
            " choose by validation data instead."
        )
    test_groups = {
        group_key(row) for point in points[:1] for rows in point.scores.values() for row in rows
    }
    if selection_groups & test_groups and not shared_tasks:
        notices.append(
            f"{len(selection_groups & test_groups)} groups of the tasks that the weight is chosen by are in the"
            " reported tasks, too."
        )
    if data_groups & test_groups:
        notices.append(
            f"{len(data_groups & test_groups)} groups of the likelihood data are in the reported tasks, too."
        )
    if data_info is not None and path_barrier is None:
        notices.append(
            "The path lacks one of its two ends (weights 0 and 1), so there is no barrier to tell."
        )
    ranked = [
        (value, -abs(point.weight - HALF_WEIGHT), point.weight)
        for value, point in zip(objective, points, strict=True)
        if value is not None
    ]
    # Of equally good weights the one nearest to the middle.
    best = max(ranked)[2] if ranked else None
    return PathReport(
        points,
        path_barrier,
        best,
        criterion if ranked else None,
        _gains(points, best),
        notices,
        data_info,
    )


def _gains(points: Sequence[Point], best: float | None) -> dict[str, dict[str, Interval]]:
    """By task, how much more the middle and the recommended weight get right than the first model,
    question by question.
    """
    by_weight = {point.weight: point for point in points}
    gains: dict[str, dict[str, Interval]] = {}
    for weight in dict.fromkeys(w for w in (HALF_WEIGHT, best) if w in by_weight and w != 1.0):
        for task, rows in by_weight[weight].scores.items() if 1.0 in by_weight else ():
            point_rows, base_rows = (
                {row["id"]: row for row in each if row["status"] != "error"}
                for each in (rows, by_weight[1.0].scores[task])
            )
            shared_ids = [name for name in point_rows if name in base_rows]
            if shared_ids:
                first, second = (
                    [row_value(each[name]) for name in shared_ids]
                    for each in (point_rows, base_rows)
                )
                gains.setdefault(task, {})[_weight_name(weight)] = difference(
                    first, second, [group_key(point_rows[name]) for name in shared_ids]
                )
    return gains


def accuracy_by_kind(rows: Sequence[Row]) -> dict[str, Interval]:
    """Accuracy by kind of question; none where the rows have one kind or no kind."""
    accuracies = {
        str(kind): summary.accuracy
        for kind, summary in by_facet(rows, ["kind"]).get("kind", {}).items()
    }
    return accuracies if len(accuracies) > 1 else {}


def as_json(report: PathReport) -> dict[str, Any]:
    """path.json: shares between 0 and 1, likelihoods in nats a token."""
    path_barrier = report.barrier
    barrier_json = None
    if path_barrier is not None:
        barrier_json = {
            **path_barrier.value._asdict(), "at": path_barrier.weight, "tolerance": path_barrier.tolerance, "connected": path_barrier.is_connected, "certain": path_barrier.is_certain,
            "excess": [{"weight": weight, **interval._asdict()} for weight, interval in path_barrier.excess],
        }  # fmt: skip
    return {
        "points": [_point_json(point) for point in report.points],
        "barrier": barrier_json,
        "recommended": {"weight": report.recommended, "by": report.criterion},
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
        "selection_accuracy": point.selection_accuracy,
        "tasks": {
            task: {
                "accuracy": summarize(rows).accuracy._asdict(),
                "by_kind": {
                    kind: interval._asdict() for kind, interval in accuracy_by_kind(rows).items()
                },
            }
            for task, rows in point.scores.items()
        },
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None


def _print_report(report: PathReport, out: Path) -> None:
    for point in report.points:
        nll_text = "" if point.nll is None else f", {point.nll.all:.4f} nats a token"
        accuracy_text = "" if point.accuracy is None else f", {100 * point.accuracy:.1f}% right"
        print(f"weight {point.weight:g}{nll_text}{accuracy_text}")
    if report.barrier is not None and not report.barrier.value.value:
        print("no barrier: no average is less likely than the straight line between the two models")
    elif report.barrier is not None:
        value, low, high, _ = report.barrier.value
        span = "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
        verdict = (
            f"{'within' if report.barrier.is_connected else 'above'} the"
            f" {report.barrier.tolerance:.4f} tolerated"
        )
        print(
            f"barrier {value:.4f}{span} nats a token at weight {report.barrier.weight:g}, {verdict}"
        )
    if report.recommended is not None:
        print(f"recommended weight: {report.recommended:g}, by {report.criterion}")
    for notice in report.notices:
        print(f"note: {notice}")
    print(f"report: {out / PATH_HTML}")
