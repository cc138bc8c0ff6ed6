"""Self-contained report pages: one HTML file with its styles and drawings inside, no outside
request, a script only where asked.

Small functions return pieces of HTML; each escapes the text it is given, so any text from data may
be passed as it is.

    page("Title", [section("Results", interval_plot(bars), table(header, rows))])
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from lingshu.evaluate.report.plots import Bar, Series, interval_plot, line_plot

__all__ = [
    "Bar",
    "Figure",
    "Series",
    "figure_grid",
    "interval_plot",
    "anchor_link",
    "line_plot",
    "notice",
    "page",
    "iter_page",
    "paragraph",
    "bullet_list",
    "script_tag",
    "section",
    "heading",
    "table",
]

# Colours are Okabe and Ito's, which stay apart for colour-blind readers; the dark set keeps their
# contrast.
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1f23; --faint: #5d6670; --rule: #d4d9df; --zebra: #f6f7f9;
  --edge: #8b949e; --chosen: #e3eef7;
  --c0: #0072b2; --c1: #b34700; --c2: #00795a; --c3: #a0447f; --c4: #7a5c00; --c5: #3a7ca5; --warn: #8a1c1c; --warn-paper: #fdf0ef; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --faint: #9aa4ae; --rule: #343b42; --zebra: #1b1f23;
  --edge: #6b7680; --chosen: #1f3243;
  --c0: #56b4e9; --c1: #e69f00; --c2: #2fc39b; --c3: #d690b9; --c4: #e3d24f; --c5: #9cc7e0; --warn: #ffb4ab; --warn-paper: #3a1d1c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 Charter, "Bitstream Charter", "Source Serif 4", Georgia, serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1, h2, h3, table, figcaption, svg, .lead, .notice, .caption {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; font-weight: 650; margin: 0 0 .35rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; font-weight: 650; margin: 2.6rem 0 .8rem;
  padding-top: .9rem; border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.8rem 0 .6rem; }
p { margin: .6rem 0; max-width: 44rem; overflow-wrap: anywhere; } .lead { color: var(--faint); font-size: .95rem; margin: 0; }
.notice { border-left: 4px solid var(--warn);
  background: var(--warn-paper); color: var(--warn); padding: .7rem 1rem; margin: 1.4rem 0; font-weight: 600; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .4rem .55rem; text-align: right; white-space: nowrap; }
thead th { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom;
  white-space: normal; }
tbody th, thead th:first-child { text-align: left; white-space: normal; min-width: 8rem; overflow-wrap: anywhere; }
tbody th { font-weight: 500; }
tbody tr:nth-child(even) { background: var(--zebra); } tbody tr:last-child > * { border-bottom: 2px solid var(--ink); }
.caption { color: var(--faint); font-size: .82rem; margin: -.5rem 0 1.2rem; max-width: 52rem; }
ul { max-width: 44rem; padding-left: 1.2rem; margin: .6rem 0; overflow-wrap: anywhere; } li { margin: .25rem 0; }
.plot { margin: 1rem 0; overflow-x: auto; } .plot svg { display: block; width: 100%; height: auto; min-width: 38rem; }
svg text { fill: var(--ink); font-size: 12.5px; } svg .faint { fill: var(--faint); }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--faint); }
svg .mark { fill: none; stroke: var(--c1); stroke-width: 1.8; }
.grid-of-figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1.2rem; margin: 1.2rem 0; }
figure { margin: 0; border: 1px solid var(--rule); border-radius: 4px; overflow: hidden; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; image-rendering: auto; }
figcaption { padding: .6rem .75rem; font-size: .82rem; line-height: 1.45; overflow-wrap: anywhere; }
dl { margin: .4rem 0 0; display: grid; grid-template-columns: auto 1fr; gap: .1rem .6rem; } dt { color: var(--faint); } dd { margin: 0; }
.right { color: var(--c2); font-weight: 600; } .wrong { color: var(--c1); font-weight: 600; }
@media (max-width: 34rem) { body { font-size: 15px; } main { padding: 1.4rem .9rem 3rem; } th, td { padding: .35rem .5rem; } }
@media print { main { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Figure:
    """A sample image with what was asked, answered and right.

    `image` is an encoded file; `right` None: not graded.
    """

    image: bytes
    question: str
    answer: str
    gold: str
    correct: bool | None = None
    mime: str = "image/png"


def page(title: str, sections: Sequence[str], *, lead: str = "") -> str:
    """A whole page. `sections` are pieces of HTML made by the functions of this module."""
    return "".join(iter_page(title, [piece + "\n" for piece in sections], lead=lead))


def iter_page(
    title: str, sections: Iterable[str], *, lead: str = "", script: str = "", style: str = ""
) -> Iterator[str]:
    """The same in pieces, for pages that do not fit memory; `sections` bring their own line breaks.

    `script` is the one script that may run, which a section holds as `script_tag(script)`; `style`
    is added to the page's own.
    """
    head = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    script_policy = (
        f"; script-src '{_script_hash(script)}'; base-uri 'none'; form-action 'none'"
        if script
        else ""
    )
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{script_policy}"
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>{head}</header>\n"
    )
    yield from sections
    yield "</main>\n</body>\n</html>\n"


def script_tag(script: str) -> str:
    """A script of ours as a page holds it; `iter_page` must be given the same one."""
    return f"<script>{script}</script>"


def _script_hash(script: str) -> str:
    """How a content security policy names a script: by its sha256, so that no other one runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def section(title: str, *parts: str) -> str:
    """A section under a heading; `parts` are pieces of HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def anchor_link(text: str, anchor: str) -> str:
    """A link to a place of the same page."""
    return f'<p class="anchor_link"><a href="#{escape(anchor)}">{escape(text)}</a></p>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def bullet_list(items: Sequence[str]) -> str:
    """Sentences, one a line."""
    return "<ul>\n" + "".join(f"<li>{escape(item)}</li>\n" for item in items) + "</ul>"


def notice(text: str) -> str:
    """A line that must not be overlooked."""
    return f'<p class="notice" role="alert">{escape(text)}</p>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """A table whose first column names the row; the others are set right, as numbers are.

    The caption stands below it.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{escape(cell)}</th>' if i == 0 else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    caption_html = f'\n<p class="caption">{escape(caption)}</p>' if caption else ""
    return (
        '<div class="scroll"'
        f' tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>{caption_html}'
    )


def figure_grid(items: Sequence[Figure]) -> str:
    """Sample images side by side, each with its question, the answer given and the right one."""
    return '<div class="grid-of-figures">\n' + "\n".join(map(_figure, items)) + "\n</div>"


def _figure(item: Figure) -> str:
    source = f"data:{escape(item.mime)};base64,{base64.b64encode(item.image).decode()}"
    css_class = {None: "", True: ' class="right"', False: ' class="wrong"'}[item.correct]
    mark = {None: "", True: " ✓", False: " ✗"}[item.correct]
    return (
        f'<figure><img alt="{escape(item.question)}"'
        f' src="{source}"><figcaption>{escape(item.question)}'
        f"<dl><dt>answer</dt><dd{css_class}>{escape(item.answer)}{mark}</dd><dt>gold</dt><dd>{escape(item.gold)}</dd></dl></figcaption></figure>"
    )
