"""Drawings for report pages as inline SVG: shares with their intervals, and curves over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 6  # --c0 ... --c5 of the page's style
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
    mark: float | None = None


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
    first, last = span

    def x(share: float) -> float:
        return round(
            left + (right - left) * (min(max(share, first), last) - first) / (last - first), 1
        )

    parts = []
    for tick in (
        tick for tick in ticks(100 * first, 100 * last) if 100 * first <= tick <= 100 * last
    ):
        at = x(tick / 100)
        parts.append(
            f'<line class="{"axis" if first < 0 == tick else "grid"}" x1="{at}" y1="{top}"'
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
    for number, bar in enumerate(bars):
        y = top + row * number + row / 2
        parts += _bar(bar, x, y, left - 12, right + 10)
    told = "; ".join(f"{bar.label} {_percent(bar.value)}" for bar in bars)
    return _svg(bottom + 46, parts, f"{axis}: {told}")


def _bar(
    bar: Bar, x: Callable[[float], float], y: float, label_end: float, number_start: float
) -> list[str]:
    colour = f"var(--c{bar.series % COLOURS})"
    title = (
        f"<title>{escape(bar.label)}: {_percent(bar.value)} ({_percent(bar.low)} to"
        f" {_percent(bar.high)})</title>"
    )
    note = f' <tspan class="faint">{escape(bar.note)}</tspan>' if bar.note else ""
    room = 34 - len(bar.note)
    parts = [
        f'<text x="{label_end}" y="{y + 4}"'
        f' text-anchor="end">{escape(_short(bar.label, max(room, 8)))}{note}</text>'
    ]
    if bar.low is not None and bar.high is not None:
        low, high = x(bar.low), x(bar.high)
        parts.append(
            f'<line x1="{low}" y1="{y}" x2="{high}" y2="{y}" stroke="{colour}"'
            f' stroke-width="2.5">{title}</line>'
        )
        parts += [
            f'<line x1="{end}" y1="{y - 5}" x2="{end}" y2="{y + 5}" stroke="{colour}"'
            ' stroke-width="1.5"/>'
            for end in (low, high)
        ]
    if bar.value is not None:
        parts.append(
            f'<circle cx="{x(bar.value)}" cy="{y}" r="4.5" fill="{colour}">{title}</circle>'
        )
    if bar.mark is not None:
        at = x(bar.mark)
        shape = f"{at},{y - 6} {at + 6},{y} {at},{y + 6} {at - 6},{y}"
        parts.append(
            f'<polygon class="mark" points="{shape}"><title>{_percent(bar.mark)}</title></polygon>'
        )
    parts.append(f'<text x="{number_start}" y="{y + 4}">{_percent(bar.value)}</text>')
    return parts


def line_plot(series: Sequence[Series], *, x_label: str, y_label: str, height: int = 280) -> str:
    """Curves over a common x, with axes, ticks and a legend; told apart by colour and by dashes."""
    drawn = [
        Series(one.name, [(x, y) for x, y in one.points if math.isfinite(x) and math.isfinite(y)])
        for one in series
    ]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return ""
    left, right, top, bottom = 64, WIDTH - 16, 14 + 22 * math.ceil(len(drawn) / 3), height
    xs, ys = (
        [x for one in drawn for x, _ in one.points],
        [y for one in drawn for _, y in one.points],
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
    for number, one in enumerate(drawn):
        stroke = (
            f'stroke="var(--c{number % COLOURS})" stroke-width="1.8"'
            f' stroke-dasharray="{DASHES[number % len(DASHES)]}"'
        )
        path = " ".join(f"{px(x)},{py(y)}" for x, y in one.points)
        parts.append(f'<polyline fill="none" stroke-linejoin="round" {stroke} points="{path}"/>')
        at, line = left + 220 * (number % 3), 12 + 22 * (number // 3)
        parts.append(f'<line x1="{at}" y1="{line}" x2="{at + 26}" y2="{line}" {stroke}/>')
        parts.append(f'<text x="{at + 33}" y="{line + 4}">{escape(_short(one.name, 26))}</text>')
    return _svg(
        bottom + 50, parts, f"{y_label} over {x_label}: " + ", ".join(one.name for one in drawn)
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover low to high, about `count` of them."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    inside = "\n".join(parts)
    return (
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} {height:g}" role="img"'
        f' aria-label="{escape(title)}">\n{inside}\n</svg></div>'
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
