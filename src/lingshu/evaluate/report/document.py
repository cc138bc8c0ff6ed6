"""What a report consists of, said once and written as Markdown or as a page: paragraphs, lists,
tables, plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lingshu.evaluate.report import html as html_page
from lingshu.evaluate.report import sample_browser


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class BulletList:
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
    is_long: bool = False


@dataclass(frozen=True)
class Plot:
    """Values with their intervals over `span`; Markdown has no plots, its tables say the same.

    `reference` is a value to hold all of them against, such as the one over everything.
    """

    bars: Sequence[html_page.Bar]
    axis: str
    span: tuple[float, float] = (0.0, 1.0)
    reference: float | None = None


SectionPart = Paragraph | Heading | BulletList | Table | Plot


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[SectionPart]

    @property
    def terminal_parts(self) -> list[Table | BulletList]:
        """What a terminal shows of it."""
        return [
            part
            for part in self.parts
            if isinstance(part, BulletList) or (isinstance(part, Table) and not part.is_long)
        ]


def markdown(title: str, sections: Sequence[Section], *, lead: str, warning: str | None) -> str:
    lines = [f"**{_escape_markdown(warning)}**\n"] if warning else []
    lines += [f"# {_escape_markdown(title)}\n", f"{lead}\n"]
    for section in sections:
        lines.append(f"## {_escape_markdown(section.title)}\n")
        lines += [_markdown(part) for part in section.parts if not isinstance(part, Plot)]
    return "\n".join(lines)


def _markdown(part: Paragraph | Heading | BulletList | Table) -> str:
    match part:
        case Paragraph(text):
            return f"{_escape_markdown(text)}\n"
        case Heading(text):
            return f"### {_escape_markdown(text)}\n"
        case BulletList(items):
            return "".join(f"- {_escape_markdown(item)}\n" for item in items)
        case Table(header, rows, caption):
            lines = [
                "| " + " | ".join(map(_escape_markdown, header)) + " |",
                "|---|" + "---:|" * (len(header) - 1),
            ]
            lines += ["| " + " | ".join(map(_escape_markdown, row)) + " |" for row in rows]
            return "\n".join(lines) + "\n" + (f"\n{_escape_markdown(caption)}\n" if caption else "")


_ESCAPES = str.maketrans({"<": "&lt;"} | {char: f"\\{char}" for char in "\\|[]!"})


def _escape_markdown(text: str) -> str:
    # Any text may come from data: no line breaks, no column marks, no links or pictures, no HTML.
    return " ".join(text.split()).translate(_ESCAPES)


def html(title: str, sections: Sequence[Section], *, lead: str, warning: str | None) -> str:
    return "".join(iter_html(title, sections, lead=lead, warning=warning))


def iter_html(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str,
    warning: str | None,
    browser: sample_browser.Browser | None = None,
) -> Iterator[str]:
    """The page in pieces; `browser` adds the samples behind the sections."""
    script = sample_browser.script() if browser else ""

    def iter_sections() -> Iterator[str]:
        if warning:
            yield html_page.notice(warning) + "\n"
        if browser:
            yield (
                html_page.anchor_link(
                    f"Browse the {browser.samples:,} samples", sample_browser.ANCHOR
                )
                + "\n"
            )
        for section in sections:
            yield html_page.section(section.title, *map(_html, section.parts)) + "\n"
        if browser:
            yield from browser.iter_html(html_page.script_tag(script))

    return html_page.iter_page(
        title,
        iter_sections(),
        lead=lead,
        script=script,
        style=sample_browser.style() if browser else "",
    )


def _html(part: SectionPart) -> str:
    match part:
        case Paragraph(text):
            return html_page.paragraph(text)
        case Heading(text):
            return html_page.heading(text)
        case BulletList(items):
            return html_page.bullet_list(items)
        case Plot(bars, axis, span, reference):
            return html_page.interval_plot(bars, axis=axis, span=span, reference=reference)
        case Table(header, rows, caption):
            return html_page.table(header, rows, caption=caption)
