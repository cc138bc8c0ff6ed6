"""The page of a merge path: curves of likelihood and accuracy, the barrier, accuracy by kind of
question, and what to take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lingshu.apps._merge_path import HALF, PathReport, Point, kinds
from lingshu.core.shares import Interval
from lingshu.evaluate import page
from lingshu.evaluate.page import Series
from lingshu.evaluate.report import DISCLAIMER
from lingshu.evaluate.summary import interval_text, percent, summarise

CURVES = 6
X = "weight of the first model (1: the first alone, 0: the second alone)"


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
    return page.page("Between two models", sections, lead=lead)


def _result(report: PathReport) -> str:
    rows = []
    for point in report.points:
        what = " and ".join(
            name
            for name, weight in (
                ("the second model", 0.0),
                ("the first model", 1.0),
                ("half and half", HALF),
                ("recommended", report.recommended),
            )
            if point.weight == weight
        )
        if what:
            nll = "–" if point.nll is None else f"{point.nll.all:.4f}"
            rows.append([what, f"{point.weight:g}", nll, percent(point.accuracy)])
    by = {
        "validation accuracy": "has the best accuracy on the validation tasks",
        "likelihood": "makes the held-out answers likeliest",
        "reported accuracy": "has the best accuracy on the tasks below",
        None: "",
    }[report.chosen]
    told = (
        f"Weight {report.recommended:g} {by}; of equals the one nearest to a half is taken."
        if report.recommended is not None
        else ""
    )
    return page.section(
        "Which weight",
        *[page.notice(text) for text in report.notices],
        page.paragraph(told),
        page.table(["model", "weight", "nats a token", "mean accuracy (%)"], rows),
    )


def _likelihood(report: PathReport) -> str:
    known = [(point.weight, point.nll) for point in report.points if point.nll is not None]
    curves = [Series("all tokens", [(weight, nll.all) for weight, nll in known])]
    curves += [
        Series(
            "entity tokens",
            [(weight, nll.entities) for weight, nll in known if nll.entities is not None],
        )
    ]
    curves += [
        Series(
            "other tokens",
            [(weight, nll.others) for weight, nll in known if nll.others is not None],
        )
    ]
    ends = dict((weight, nll.all) for weight, nll in known)
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
        for weight, nll in known
    ]
    header = [
        "weight",
        "all tokens",
        "entity tokens",
        "other tokens",
        "above the straight line (95% interval)",
    ]
    return page.section(
        "Likelihood of held-out answers",
        *[page.paragraph(text) for text in _about(report)],
        page.line_plot(curves, x_label=X, y_label="nats a token"),
        page.table(header, rows),
    )


def _about(report: PathReport) -> Iterator[str]:
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
    hill = report.barrier
    if hill is None:
        return
    value, low, high, _ = hill.value
    span = "" if low is None or high is None else f", 95% interval {low:.4f} to {high:.4f}"
    verdict = (
        "The two models are linearly connected"
        if hill.connected
        else "There is a barrier between the two models"
    )
    sure = "" if hill.certain else ", which the interval leaves open"
    worst = (
        f"at most {value:.4f} nats a token worse than on the straight line between the two (at"
        f" weight {hill.at:g}{span}"
        if value
        else "nowhere worse than on the straight line between the two (no barrier"
    )
    yield (
        f"{verdict}{sure}: the likelihood of an average is {worst}; {hill.tolerance:.4f} nats a"
        " token are tolerated). Intervals draw whole groups, and every point of the path meets the"
        " same samples. As a maximum the barrier cannot fall below nought."
    )


def _task(report: PathReport, task: str) -> str:
    scores = {point.weight: point.scores[task] for point in report.points if task in point.scores}
    overall = {weight: summarise(rows).accuracy for weight, rows in scores.items()}
    by_kind = {weight: kinds(rows) for weight, rows in scores.items()}
    names = list(dict.fromkeys(kind for found in by_kind.values() for kind in found))
    curves = [
        Series(kind, _line({w: found[kind] for w, found in by_kind.items() if kind in found}))
        for kind in names
    ]
    # As many curves as can be told apart.
    plots = [
        [Series("all questions", _line(overall))],
        *(curves[at : at + CURVES] for at in range(0, len(curves), CURVES)),
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
    return page.section(
        task,
        *[page.line_plot(drawn, x_label=X, y_label="accuracy (%)") for drawn in plots],
        page.table(["weight", "accuracy (%)", "95% interval", "n", *names], rows),
        *[page.paragraph(text) for text in gains],
    )


def _models(points: Sequence[Point]) -> str:
    rows = [[f"{point.weight:g}", str(point.checkpoint), point.digest[:12]] for point in points]
    return page.section("Models", page.table(["weight", "folder", "digest"], rows))


def _line(found: dict[float, Interval]) -> list[tuple[float, float]]:
    return [
        (weight, 100 * interval.value)
        for weight, interval in found.items()
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
