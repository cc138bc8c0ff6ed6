"""Pages that stand alone: nothing from outside, nothing unescaped, well formed."""

import re
from html.parser import HTMLParser

import pytest

from lingshu.evaluate.report.html import (
    Bar,
    Figure,
    Series,
    figure_grid,
    interval_plot,
    line_plot,
    notice,
    page,
    paragraph,
    section,
    table,
)
from lingshu.evaluate.report.plots import ticks

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


def full_page() -> str:
    bars = [Bar(EVIL, 0.5, 0.4, 0.6, note=EVIL), Bar("none", None), Bar("no interval", 1.0)]
    curves = [
        Series(EVIL, [(0, 2.5), (10, 1.0), (20, float("nan"))]),
        Series("b", [(0, 1.0)]),
        Series("empty", []),
    ]
    return page(
        EVIL,
        [
            notice(EVIL),
            section(EVIL, paragraph(EVIL), interval_plot(bars), table((EVIL, "n"), [(EVIL, "1")])),
            line_plot(curves, x_label=EVIL, y_label=EVIL),
            figure_grid(
                [
                    Figure(b"\x89PNG", EVIL, EVIL, EVIL, correct=True),
                    Figure(b"", "q", "a", "g", correct=False),
                    Figure(b"", "q", "a", "g"),
                ]
            ),
        ],
        lead=EVIL,
    )


def test_a_page_is_well_formed_and_stands_alone():
    checker = Checker()
    html = full_page()
    checker.feed(html)
    assert not checker.open
    assert "script" not in checker.tags
    assert checker.addresses and all(
        address.startswith("data:image/png;base64,") for address in checker.addresses
    )
    assert not re.search(r"https?://|url\(|@import", html)


def test_empty_plots_draw_nothing():
    assert interval_plot([]) == ""
    assert line_plot([Series("a", [])], x_label="x", y_label="y") == ""


def test_a_bar_never_leaves_the_axis():
    inside = interval_plot([Bar("a", 0.98, 0.9, 1.2)])
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
