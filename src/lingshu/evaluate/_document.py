"""What a report consists of, said once and written as Markdown or as a page: paragraphs, lists,
tables, plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lingshu.evaluate import _browser, page


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Subtitle:
    text: str


@dataclass(frozen=True)
class Points:
    """Sentences, one a line."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """The first column names the row; `caption` says under which protocol and how its intervals
    were made.

    `long` ones are left to the files, a terminal shows the others.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    long: bool = False


@dataclass(frozen=True)
class Plot:
    """Values with their intervals over `span`; Markdown has no plots, its tables say the same.

    `reference` is a value to hold all of them against, such as the one over everything.
    """

    bars: Sequence[page.Bar]
    axis: str
    span: tuple[float, float] = (0.0, 1.0)
    reference: float | None = None


Part = Text | Subtitle | Points | Table | Plot


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part]

    @property
    def brief(self) -> list[Table | Points]:
        """What a terminal shows of it."""
        return [
            part
            for part in self.parts
            if isinstance(part, Points) or (isinstance(part, Table) and not part.long)
        ]


def markdown(title: str, sections: Sequence[Section], *, lead: str, warning: str | None) -> str:
    lines = [f"**{_plain(warning)}**\n"] if warning else []
    lines += [f"# {_plain(title)}\n", f"{lead}\n"]
    for section in sections:
        lines.append(f"## {_plain(section.title)}\n")
        lines += [_markdown(part) for part in section.parts if not isinstance(part, Plot)]
    return "\n".join(lines)


def _markdown(part: Text | Subtitle | Points | Table) -> str:
    match part:
        case Text(text):
            return f"{_plain(text)}\n"
        case Subtitle(text):
            return f"### {_plain(text)}\n"
        case Points(items):
            return "".join(f"- {_plain(item)}\n" for item in items)
        case Table(header, rows, caption):
            lines = [
                "| " + " | ".join(map(_plain, header)) + " |",
                "|---|" + "---:|" * (len(header) - 1),
            ]
            lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
            return "\n".join(lines) + "\n" + (f"\n{_plain(caption)}\n" if caption else "")


_ESCAPES = str.maketrans({"<": "&lt;"} | {mark: f"\\{mark}" for mark in "\\|[]!"})


def _plain(text: str) -> str:
    # Any text may come from data: no line breaks, no column marks, no links or pictures, no HTML.
    return " ".join(text.split()).translate(_ESCAPES)


def html(title: str, sections: Sequence[Section], *, lead: str, warning: str | None) -> str:
    return "".join(html_pieces(title, sections, lead=lead, warning=warning))


def html_pieces(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str,
    warning: str | None,
    browser: _browser.Browser | None = None,
) -> Iterator[str]:
    """The page in pieces; `browser` adds the samples behind the sections."""
    script = _browser.script() if browser else ""

    def parts() -> Iterator[str]:
        if warning:
            yield page.notice(warning) + "\n"
        if browser:
            yield page.jump(f"Browse the {browser.samples:,} samples", _browser.ANCHOR) + "\n"
        for section in sections:
            yield page.section(section.title, *map(_html, section.parts)) + "\n"
        if browser:
            yield from browser.pieces(page.script_tag(script))

    return page.page_pieces(
        title, parts(), lead=lead, script=script, style=_browser.style() if browser else ""
    )


def _html(part: Part) -> str:
    match part:
        case Text(text):
            return page.paragraph(text)
        case Subtitle(text):
            return page.subtitle(text)
        case Points(items):
            return page.points(items)
        case Plot(bars, axis, span, reference):
            return page.interval_plot(bars, axis=axis, span=span, reference=reference)
        case Table(header, rows, caption):
            return page.table(header, rows, caption=caption)
