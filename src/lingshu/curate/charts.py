"""The distributions of a dataset as one picture: bars in plain SVG, which needs nothing but a
browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

BARS = 12  # of one facet; the rest is one bar
WIDTH, LABEL, ROW, HEAD, GAP = 420, 170, 18, 30, 16
COLUMNS = 2


def top_counts(counts: Mapping[str, int], bars: int = BARS) -> list[tuple[str, int]]:
    """The largest counts, the rest as `other`; bars of a scale keep their order."""
    if _is_scale(counts):
        return sorted(counts.items(), key=lambda item: _bound(item[0]))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[bars:])
    return ordered[:bars] + ([(f"other ({len(ordered) - bars})", rest)] if rest else [])


def _is_scale(counts: Mapping[str, int]) -> bool:
    return all(
        name.startswith(("up to ", "over ")) or name.replace("-", "").isdigit() for name in counts
    )


def _bound(name: str) -> float:
    if name.startswith("over "):
        return float("inf")
    return float(name.removeprefix("up to ").split("-")[0]) - (
        0.5 if name.startswith("up to ") else 0
    )


def distributions_svg(distributions: Mapping[str, Mapping[str, int]]) -> str:
    """Every distribution that has something to show, side by side."""
    panels = [(name, top_counts(counts)) for name, counts in distributions.items() if counts]
    body, tops = [], [0] * COLUMNS
    for name, bars in panels:
        column = tops.index(min(tops))
        x, y = column * (WIDTH + GAP), tops[column]
        body.append(f'<g transform="translate({x},{y})">{_panel(name, bars)}</g>')
        tops[column] += HEAD + ROW * len(bars) + GAP
    width, height = COLUMNS * WIDTH + (COLUMNS - 1) * GAP, max(tops)
    style = "text{font:12px sans-serif;fill:#222}.h{font-weight:bold}.n{fill:#555}.b{fill:#3b76af}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" style="max-width:100%;height:auto"'
        f' aria-label="Distributions of the dataset"><style>{style}</style><rect width="100%"'
        f' height="100%" fill="#fff"/>{"".join(body)}</svg>\n'
    )


def _panel(name: str, bars: list[tuple[str, int]]) -> str:
    total, largest = sum(count for _, count in bars), max(count for _, count in bars)
    space = WIDTH - LABEL - 90
    lines = [f'<text class="h" x="0" y="18">{escape(name)}</text>']
    for index, (label, count) in enumerate(bars):
        y = HEAD + index * ROW
        abbreviated = label if len(label) <= 26 else label[:25] + "…"
        length = max(1.0, space * count / largest)
        lines.append(
            f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(abbreviated)}</text><rect'
            f' class="b" x="{LABEL}" y="{y + 2}" width="{length:.1f}" height="{ROW - 5}"/><text'
            f' class="n" x="{LABEL + length + 6:.1f}" y="{y + 12}">{count:,}'
            f" ({100 * count / total:.1f}%)</text>"
        )
    return "".join(lines)
