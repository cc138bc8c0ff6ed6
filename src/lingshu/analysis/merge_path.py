"""Likelihood and accuracy along a path of merged models, and which weight to use.

OUT/path.json, path.html            the report
OUT/likelihood/<weight>.jsonl       likelihoods of held-out answers, one row a sample
OUT/eval/<weight>/                  evaluations on the reported tasks
OUT/choose/<weight>/                evaluations on the tasks that select the weight, if there are any

Everything but the report itself is kept: an interrupted report resumes.

The barrier between two models is how much lower the likelihood of their averages is than that of
the two: B = max over w of [ L(w) - (w L(1) + (1 - w) L(0)) ] with L the mean negative
log-likelihood of held-out tokens and w the weight of the first model (linear mode connectivity,
Frankle et al., arXiv 1912.05671; with likelihood in place of error).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lingshu.core.errors import ConfigError
from lingshu.core.files import digest, read_json, write_json, write_text
from lingshu.core.stats import Interval
from lingshu.core.types import Engine, EngineOptions
from lingshu.evaluate.data import find_tasks
from lingshu.evaluate.report.render import DISCLAIMER, render_page
from lingshu.evaluate.run import EvalConfig, run
from lingshu.evaluate.statistics import N_RESAMPLES, difference
from lingshu.evaluate.store import read_run
from lingshu.evaluate.summary import Row, by_facet, group_key, row_value, summarize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATH_JSON, PATH_HTML = "path.json", "path.html"
PAGE_TEMPLATE = "analysis/templates/merge_path.html.j2"
HALF_WEIGHT = 0.5
# A barrier is accepted up to this share of the ends' mean negative log-likelihood.
TOLERANCE = 0.02
Device = Literal["auto", "cpu", "cuda"]
SelectionCriterion = Literal["validation accuracy", "likelihood", "reported accuracy"]
OpenEngine = Callable[[str, EngineOptions], Engine]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Barrier:
    """The largest excess over a path, at `weight`, and the excess at each weight, in nats a token.

    Intervals are from a bootstrap over whole groups in which every point of the path is measured on
    the same samples. As a maximum the barrier is never below 0, and noise alone raises it a little.
    """

    value: Interval
    weight: float
    excess: Sequence[tuple[float, Interval]]
    tolerance: float

    @property
    def is_connected(self) -> bool:
        """Whether the barrier is within the tolerance."""
        return self.value.value is not None and self.value.value <= self.tolerance

    @property
    def is_certain(self) -> bool:
        """Whether both ends of its interval are on the same side of the tolerance."""
        low, high = self.value.low, self.value.high
        if low is None or high is None:
            return False
        return high <= self.tolerance or low > self.tolerance


@dataclass(frozen=True)
class Nll:
    """Mean negative log-likelihoods in nats a token: of all supervised ones, entities', the others.

    The last two are over annotated samples, None where there are none.
    """

    all: float
    entities: float | None
    others: float | None


@dataclass(frozen=True)
class Point:
    """The measurements of a merged model: `weight` is the first model's, `scores` are rows by task,
    `selection_accuracy` is the mean over the tasks that select the weight.
    """

    weight: float
    checkpoint: Path
    digest: str
    nll: Nll | None = None
    scores: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    selection_accuracy: float | None = None

    @property
    def accuracy(self) -> float | None:
        """The unweighted mean over the reported tasks."""
        return _mean_accuracy(self.scores)


@dataclass(frozen=True)
class PathReport:
    """A whole path, its points in order of weight; `recommended` is the best weight by `criterion`,
    `failed` whether samples were dropped or replies failed.
    """

    points: Sequence[Point]
    barrier: Barrier | None
    recommended: float | None
    criterion: SelectionCriterion | None
    gains: Mapping[str, Mapping[str, Interval]]
    notices: Sequence[str]
    data: Mapping[str, Any] | None
    failed: bool

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
            for kind, accuracy in _accuracy_by_kind(point.scores.get(task, ())).items():
                by_kind.setdefault(kind, {})[point.weight] = accuracy
        return by_kind


def report_path(
    out: Path,
    points: Sequence[tuple[float, Path]],
    open_engine: OpenEngine,
    config: EvalConfig,
    *,
    data: Path | None = None,
    tasks: Sequence[str] = (),
    select_by: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    batch_size: int = 8,
    device: Device = "auto",
) -> PathReport:
    """Measure every point of a path and write OUT/path.json and path.html.

    `points` are weights of the first model (1 is that model itself, 0 the second) with checkpoint
    folders. `data` are held-out answers (a DATASET or a folder of rows) for likelihoods, `tasks`
    are evaluated and reported. The weight is recommended by accuracy on `select_by`, tasks of
    validation data; without them by likelihood on `data`; without those by `tasks` themselves,
    which the report then warns about. `config` is that of the evaluations; its `threads` also apply
    to likelihoods.

    Raises:
        ConfigError: no point, two of one weight, or nothing to measure.
        LingshuError: a checkpoint, data or task that cannot be used; what was measured stays.
    """
    if not points or len({_weight_name(weight) for weight, _ in points}) < len(points):
        raise ConfigError(
            f"a path cannot have the weights {[weight for weight, _ in points]}; give each weight"
            " once."
        )
    if data is None and not tasks and not select_by:
        raise ConfigError(
            "a path needs data for likelihoods or tasks for accuracy; give --data FOLDER or --tasks"
            " NAMES."
        )
    from lingshu.models.load import identify

    measured = [Point(float(w), path, identify(str(path))[1]) for w, path in sorted(points)]
    likelihoods, path_barrier, failed = None, None, False
    if data is not None:
        options = {"batch": batch_size, "device": device, "threads": config.threads}
        likelihoods = _Likelihoods(out / "likelihood", data, measured[0].checkpoint, options)
        measured = [likelihoods.measure(point) for point in measured]
        path_barrier = likelihoods.barrier([point.weight for point in measured], tolerance)
        failed = any(likelihoods.info["drops"].values())
    selection_groups = set[Hashable]()
    for index, point in enumerate(measured):
        name = _weight_name(point.weight)
        reported = _evaluate(open_engine, config, out / "eval" / name, point, tasks)
        selection = _evaluate(open_engine, config, out / "choose" / name, point, select_by)
        rows = [row for rows in selection.scores.values() for row in rows]
        selection_groups |= {("group", row["group"]) for row in rows if row.get("group")}
        accuracy = _mean_accuracy(selection.scores)
        measured[index] = replace(point, scores=reported.scores, selection_accuracy=accuracy)
        failed = failed or reported.failed or selection.failed
    report = _assemble(
        measured,
        path_barrier,
        None if likelihoods is None else likelihoods.info,
        failed=failed,
        shared_tasks=sorted(set(tasks) & set(select_by)),
        data_groups=set() if likelihoods is None else set(likelihoods.groups),
        selection_groups=selection_groups,
    )
    write_json(out / PATH_JSON, as_json(report))
    lead = (
        f"{len(report.points)} averages of two models, W times the first and 1 - W times the"
        f" second. {DISCLAIMER}"
    )
    page = render_page(PAGE_TEMPLATE, title="Between two models", lead=lead, report=report)
    write_text(out / PATH_HTML, page)
    return report


# --- measurements


class _Likelihoods:
    """Likelihoods of the held-out answers at each point of a path."""

    def __init__(self, folder: Path, data: Path, first: Path, options: Mapping[str, Any]) -> None:
        from lingshu.analysis.likelihood import encode_held_out
        from lingshu.models.load import open_processor

        self._folder, self._options = folder, options
        self._held_out = encode_held_out([data], open_processor(first))
        self._nll: list[list[float]] = []
        samples, entities = self._held_out.data.samples, self._held_out.data.entities
        self.groups: list[Hashable] = [
            ("id", sample.id) if sample.meta.group is None else ("group", sample.meta.group)
            for sample in samples
        ]
        self.info: dict[str, Any] = {
            "folder": str(data),
            "samples": len(samples),
            "drops": dict(self._held_out.data.drops),
            "entities": None if entities is None else entities.as_json(),
        }

    def measure(self, point: Point) -> Point:
        from lingshu.analysis.likelihood import cached_likelihoods

        logger.info("likelihood at weight %g", point.weight)
        path = self._folder / f"{_weight_name(point.weight)}.jsonl"
        rows = cached_likelihoods(
            point.checkpoint, point.digest, self._held_out, path, **self._options
        )
        self._nll.append([row.nll for row in rows])
        annotated = [row for row in rows if row.entity_tokens is not None]
        entity_tokens = sum(row.entity_tokens or 0 for row in annotated)
        entity_nll = sum(row.entity_nll or 0.0 for row in annotated)
        other_tokens = sum(row.tokens for row in annotated) - entity_tokens
        other_nll = sum(row.nll for row in annotated) - entity_nll
        nll = Nll(
            sum(row.nll for row in rows) / sum(row.tokens for row in rows),
            entity_nll / entity_tokens if entity_tokens else None,
            other_nll / other_tokens if other_tokens else None,
        )
        return replace(point, nll=nll)

    def barrier(self, weights: Sequence[float], tolerance: float) -> Barrier | None:
        tokens = [encoded.supervised for encoded in self._held_out.data.encodings]
        return barrier(weights, self._nll, tokens, self.groups, tolerance=tolerance)


class _Scores(NamedTuple):
    """Rows of scores by task, and whether replies failed."""

    scores: dict[str, Sequence[Row]]
    failed: bool


def _evaluate(
    open_engine: OpenEngine, config: EvalConfig, folder: Path, point: Point, tasks: Sequence[str]
) -> _Scores:
    """The scores of a point; a finished evaluation is read, not repeated."""
    if not tasks:
        return _Scores({}, False)
    names = [task.name for task in find_tasks(tasks)]
    files = _input_files(tasks, config.data)
    key = digest([point.digest, list(tasks), repr(config), files])
    done_path = folder / "request.json"
    if not (done_path.is_file() and read_json(done_path).get("key") == key):
        logger.info("evaluation at weight %g", point.weight)
        loaded = config.load_tasks(tasks, folder)
        engine = open_engine(str(point.checkpoint), config.engine_options)
        outcome = run(str(point.checkpoint), engine, loaded, folder, config)
        write_json(done_path, {"key": key, "failed": outcome.has_failures})
    # The folder may hold other tasks, of an earlier report.
    stored = {task.name: task for task in read_run(folder).tasks}
    scores = {name: stored[name].rows[stored[name].protocol] for name in names if name in stored}
    return _Scores(scores, read_json(done_path)["failed"])


def _input_files(tasks: Sequence[str], data: Path | None) -> list[list[object]]:
    """The files of tasks and data, by size and modification time."""
    paths = [Path(name) for name in tasks] + ([] if data is None else sorted(data.rglob("*")))
    stats = [(path, path.stat()) for path in paths if path.is_file()]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _weight_name(weight: float) -> str:
    return f"{weight:.6g}"


def barrier(
    weights: Sequence[float],
    nll: Sequence[Sequence[float]],
    tokens: Sequence[int],
    groups: Sequence[Hashable],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Barrier | None:
    """The barrier of a path from negative log-likelihoods, one list of sample sums per weight.

    None where one of the two models (weights 0 and 1) is not on the path, or where there is no
    token.
    """
    import numpy as np

    if not {0.0, 1.0} <= set(weights) or not sum(tokens):
        return None
    positions = {group: position for position, group in enumerate(dict.fromkeys(groups))}
    group_ids = np.asarray([positions[group] for group in groups])

    def sum_by_group(values: Sequence[float]) -> NDArray[np.float64]:
        sums = np.bincount(group_ids, np.asarray(values, np.float64), len(positions))
        return sums.astype(np.float64)

    nll_GK = np.stack([sum_by_group(row) for row in nll], axis=1)
    tokens_G = sum_by_group(tokens)
    weights_K = np.asarray(weights)
    ends = [weights.index(1.0), weights.index(0.0)]

    def excess(counts_DG: NDArray[Any]) -> NDArray[np.float64]:
        """For each resample D of groups G the excess at each of K weights."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_DK = (counts_DG @ nll_GK) / (counts_DG @ tokens_G)[:, None]
        line_DK = weights_K * mean_DK[:, ends[:1]] + (1 - weights_K) * mean_DK[:, ends[1:]]
        return mean_DK - line_DK

    n_groups, n = len(positions), len(tokens)
    excess_K = excess(np.ones((1, n_groups)))[0]
    low = high = None
    lows = highs = [None] * len(weights)
    if n_groups > 1:
        generator = np.random.default_rng(seed)
        shares = np.full(n_groups, 1 / n_groups)
        resampled = excess(generator.multinomial(n_groups, shares, size=n_resamples))
        lows, highs = np.nanquantile(resampled, (0.025, 0.975), axis=0).tolist()
        low, high = np.nanquantile(resampled.max(1), (0.025, 0.975)).tolist()
    rows = zip(weights, excess_K.tolist(), lows, highs, strict=True)
    top = int(excess_K.argmax())
    mean = float(nll_GK[:, ends].sum() / tokens_G.sum() / 2)
    return Barrier(
        Interval(float(excess_K[top]), low, high, n),
        weights[top],
        [(weight, Interval(value, lower, upper, n)) for weight, value, lower, upper in rows],
        tolerance * mean,
    )


