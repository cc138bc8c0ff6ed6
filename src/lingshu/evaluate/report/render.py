"""Reports from Jinja2 templates: self-contained HTML pages, Markdown, and tables for a terminal.

Templates are named relative to the package (`quickstart/templates/report.html.j2`); those of
evaluate/report/templates also by their bare name. A page extends page.html.j2 and imports
macros.html.j2. Pages are autoescaped and the macros of Markdown escape, so any text may be data.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.filters import make_attrgetter
from markupsafe import Markup

from lingshu.core.stats import Interval
from lingshu.evaluate.statistics import PairedTest
from lingshu.evaluate.summary import NEEDS_JUDGE_LABEL, interval_text, percent

DISCLAIMER = "Research only; not for clinical use."
_FOLDER = Path(__file__).parent
Curve = tuple[str, Sequence[tuple[float, float]]]


class Bar(NamedTuple):
    """One line of an interval plot; `marker`, such as a published value, is shown as a diamond."""

    label: str
    interval: Interval
    marker: float | None = None


class Figure(NamedTuple):
    """A sample image, a PNG file, with its question and answers; `correct` None: not graded."""

    image: bytes
    question: str
    answer: str
    gold: str
    correct: bool | None = None


def render_page(template: str, *, title: str, lead: str = DISCLAIMER, **values: Any) -> str:
    """A whole page from a template that extends page.html.j2."""
    return "".join(iterate_page(template, title=title, lead=lead, **values))


def iterate_page(
    template: str, *, title: str, lead: str = DISCLAIMER, script: str = "", **values: Any
) -> Iterator[str]:
    """The same in pieces, for pages that do not fit memory; `script` is the one that may run."""
    names = {"title": title, "lead": lead, "script": Markup(script), "macros": "macros.html.j2"}
    return environment(is_html=True).get_template(template).generate(names | values)


def render_markdown(template: str, *, title: str, **values: Any) -> str:
    names = {"title": title, "lead": DISCLAIMER, "macros": "macros.md.j2"}
    text = environment(is_html=False).get_template(template).render(names | values)
    text = re.sub(r"^ +| +$", "", _visible(text), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def render_text(template: str, **values: Any) -> str:
    """A terminal's view: tables with aligned columns."""
    names = {"macros": "macros.txt.j2"}
    text = _visible(environment(is_html=False).get_template(template).render(names | values))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


@cache
def static(name: str) -> Markup:
    """A style sheet or script of ours."""
    return Markup((_FOLDER / "static" / name).read_text(encoding="utf-8"))


@cache
def environment(*, is_html: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([_FOLDER / "templates", _FOLDER.parent.parent]),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )

    def pairs(rows: Iterable[Any], *attributes: str | int) -> list[tuple[Any, ...]]:
        getters = [make_attrgetter(environment, attribute) for attribute in attributes]
        return [tuple(getter(row) for getter in getters) for row in rows]

    environment.filters |= {
        "align": lambda text, header: text_table(
            header, [row.split("\t") for row in text.splitlines() if row.strip()]
        ),
        "axis_limit": _axis_limit,
        "bars": lambda rows, *attributes: [Bar(*values) for values in pairs(rows, *attributes)],
        "base64": lambda data: base64.b64encode(data).decode(),
        "by_value": _by_value,
        "cells": lambda cells: "\t".join(" ".join(str(cell).split()) for cell in cells),
        "compact": lambda text: re.sub(r"\s*\n\s*", "\n", text).strip(),
        "counts": lambda counts: ", ".join(f"{name} {count}" for name, count in counts.items()),
        # How a content security policy names a script: by its sha256, so that no other one runs.
        "csp_hash": lambda script: (
            f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
        ),
        "curve": lambda accuracies: [
            (x, 100 * item.value) for x, item in accuracies.items() if item.value is not None
        ],
        "interval": interval_text,
        "markdown": _escape_markdown,
        "number_interval": lambda interval: (
            "–" if interval.low is None else f"{interval.low:.3f} to {interval.high:.3f}"
        ),
        "number": lambda value, digits=4: "–" if value is None else f"{value:.{digits}f}",
        "p_value": _p_value,
        "pairs": pairs,
        "percent": percent,
        "script_json": _script_json,
        "shorten": _shorten,
        "signed": _signed,
        "signed_interval": _signed_interval,
        "with_interval": _with_interval,
    }
    environment.globals |= {
        "NEEDS_JUDGE": NEEDS_JUDGE_LABEL,
        "plot_frame": plot_frame,
        "scale": scale,
        "static": static,
        "ticks": ticks,
    }
    return environment


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column aligned left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [
        [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])] for first, *others in lines
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


