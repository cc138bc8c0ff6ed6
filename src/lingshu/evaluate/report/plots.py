"""Drawings for report pages as inline SVG: shares with their intervals, and curves over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLORS = 6  # --c0 ... --c5 of the page's style
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
WIDTH = 720
AXIS = "accuracy (%) with 95% interval"


@dataclass(frozen=True)
class Bar:
    """One line of an interval plot: a share between 0 and 1 with the ends of its interval, as far
    as known.

    Bars of one `series` share a colour; `note` stands behind the label, such as "n = 40"; `mark` is
    another value on the same line, such as a published one, drawn as a diamond.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    series: int = 0
    marker: float | None = None


@dataclass(frozen=True)
class Series:
    """One curve: its name in the legend and its (x, y) points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


def interval_plot(
    bars: Sequence[Bar],
    *,
    axis: str = AXIS,
    span: tuple[float, float] = (0.0, 1.0),
    reference: float | None = None,
) -> str:
    """Shares as dots on a common axis over `span`, each with its interval as a line; nought is
    drawn where it lies inside.

    `reference` is drawn as a dashed line through all of them.
    """
    if not bars:
        return ""
    left, right, row, top = 262, WIDTH - 58, 26, 10
    bottom = top + row * len(bars)
    span_low, span_high = span

    def x(share: float) -> float:
        return round(
            left
            + (right - left)
            * (min(max(share, span_low), span_high) - span_low)
            / (span_high - span_low),
            1,
        )

    parts = []
    for tick in (
        tick
        for tick in ticks(100 * span_low, 100 * span_high)
        if 100 * span_low <= tick <= 100 * span_high
    ):
        at = x(tick / 100)
        parts.append(
            f'<line class="{"axis" if span_low < 0 == tick else "grid"}" x1="{at}" y1="{top}"'
            f' x2="{at}" y2="{bottom}"/>'
        )
        parts.append(
            f'<text class="faint" x="{at}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(
        f'<text class="faint" x="{(left + right) / 2}" y="{bottom + 38}"'
        f' text-anchor="middle">{escape(axis)}</text>'
    )
    if reference is not None:
        at = x(reference)
        line = (
            f'<line class="axis" x1="{at}" y1="{top}" x2="{at}" y2="{bottom}"'
            ' stroke-dasharray="4 3">'
        )
        parts.append(f"{line}<title>{_percent(reference)}</title></line>")
    for index, bar in enumerate(bars):
        y = top + row * index + row / 2
        parts += _bar(bar, x, y, left - 12, right + 10)
    description = "; ".join(f"{bar.label} {_percent(bar.value)}" for bar in bars)
    return _svg(bottom + 46, parts, f"{axis}: {description}")


def _bar(
    bar: Bar, x: Callable[[float], float], y: float, label_x: float, value_x: float
) -> list[str]:
    color = f"var(--c{bar.series % COLORS})"
    title = (
        f"<title>{escape(bar.label)}: {_percent(bar.value)} ({_percent(bar.low)} to"
        f" {_percent(bar.high)})</title>"
    )
    note = f' <tspan class="faint">{escape(bar.note)}</tspan>' if bar.note else ""
    max_label_length = 34 - len(bar.note)
    parts = [
        f'<text x="{label_x}" y="{y + 4}"'
        f' text-anchor="end">{escape(_truncate(bar.label, max(max_label_length, 8)))}{note}</text>'
    ]
    if bar.low is not None and bar.high is not None:
        low, high = x(bar.low), x(bar.high)
        parts.append(
            f'<line x1="{low}" y1="{y}" x2="{high}" y2="{y}" stroke="{color}"'
            f' stroke-width="2.5">{title}</line>'
        )
        parts += [
            f'<line x1="{end}" y1="{y - 5}" x2="{end}" y2="{y + 5}" stroke="{color}"'
            ' stroke-width="1.5"/>'
            for end in (low, high)
        ]
    if bar.value is not None:
        parts.append(
            f'<circle cx="{x(bar.value)}" cy="{y}" r="4.5" fill="{color}">{title}</circle>'
        )
    if bar.marker is not None:
        at = x(bar.marker)
        shape = f"{at},{y - 6} {at + 6},{y} {at},{y + 6} {at - 6},{y}"
        parts.append(
            f'<polygon class="mark" points="{shape}"><title>{_percent(bar.marker)}</title></polygon>'
        )
    parts.append(f'<text x="{value_x}" y="{y + 4}">{_percent(bar.value)}</text>')
    return parts


def line_plot(series: Sequence[Series], *, x_label: str, y_label: str, height: int = 280) -> str:
    """Curves over a common x, with axes, ticks and a legend; told apart by colour and by dashes."""
    curves = [
        Series(
            curve.name, [(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y)]
        )
        for curve in series
    ]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    left, right, top, bottom = 64, WIDTH - 16, 14 + 22 * math.ceil(len(curves) / 3), height
    xs, ys = (
        [x for curve in curves for x, _ in curve.points],
        [y for curve in curves for _, y in curve.points],
    )
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high, y_low, y_high = min(xs), max(max(xs), min(xs) + 1e-12), y_ticks[0], y_ticks[-1]

    def px(x: float) -> float:
        return round(left + (right - left) * (x - x_low) / (x_high - x_low), 1)

    def py(y: float) -> float:
        return round(bottom - (bottom - top) * (y - y_low) / (y_high - y_low), 1)

    parts = []
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" y1="{py(y)}" x2="{right}" y2="{py(y)}"/>')
        parts.append(
            f'<text class="faint" x="{left - 8}" y="{py(y) + 4}" text-anchor="end">{y:g}</text>'
        )
    for x in x_ticks:
        if x_low <= x <= x_high:
            parts.append(
                f'<line class="axis" x1="{px(x)}" y1="{bottom}" x2="{px(x)}" y2="{bottom + 5}"/>'
            )
            parts.append(
                f'<text class="faint" x="{px(x)}" y="{bottom + 20}"'
                f' text-anchor="middle">{x:g}</text>'
            )
    middle = (top + bottom) / 2
    parts.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    parts.append(
        f'<text class="faint" x="{(left + right) / 2}" y="{bottom + 40}"'
        f' text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text class="faint" x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16'
        f' {middle})">{escape(y_label)}</text>'
    )
    for index, curve in enumerate(curves):
        stroke = (
            f'stroke="var(--c{index % COLORS})" stroke-width="1.8"'
            f' stroke-dasharray="{DASHES[index % len(DASHES)]}"'
        )
        path = " ".join(f"{px(x)},{py(y)}" for x, y in curve.points)
        parts.append(f'<polyline fill="none" stroke-linejoin="round" {stroke} points="{path}"/>')
        at, line = left + 220 * (index % 3), 12 + 22 * (index // 3)
        parts.append(f'<line x1="{at}" y1="{line}" x2="{at + 26}" y2="{line}" {stroke}/>')
        parts.append(
            f'<text x="{at + 33}" y="{line + 4}">{escape(_truncate(curve.name, 26))}</text>'
        )
    return _svg(
        bottom + 50,
        parts,
        f"{y_label} over {x_label}: " + ", ".join(curve.name for curve in curves),
    )


def ticks(low: float, high: float, n_ticks: int = 5) -> list[float]:
    """Round numbers that cover low to high, about `count` of them."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw_step = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(raw_step))
    control_run = next(
        power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw_step * 0.999
    )
    first, last = math.floor(low / control_run + 1e-9), math.ceil(high / control_run - 1e-9)
    return [round(multiple * control_run, 12) for multiple in range(first, last + 1)]


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    body = "\n".join(parts)
    return (
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} {height:g}" role="img"'
        f' aria-label="{escape(title)}">\n{body}\n</svg></div>'
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _truncate(text: str, max_length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