# --- the report


def _assemble(
    points: Sequence[Point],
    path_barrier: Barrier | None,
    data: Mapping[str, Any] | None,
    *,
    failed: bool,
    shared_tasks: Sequence[str],
    data_groups: set[Hashable],
    selection_groups: set[Hashable],
) -> PathReport:
    notices: list[str] = []
    criterion: SelectionCriterion
    if any(point.selection_accuracy is not None for point in points):
        criterion = "validation accuracy"
        objective = [point.selection_accuracy for point in points]
        if shared_tasks:
            notices.append(
                f"The weight was chosen on {', '.join(shared_tasks)}, which is also reported: its"
                " score is not an estimate for new data."
            )
    elif data is not None:
        criterion = "likelihood"
        objective = [None if point.nll is None else -point.nll.all for point in points]
    else:
        criterion = "reported accuracy"
        objective = [point.accuracy for point in points]
        notices.append(
            "The weight was chosen on the tasks that are reported, so its score there is too good;"
            " choose by validation data instead."
        )
    test_rows = [row for rows in points[0].scores.values() for row in rows]
    test_groups = {group_key(row) for row in test_rows}
    overlaps = {
        "the tasks that select the weight": set() if shared_tasks else selection_groups,
        "the likelihood data": data_groups,
    }
    for name, groups in overlaps.items():
        if groups & test_groups:
            n_shared = len(groups & test_groups)
            notices.append(f"{n_shared} groups of {name} are also in the reported tasks.")
    if data is not None and path_barrier is None:
        notices.append(
            "The path lacks one of its two ends (weights 0 and 1), so it has no barrier."
        )
    # Of equally good weights the one nearest to the middle.
    ranked = [
        (value, -abs(point.weight - HALF_WEIGHT), point.weight)
        for value, point in zip(objective, points, strict=True)
        if value is not None
    ]
    best = max(ranked)[2] if ranked else None
    gains = _gains(points, best)
    used = criterion if ranked else None
    return PathReport(points, path_barrier, best, used, gains, notices, data, failed)