# --- numbers and text


def _signed(value: float | None, scale: float = 100) -> str:
    return "–" if value is None else f"{scale * value:+.1f}"


def _signed_interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "–"
    return f"{_signed(interval.low)} to {_signed(interval.high)}"


def _with_interval(interval: Interval) -> str:
    if interval.low is None:
        return percent(interval.value)
    return f"{percent(interval.value)} ({interval_text(interval)})"


def _p_value(test: PairedTest | None) -> str:
    if test is None:
        return "–"
    return "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"


def _by_value(pairs: Sequence[tuple[str, str]], label: str) -> str:
    """`Label: value.` where all names have one value, else each value with its names."""
    names: dict[str, list[str]] = {}
    for value, name in pairs:
        names.setdefault(value, []).append(name)
    if len(names) == 1:
        return f"{label}: {next(iter(names))}."
    groups = (f"{value}: {', '.join(dict.fromkeys(group))}" for value, group in names.items())
    return f"{label}: {'; '.join(groups)}."


# All but newlines and tabs: a terminal obeys control characters, and those of direction hide text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_MARKDOWN_ESCAPES = str.maketrans({"<": "&lt;"} | {char: f"\\{char}" for char in "\\|[]!"})


def _escape_markdown(text: object) -> str:
    # Any text may come from data: no line breaks, no column marks, no links or pictures, no HTML.
    return " ".join(str(text).split()).translate(_MARKDOWN_ESCAPES)


def _shorten(text: str, max_length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def _script_json(value: object) -> Markup:
    # Every "<" of JSON is inside a string: as its escape it can neither end the block nor open a
    # comment.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


# --- plots


class PlotFrame(NamedTuple):
    """A line plot's curves: `box` is left, right, top, bottom; `x` and `y` map data to pixels."""

    curves: Sequence[Curve]
    box: tuple[float, float, float, float]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    x: Callable[[float], float]
    y: Callable[[float], float]


def plot_frame(series: Sequence[Curve], height: int = 280) -> PlotFrame | None:
    """The frame around all finite points of the curves; None where there are none."""
    finite = [
        (name, [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
        for name, points in series
    ]
    curves = [(name, points) for name, points in finite if points]
    if not curves:
        return None
    left, right, top, bottom = 64, 704, 14 + 22 * math.ceil(len(curves) / 3), height
    xs, ys = zip(*(point for _, points in curves for point in points), strict=True)
    x_span = min(xs), max(*xs, min(xs) + 1e-12)
    y_ticks = ticks(min(ys), max(ys))
    return PlotFrame(
        curves,
        (left, right, top, bottom),
        [tick for tick in ticks(min(xs), max(xs)) if x_span[0] <= tick <= x_span[1]],
        y_ticks,
        scale(x_span, (left, right)),
        scale((y_ticks[0], y_ticks[-1]), (bottom, top)),
    )


def scale(span: tuple[float, float], ends: tuple[float, float]) -> Callable[[float], float]:
    """Maps values of `span` to pixels between `ends`; values outside go to the nearer end."""
    (low, high), (start, stop) = span, ends

    def position(value: float) -> float:
        return round(start + (stop - start) * (min(max(value, low), high) - low) / (high - low), 1)

    return position


def ticks(low: float, high: float, n_ticks: int = 5) -> list[float]:
    """Round numbers that cover low to high, about `n_ticks` of them."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw_step = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(raw_step))
    factors = (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= raw_step * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(multiple * step, 12) for multiple in range(first, last + 1)]


def _axis_limit(differences: Iterable[Interval]) -> float:
    """The end of a symmetric axis that holds all differences and their intervals."""
    bounds = [abs(end) for interval in differences for end in interval[:3] if end is not None]
    largest = min(1.0, max(bounds, default=0.0))
    return next(limit for limit in (0.05, 0.1, 0.2, 0.5, 1.0) if limit >= largest)
