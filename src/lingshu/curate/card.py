"""The card of a dataset: README.md, a chart of distributions, and croissant.json for loaders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import DatasetCard, dataset_schema
from lingshu.curate.config import Source
from lingshu.ops.licenses import is_permissive

CHART = "distributions.svg"
BARS = 12  # of one facet; the rest is one bar
# Pixels of the chart.
WIDTH, LABEL, ROW, HEAD, GAP = 420, 170, 18, 30, 16
COLUMNS = 2
_DESCRIPTIONS = {
    "id": "Unique name of the row.",
    "messages": "The dialogue as JSON.",
    "image_count": "Number of images of the row.",
    "gold": "Accepted answers as a JSON list, null where none is known.",
    "choices": "Choices as a JSON list.",
    "extra": "Further facts as a JSON object.",
}


def render(name: str, **values: object) -> str:
    """A template of this package; HTML and SVG are escaped, Markdown has `table` and `cell`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lingshu.curate"),
        autoescape=not name.endswith(".md.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    environment.globals["table"] = _table
    return environment.get_template(name).render(**values)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    """A value of the data in a table: it must neither end the cell nor contain markup."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(text.replace("<", "&lt;").replace("`", "\\`").split())


def format_drops(step: Mapping[str, Any]) -> str:
    """The drops of a step by reason, as `bad_image 3, error 1`."""
    return ", ".join(f"{reason} {count:,}" for reason, count in step["drops"].items())


def stats_rows(card: DatasetCard) -> list[tuple[str, str, object]]:
    """What steps counted besides drops, such as duplicates found: step, name, value."""
    return [
        (step["name"], name, value)
        for step in card.steps or ()
        for name, value in step["stats"].items()
    ]


def readme(card: DatasetCard, sources: Sequence[Source], *, digests: Mapping[str, str]) -> str:
    """The card for people; `digests` identify the inputs."""
    licenses = [(name, _permissive(name), count) for name, count in card.licenses.items()]
    steps = [
        (step["name"], step["op"] or "", step["in"], step["added"], step["out"], format_drops(step))
        for step in card.steps or ()
    ]
    return render(
        "README.md.j2",
        card=card,
        sources=list(_source_rows(card, sources)),
        licenses=licenses,
        steps=steps,
        stats=stats_rows(card),
        chart=CHART,
        digests=digests,
    )


def _source_rows(card: DatasetCard, sources: Sequence[Source]) -> Iterator[tuple[object, ...]]:
    first, last = ((card.steps or ({"sources": {}},))[index]["sources"] for index in (0, -1))
    for source in sources:
        if source.path is None:
            values = source.license or "", source.access or "", "left out (no path)", 0
        else:
            n_read = first.get(source.name, {}).get("in", 0)
            n_written = last.get(source.name, {}).get("out", 0)
            values = source.license or "by row", source.access or "by row", n_read, n_written
        yield source.name, source.reader, *values


def _permissive(license: str) -> str:
    return "unknown" if license == "unknown" else "yes" if is_permissive(license) else "no"


# --- the chart


def top_counts(counts: Mapping[str, int], bars: int = BARS) -> list[tuple[str, int]]:
    """The largest counts and the rest as `other`; bars of a scale keep their order."""
    if all(_is_range(name) for name in counts):
        return sorted(counts.items(), key=lambda pair: _bound(pair[0]))
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ordered[bars:])
    return ordered[:bars] + ([(f"other ({len(ordered) - bars})", rest)] if rest else [])


def _is_range(name: str) -> bool:
    return name.startswith(("up to ", "over ")) or name.replace("-", "").isdigit()


def _bound(name: str) -> float:
    if name.startswith("over "):
        return float("inf")
    bound = float(name.removeprefix("up to ").split("-")[0])
    return bound - 0.5 if name.startswith("up to ") else bound


def distributions_svg(distributions: Mapping[str, Mapping[str, int]]) -> str:
    """A picture of every distribution that has values, in two columns."""
    panels, heights = [], [0] * COLUMNS
    for name, counts in distributions.items():
        if counts:
            bars = _bars(top_counts(counts))
            column = heights.index(min(heights))
            x, y = column * (WIDTH + GAP), heights[column]
            panels.append({"name": name, "x": x, "y": y, "bars": bars})
            heights[column] += HEAD + ROW * len(bars) + GAP
    width = COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    size = {"width": width, "height": max(heights), "label": LABEL, "row": ROW}
    return render("distributions.svg.j2", panels=panels, **size)


def _bars(counts: list[tuple[str, int]]) -> list[dict[str, Any]]:
    total, largest = sum(count for _, count in counts), max(count for _, count in counts)
    return [
        {
            "y": HEAD + index * ROW,
            "label": name if len(name) <= 26 else name[:25] + "…",
            "length": max(1.0, (WIDTH - LABEL - 90) * count / largest),
            "count": count,
            "percent": 100 * count / total,
        }
        for index, (name, count) in enumerate(counts)
    ]


# --- Croissant


def croissant(
    card: DatasetCard, files: Mapping[str, Mapping[str, object]], *, created: str
) -> dict[str, Any]:
    """Croissant 1.1 metadata; `files` are the shards as a manifest lists them."""
    template = Path(__file__).with_name("croissant.json")
    document = json.loads(template.read_text(encoding="utf-8"))
    document["name"] = card.name
    document["description"] = (
        f"{card.rows} rows and {card.images} images, curated with lingshu. Research only; not for"
        " clinical use."
    )
    document["license"] = [name for name in card.licenses if name != "unknown"] or ["unknown"]
    document["version"] = f"0.0.0+{(card.version or '')[:12]}"
    document["datePublished"] = created[:10]
    document["distribution"][:0] = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{entry['bytes']} B",
            "encodingFormat": "application/x-parquet",
            "sha256": entry["sha256"],
        }
        for name, entry in files.items()
    ]
    document["recordSet"][0]["field"] = _fields()
    return document


def _fields() -> list[dict[str, Any]]:
    """Every column but the images: Croissant's loader supports no lists of images."""
    types = {"int32": "sc:Integer", "bool": "sc:Boolean"}
    return [
        {
            "@type": "cr:Field",
            "@id": f"rows/{column.name}",
            "name": column.name,
            "description": _DESCRIPTIONS.get(column.name, f"The {column.name} of the row."),
            "dataType": types.get(str(column.type), "sc:Text"),
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column.name}},
        }
        for column in dataset_schema()
        if column.name != "images"
    ]