def _gains(points: Sequence[Point], best: float | None) -> dict[str, dict[str, Interval]]:
    """By task, the gain of the middle and the recommended weight over the first model, paired."""
    by_weight = {point.weight: point for point in points}
    gains: dict[str, dict[str, Interval]] = {}
    for weight in dict.fromkeys(w for w in (HALF_WEIGHT, best) if w in by_weight and w != 1.0):
        for task in by_weight[weight].scores if 1.0 in by_weight else ():
            rows, first = (
                {row["id"]: row for row in by_weight[w].scores[task] if row["status"] != "error"}
                for w in (weight, 1.0)
            )
            if shared := [name for name in rows if name in first]:
                gains.setdefault(task, {})[_weight_name(weight)] = difference(
                    [row_value(rows[name]) for name in shared],
                    [row_value(first[name]) for name in shared],
                    [group_key(rows[name]) for name in shared],
                )
    return gains


def _accuracy_by_kind(rows: Sequence[Row]) -> dict[str, Interval]:
    """Accuracy by kind of question; none where the rows have one kind or no kind."""
    summaries = by_facet(rows, ["kind"]).get("kind", {})
    accuracies = {str(kind): summary.accuracy for kind, summary in summaries.items()}
    return accuracies if len(accuracies) > 1 else {}


