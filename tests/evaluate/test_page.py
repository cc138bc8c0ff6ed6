"""Pages that stand alone: nothing from outside, nothing unescaped, well formed."""

import re
from html.parser import HTMLParser

import pytest

from lingshu.core.stats import Interval
from lingshu.evaluate.report.render import Bar, Figure, environment, text_table, ticks

EVIL = "<img src=x onerror=alert(1)>&\"'"
VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


PAGE = """{% extends "page.html.j2" %}{% import "macros.html.j2" as m %}{% block content %}
{{ m.notice(evil) }}
{% call m.section(evil) %}
{{ m.heading(evil) }}{{ m.paragraph(evil) }}{{ m.bullets([evil]) }}{{ m.interval_plot(bars) }}
{% call m.table((evil, "n"), evil) %}{{ m.row(evil, 1) }}{% endcall %}
{% endcall %}
{{ m.line_plot(curves, evil, evil) }}{{ m.figure_grid(figures) }}
{% endblock %}"""


def full_page() -> str:
    bars = [
        Bar(EVIL, Interval(0.5, 0.4, 0.6, 9), marker=0.7),
        Bar("none", Interval(None, None, None, 0)),
        Bar("no interval", Interval(1.0, None, None, 1)),
    ]
    curves = [
        (EVIL, [(0, 2.5), (10, 1.0), (20, float("nan"))]),
        ("b", [(0, 1.0)]),
        ("empty", []),
    ]
    figures = [
        Figure(b"\x89PNG", EVIL, EVIL, EVIL, correct=True),
        Figure(b"", "q", "a", "g", correct=False),
        Figure(b"", "q", "a", "g"),
    ]
    return (
        environment(is_html=True)
        .from_string(PAGE)
        .render(
            title=EVIL, lead=EVIL, script="", evil=EVIL, bars=bars, curves=curves, figures=figures
        )
    )


def macro(call: str, **values: object) -> str:
    template = '{% import "macros.html.j2" as m %}{{ m.' + call + " }}"
    return environment(is_html=True).from_string(template).render(**values)


def test_a_page_is_well_formed_and_self_contained():
    checker = Checker()
    html = full_page()
    checker.feed(html)
    assert not checker.open
    assert "script" not in checker.tags
    assert checker.addresses and all(
        address.startswith("data:image/png;base64,") for address in checker.addresses
    )
    assert not re.search(r"https?://|url\(|@import", html)


def test_empty_plots_render_nothing():
    assert macro("interval_plot([])").strip() == ""
    assert macro("line_plot([('a', [])], 'x', 'y')").strip() == ""


def test_a_bar_never_leaves_the_axis():
    inside = macro("interval_plot([bar])", bar=Bar("a", Interval(0.98, 0.9, 1.2, 5)))
    indices_by_group = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([\d.]+)"', inside)]
    assert max(indices_by_group) == max(
        float(x) for x in re.findall(r'class="grid" x1="([\d.]+)"', inside)
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 500, [0, 100, 200, 300, 400, 500]), (0.3, 2.6, [0, 0.5, 1, 1.5, 2, 2.5, 3]),
     (2, 2, [1.4, 1.6, 1.8, 2, 2.2, 2.4, 2.6])],
)  # fmt: skip
def test_ticks_are_round_and_cover(low, high, expected):
    result = ticks(low, high)
    assert result[0] <= low and result[-1] >= high
    assert result == pytest.approx(expected, abs=1e-9)


@pytest.mark.browser
def test_a_browser_loads_nothing_from_outside(tmp_path):
    import shutil
    import subprocess

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a Chromium")
    (tmp_path / "page.html").write_text(full_page(), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,800", f"--screenshot={tmp_path / 'page.png'}",
               (tmp_path / "page.html").as_uri()]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "page.png").stat().st_size > 5000


def test_a_table_for_the_terminal():
    assert (
        text_table(("", "n"), [("side", "10"), ("a", "1")])
        == "       n\n----  --\nside  10\na      1"
    )
