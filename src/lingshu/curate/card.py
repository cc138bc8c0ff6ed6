"""What a dataset says of itself: README.md for people, croissant.json for search engines and
loaders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lingshu.core.artifacts import DatasetCard
from lingshu.core.shards import dataset_schema
from lingshu.curate.config import Source
from lingshu.ops.licenses import is_permissive

CHART = "distributions.svg"
CROISSANT = "http://mlcommons.org/croissant/1.1"
SCHEMA = "https://schema.org/"


def readme(card: DatasetCard, sources: Sequence[Source], *, digests: Mapping[str, str]) -> str:
    """The card for people; `digests` names what identifies the inputs."""
    head = "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    parts = [
        f"# {_cell(card.name)}\n",
        f"{card.rows:,} rows, {card.images:,} images. Research only; not for clinical use.\n",
        (
            f"Version `{card.version}` (digest of the shards). Made by `lingshu curate`;"
            " `config.yaml` is the run's configuration, `drops.jsonl` lists every dropped row with"
            " its reason, `run.json` says with which versions.\n"
        ),
        (
            "```python\nfrom datasets import load_dataset\n\nrows ="
            ' load_dataset("PATH/OF/THIS/FOLDER", split="train")\n```\n'
        ),
        "## Sources\n",
        _table(
            ("source", "reader", "stated licence", "access", "rows read", "rows here"),
            _source_rows(card, sources),
        ),
        "## Licences and access\n",
        _table(
            ("license", "permissive", "rows"),
            ((k, _permissive(k), v) for k, v in card.licenses.items()),
        ),
        _table(("access", "rows"), card.access.items()),
        (
            "Permissive: use, change and redistribution, also commercially, for no more than"
            " attribution. This is no legal advice.\n"
        ),
        "## What each step did\n",
        _table(
            ("step", "op", "in", "added", "out", "dropped because"), _step_rows(card.steps or ())
        ),
        _step_stats(card.steps or ()),
        "## Distributions\n",
        f"![Distributions of the dataset]({CHART})\n",
        "## Inputs\n",
        _table(("input", "sha256"), digests.items()),
    ]
    return head + "\n".join(part for part in parts if part)


def _source_rows(card: DatasetCard, sources: Sequence[Source]) -> Iterable[tuple[object, ...]]:
    steps = card.steps or ()
    for source in sources:
        first = _counts(steps[0], source.name) if steps else {}
        last = _counts(steps[-1], source.name) if steps else {}
        if source.path is None:
            yield (
                source.name,
                source.reader,
                source.license or "",
                source.access or "",
                "left out (no path)",
                0,
            )
        else:
            yield (
                source.name,
                source.reader,
                source.license or "by row",
                source.access or "by row",
                first.get("in", 0),
                last.get("out", 0),
            )


def _counts(step: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    return step["sources"].get(source, {})


def _step_rows(steps: Iterable[Mapping[str, Any]]) -> Iterable[tuple[object, ...]]:
    for step in steps:
        drops = ", ".join(f"{reason} {count:,}" for reason, count in step["drops"].items())
        yield step["name"], step["op"] or "", step["in"], step["added"], step["out"], drops


def _step_stats(steps: Iterable[Mapping[str, Any]]) -> str:
    """What table steps counted beside their drops: duplicates found, overlaps with benchmarks,
    quotas.
    """
    rows = [(step["name"], key, value) for step in steps for key, value in step["stats"].items()]
    return "## What the steps found\n\n" + _table(("step", "what", "value"), rows) if rows else ""


def _permissive(license: str) -> str:
    return "unknown" if license == "unknown" else "yes" if is_permissive(license) else "no"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += [
        "| "
        + " | ".join(
            f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else _cell(str(v))
            for v in row
        )
        + " |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text of the data in a cell of a table: it must neither end the cell nor mark anything up."""
    return " ".join(
        text.replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("`", "\\`")
        .split()
    )


# --- Croissant
# -----------------------------------------------------------------------------------------------------

_TERMS = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet",
    "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_DESCRIPTIONS = {
    "id": "Unique name of the row.",
    "messages": "The dialogue as JSON.",
    "image_count": "Number of images of the row.",
    "gold": "Accepted answers as a JSON list, null where none is known.",
    "choices": "Choices as a JSON list.",
    "extra": "Further facts as a JSON object.",
}


def croissant(
    card: DatasetCard, files: Mapping[str, Mapping[str, object]], *, created: str
) -> dict[str, Any]:
    """Croissant 1.1 metadata; `files` are the shards with their sizes and sha256, as a manifest
    lists them.
    """
    file_objects = [
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
    file_set = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": (
            "The rows with their images: the column `images` is a list of {bytes, path}, encoded"
            " image files."
        ),
        "encodingFormat": "application/x-parquet",
        "includes": "data/*.parquet",
    }
    licenses = [name for name in card.licenses if name != "unknown"]
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "name": card.name,
        "description": (
            f"{card.rows} rows and {card.images} images, curated with lingshu. Research only; not"
            " for clinical use."
        ),
        "conformsTo": CROISSANT,
        "license": licenses or ["unknown"],
        "url": "https://arxiv.org/abs/2506.07044",
        "version": f"0.0.0+{(card.version or '')[:12]}",
        "datePublished": created[:10],
        "citeAs": "Lingshu, arXiv 2506.07044",
        "distribution": [*file_objects, file_set],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "key": {"@id": "rows/id"},
                "field": _fields(),
            }
        ],
    }


def _context() -> dict[str, Any]:
    return {
        "@language": "en",
        "@vocab": SCHEMA,
        "sc": SCHEMA,
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "description": {"@container": "@language"},
        "name": {"@container": "@language"},
        **{term: f"cr:{term}" for term in _TERMS},
    }


def _fields() -> list[dict[str, Any]]:
    """Every column but the images: Croissant's loader knows no list of images."""
    kinds = {"int32": "sc:Integer", "bool": "sc:Boolean"}
    return [
        {
            "@type": "cr:Field",
            "@id": f"rows/{column.name}",
            "name": column.name,
            "description": _DESCRIPTIONS.get(column.name, f"The {column.name} of the row."),
            "dataType": kinds.get(str(column.type), "sc:Text"),
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column.name}},
        }
        for column in dataset_schema()
        if column.name != "images"
    ]
