"""The page of a merge path: curves of likelihood and accuracy, the barrier, accuracy by kind of
question, and what to take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lingshu.analysis.merge_path import HALF_WEIGHT, PathReport, Point, accuracy_by_kind
from lingshu.core.stats import Interval
from lingshu.evaluate.report import html
from lingshu.evaluate.report.build import DISCLAIMER
from lingshu.evaluate.report.html import Series
from lingshu.evaluate.summary import interval_text, percent, summarize

MAX_CURVES = 6
X_LABEL = "weight of the first model (1: the first alone, 0: the second alone)"


def path_page(report: PathReport) -> str:
    """The whole page."""
    lead = (
        f"{len(report.points)} averages of two models, W times the first and 1 - W times the"
        f" second. {DISCLAIMER}"
    )
    sections = [_result(report)]
    if report.barrier is not None or any(point.nll for point in report.points):
        sections.append(_likelihood(report))
    sections += [_task(report, task) for task in report.tasks]
    sections.append(_models(report.points))
    return html.page("Between two models", sections, lead=lead)


def _result(report: PathReport) -> str:
    rows = []
    for point in report.points:
        label = " and ".join(
            name
            for name, weight in (
                ("the second model", 0.0),
                ("the first model", 1.0),
                ("half and half", HALF_WEIGHT),
                ("recommended", report.recommended),
            )
            if point.weight == weight
        )
        if label:
            nll = "–" if point.nll is None else f"{point.nll.all:.4f}"
            rows.append([label, f"{point.weight:g}", nll, percent(point.accuracy)])
    criterion_text = {
        "validation accuracy": "has the best accuracy on the validation tasks",
        "likelihood": "makes the held-out answers likeliest",
        "reported accuracy": "has the best accuracy on the tasks below",
        None: "",
    }[report.criterion]
    recommendation = (
        f"Weight {report.recommended:g} {criterion_text}; of equals the one nearest to a half is taken."
        if report.recommended is not None
        else ""
    )
    return html.section(
        "Which weight",
        *[html.notice(text) for text in report.notices],
        html.paragraph(recommendation),
        html.table(["model", "weight", "nats a token", "mean accuracy (%)"], rows),
    )


def _likelihood(report: PathReport) -> str:
    nll_by_weight = [(point.weight, point.nll) for point in report.points if point.nll is not None]
    curves = [Series("all tokens", [(weight, nll.all) for weight, nll in nll_by_weight])]
    curves += [
        Series(
            "entity tokens",
            [(weight, nll.entities) for weight, nll in nll_by_weight if nll.entities is not None],
        )
    ]
    curves += [
        Series(
            "other tokens",
            [(weight, nll.others) for weight, nll in nll_by_weight if nll.others is not None],
        )
    ]
    ends = dict((weight, nll.all) for weight, nll in nll_by_weight)
    if {0.0, 1.0} <= ends.keys():
        curves.append(Series("all tokens, straight", [(0.0, ends[0.0]), (1.0, ends[1.0])]))
    excess = {} if report.barrier is None else dict(report.barrier.excess)
    rows = [
        [
            f"{weight:g}",
            f"{nll.all:.4f}",
            _nats(nll.entities),
            _nats(nll.others),
            _signed(excess.get(weight)),
        ]
        for weight, nll in nll_by_weight
    ]
    header = [
        "weight",
        "all tokens",
        "entity tokens",
        "other tokens",
        "above the straight line (95% interval)",
    ]
    return html.section(
        "Likelihood of held-out answers",
        *[html.paragraph(text) for text in _describe_likelihood(report)],
        html.line_plot(curves, x_label=X_LABEL, y_label="nats a token"),
        html.table(header, rows),
    )


def _describe_likelihood(report: PathReport) -> Iterator[str]:
    data = report.data or {}
    drops = "".join(
        f", {reason} {count} dropped" for reason, count in data.get("drops", {}).items()
    )
    yield (
        f"Mean negative log-likelihood of {data.get('samples', 0):,} held-out samples{drops}; lower"
        " is better."
    )
    if data.get("entities"):
        entities = data["entities"]
        yield (
            f"{100 * entities['share']:.2f}% of their tokens belong to medical entities;"
            f" {entities['without']:,} samples hold none."
        )
    path_barrier = report.barrier
    if path_barrier is None:
        return
    value, low, high, _ = path_barrier.value
    span = "" if low is None or high is None else f", 95% interval {low:.4f} to {high:.4f}"
    verdict = (
        "The two models are linearly connected"
        if path_barrier.is_connected
        else "There is a barrier between the two models"
    )
    certainty_text = "" if path_barrier.is_certain else ", which the interval leaves open"
    max_gap_text = (
        f"at most {value:.4f} nats a token worse than on the straight line between the two (at"
        f" weight {path_barrier.weight:g}{span}"
        if value
        else "nowhere worse than on the straight line between the two (no barrier"
    )
    yield (
        f"{verdict}{certainty_text}: the likelihood of an average is {max_gap_text}; {path_barrier.tolerance:.4f} nats a"
        " token are tolerated). Intervals draw whole groups, and every point of the path meets the"
        " same samples. As a maximum the barrier cannot fall below nought."
    )


def _task(report: PathReport, task: str) -> str:
    scores = {point.weight: point.scores[task] for point in report.points if task in point.scores}
    overall = {weight: summarize(rows).accuracy for weight, rows in scores.items()}
    by_kind = {weight: accuracy_by_kind(rows) for weight, rows in scores.items()}
    names = list(dict.fromkeys(kind for accuracies in by_kind.values() for kind in accuracies))
    curves = [
        Series(
            kind,
            _line({w: accuracies[kind] for w, accuracies in by_kind.items() if kind in accuracies}),
        )
        for kind in names
    ]
    # As many curves as can be told apart.
    plots = [
        [Series("all questions", _line(overall))],
        *(curves[start : start + MAX_CURVES] for start in range(0, len(curves), MAX_CURVES)),
    ]
    rows = [
        [f"{weight:g}", percent(i.value), interval_text(i), str(i.n)]
        + [
            percent(by_kind[weight][kind].value) if kind in by_kind[weight] else "–"
            for kind in names
        ]
        for weight, i in overall.items()
    ]
    gains = [
        f"Weight {weight} against the first model, question by question: {_points(i)}."
        for weight, i in report.gains.get(task, {}).items()
    ]
    return html.section(
        task,
        *[
            html.line_plot(plot_curves, x_label=X_LABEL, y_label="accuracy (%)")
            for plot_curves in plots
        ],
        html.table(["weight", "accuracy (%)", "95% interval", "n", *names], rows),
        *[html.paragraph(text) for text in gains],
    )


def _models(points: Sequence[Point]) -> str:
    rows = [[f"{point.weight:g}", str(point.checkpoint), point.digest[:12]] for point in points]
    return html.section("Models", html.table(["weight", "folder", "digest"], rows))


def _line(accuracies: dict[float, Interval]) -> list[tuple[float, float]]:
    return [
        (weight, 100 * interval.value)
        for weight, interval in accuracies.items()
        if interval.value is not None
    ]


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(interval: Interval | None) -> str:
    if interval is None or interval.value is None:
        return "–"
    span = (
        ""
        if interval.low is None or interval.high is None
        else f" ({interval.low:+.4f} to {interval.high:+.4f})"
    )
    return f"{interval.value:+.4f}{span}"


def _points(interval: Interval) -> str:
    if interval.value is None:
        return "not known"
    span = (
        ""
        if interval.low is None or interval.high is None
        else f" (95% interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
    )
    return f"{100 * interval.value:+.1f} points{span}"