def _mean_accuracy(scores: Mapping[str, Sequence[Row]]) -> float | None:
    """The unweighted mean over tasks; None where one has no accuracy."""
    values = [summarize(rows).accuracy.value for rows in scores.values()]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None


def as_json(report: PathReport) -> dict[str, Any]:
    """path.json: shares between 0 and 1, likelihoods in nats a token."""
    barrier_json = None
    if report.barrier is not None:
        excess = report.barrier.excess
        barrier_json = {
            **report.barrier.value._asdict(),
            "at": report.barrier.weight,
            "tolerance": report.barrier.tolerance,
            "connected": report.barrier.is_connected,
            "certain": report.barrier.is_certain,
            "excess": [{"weight": weight, **value._asdict()} for weight, value in excess],
        }
    return {
        "points": [_point_json(point) for point in report.points],
        "barrier": barrier_json,
        "recommended": {"weight": report.recommended, "by": report.criterion},
        "gains": {task: _intervals_json(gains) for task, gains in report.gains.items()},
        "notices": list(report.notices),
        "data": report.data,
    }


def _point_json(point: Point) -> dict[str, Any]:
    return {
        "weight": point.weight,
        "checkpoint": str(point.checkpoint),
        "digest": point.digest,
        "nll": None if point.nll is None else asdict(point.nll),
        "selection_accuracy": point.selection_accuracy,
        "tasks": {
            task: {
                "accuracy": summarize(rows).accuracy._asdict(),
                "by_kind": _intervals_json(_accuracy_by_kind(rows)),
            }
            for task, rows in point.scores.items()
        },
    }


def _intervals_json(intervals: Mapping[str, Interval]) -> dict[str, dict[str, Any]]:
    return {name: interval._asdict() for name, interval in intervals.items()}
