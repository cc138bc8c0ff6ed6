"""The page that explains a run: for every step its counts and what it did to a few rows, before and
after, with pictures.

One file without anything from elsewhere. Of rows that are neither open nor de-identified it shows
no word and no pixel.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import DatasetCard
from lingshu.core.errors import ImageError
from lingshu.core.files import write_text
from lingshu.core.types import Image, Sample
from lingshu.curate.charts import distributions_svg
from lingshu.curate.runner import Example
from lingshu.curate.spill import load_sample
from lingshu.imaging.cache import ImageCache

EXPLAIN_PAGE = "explain.html"
THUMBNAIL_SIDE = 144  # pixels of a picture on the page
MAX_IMAGES, MAX_WORDS = 4, 180  # shown of one row
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c1c1c;max-width:1080px;margin:2rem auto;padding:0 1rem;background:#fff}
h1{font-size:1.6rem} h2 small{color:#666;font-weight:normal}
h2{margin:2.2rem 0 .4rem;font-size:1.2rem;border-top:1px solid #ddd;padding-top:1rem}
table{border-collapse:collapse;margin:.6rem 0} td,th{padding:.15rem .7rem .15rem 0;text-align:left;vertical-align:top}
th{color:#666;font-weight:normal} td.n{text-align:right;font-variant-numeric:tabular-nums}
.row{border:1px solid #ddd;border-radius:6px;margin:.7rem 0;padding:.6rem .8rem}
.row>b{display:inline-block;border-radius:4px;padding:.05rem .45rem;font-size:.85rem;background:#eee}
.row>b.dropped{background:#f6d5d3} .row>b.changed,.row>b.split{background:#fdeec6} .row>b.kept{background:#d9ecd6}
.id{color:#666;font-size:.85rem;margin-left:.5rem;overflow-wrap:anywhere}
.sides{display:flex;gap:1.2rem;flex-wrap:wrap;margin-top:.4rem} .side{flex:1 1 300px;min-width:0} .side>i{color:#666;font-size:.85rem}
img{margin:.25rem .35rem .25rem 0;border:1px solid #ccc;vertical-align:top}
p{margin:.25rem 0;overflow-wrap:anywhere} .role{color:#666;font-size:.8rem} .meta{color:#555;font-size:.85rem}
del{background:#f9d7d5;text-decoration:line-through} ins{background:#d7efd3;text-decoration:none} .held{color:#777;font-style:italic}
"""


def write_page(path: Path, card: DatasetCard, examples: Sequence[Example]) -> None:
    """Write the page of a run.

    Raises:
        StorageError: the disk refused.
    """
    with ImageCache() as image_cache:
        body = [_head(card)]
        for step in card.steps or ():
            step_examples = sorted(
                (e for e in examples if e.step == step["name"]),
                key=lambda e: (e.outcome == "kept", e.outcome),
            )
            body.append(_step(step, step_examples, image_cache))
    svg = f"<h2>What is left</h2>{distributions_svg(card.distributions or {})}"
    head = (
        '<meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width"><title>{escape(card.name)}</title><style>{STYLE}</style>'
    )
    write_text(
        path,
        "<!doctype html><html"
        f' lang="en"><head>{head}</head><body>{"".join(body)}{svg}</body></html>\n',
    )


def _head(card: DatasetCard) -> str:
    first = (card.steps or [{"in": 0}])[0]["in"]
    rows = "".join(
        f'<tr><td><a href="#{escape(s["name"])}">{escape(s["name"])}</a></td>'
        + "".join(f'<td class="n">{s[key]:,}</td>' for key in ("in", "added", "out"))
        + f"<td>{escape(_reasons(s['drops']))}</td></tr>"
        for s in card.steps or ()
    )
    return (
        f"<h1>{escape(card.name)}: {first:,} rows read, {card.rows:,}"
        " kept</h1><table><tr><th>step</th><th>in</th><th>added</th><th>out</th><th>dropped"
        f" because</th></tr>{rows}</table>"
    )


def _reasons(drops: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in drops.items())


def _step(step: Mapping[str, Any], examples: Sequence[Example], image_cache: ImageCache) -> str:
    stats_rows = "".join(
        f"<tr><td>{escape(str(k))}</td><td class='n'>{escape(str(v))}</td></tr>"
        for k, v in step["stats"].items()
    )
    summary = f"{escape(step['op'] or 'runner')} · {step['in']:,} in, {step['out']:,} out"
    head = f'<h2 id="{escape(step["name"])}">{escape(step["name"])} <small>{summary}</small></h2>'
    placeholder = "" if examples else '<p class="held">No row to show.</p>'
    return (
        head
        + (f"<table>{stats_rows}</table>" if stats_rows else "")
        + placeholder
        + "".join(_example(e, image_cache) for e in examples)
    )


def _example(example: Example, image_cache: ImageCache) -> str:
    before = load_sample(example.before)
    after = [load_sample(text) for text in example.after]
    kind = example.outcome.split(":")[0]
    label = (
        f"{escape(before.id)} {escape(example.detail)}"
        if _may_show(before)
        else "a row that is not open"
    )
    title = f'<b class="{kind}">{escape(example.outcome)}</b><span class="id">{label}</span>'
    if kind in ("dropped", "kept"):
        return f'<div class="row">{title}<div class="sides">{_side("", before, image_cache)}</div></div>'
    sides = _side("before", before, image_cache) + "".join(
        _side("after", sample, image_cache, before=before) for sample in after
    )
    return f'<div class="row">{title}<div class="sides">{sides}</div></div>'


def _may_show(sample: Sample) -> bool:
    return sample.meta.access == "open" or sample.meta.deidentified is True


def _side(
    label: str, sample: Sample, image_cache: ImageCache, *, before: Sample | None = None
) -> str:
    caption = f"<i>{label}</i>" if label else ""
    if not _may_show(sample):
        words = sum(len(message.text.split()) for message in sample.messages)
        summary = f"{len(sample.images)} images, {len(sample.messages)} turns, {words} words"
        return (
            f'<div class="side">{caption}<p class="held">{summary}; withheld, for the row is neither'
            " open nor de-identified</p></div>"
        )
    images = "".join(_thumbnail(image, image_cache) for image in sample.images[:MAX_IMAGES])
    if len(sample.images) > MAX_IMAGES:
        images += f'<span class="meta">and {len(sample.images) - MAX_IMAGES} more</span>'
    before_messages = before.messages if before is not None and _may_show(before) else ()
    texts = []
    for turn_index, message in enumerate(sample.messages):
        old = before_messages[turn_index].text if turn_index < len(before_messages) else None
        texts.append(f'<p><span class="role">{message.role}</span> {_text(message.text, old)}</p>')
    return (
        f'<div class="side">{caption}<div>{images}</div>{"".join(texts)}<p'
        f' class="meta">{_metadata_html(sample, before)}</p></div>'
    )


def _text(text: str, old: str | None) -> str:
    """A turn's words, cut; against the old ones, what went is struck out and what came is marked."""
    new = _truncated_words(text)
    if old is None or old == text:
        return escape(" ".join(new))
    before, parts = _truncated_words(old), []
    for op, a, b, c, d in difflib.SequenceMatcher(None, before, new, autojunk=False).get_opcodes():
        if op != "insert" and op != "equal":
            parts.append(f"<del>{escape(' '.join(before[a:b]))}</del>")
        if op in ("insert", "replace"):
            parts.append(f"<ins>{escape(' '.join(new[c:d]))}</ins>")
        if op == "equal":
            parts.append(escape(" ".join(new[c:d])))
    return " ".join(parts)


def _truncated_words(text: str) -> list[str]:
    words = re.findall(r"[一-鿿]|[^\s一-鿿]+", text)
    return words if len(words) <= MAX_WORDS else [*words[:MAX_WORDS], "…"]


def _metadata_html(sample: Sample, before: Sample | None) -> str:
    metadata = _metadata(sample)
    old = _metadata(before) if before is not None and _may_show(before) else None
    lines = []
    for name, value in metadata.items():
        line = f"{escape(name)}: {escape(value[:80])}"
        lines.append(f"<ins>{line}</ins>" if old is not None and old.get(name) != value else line)
    return " · ".join(lines)


def _metadata(sample: Sample) -> dict[str, str]:
    meta = sample.meta
    fields = {
        "source": meta.source,
        "license": meta.license,
        "modality": meta.modality,
        "kind": meta.kind,
        "language": meta.language,
    }
    non_empty = {name: value for name, value in fields.items() if value}
    gold = {"gold": " | ".join(sample.gold)} if sample.gold else {}
    return {**non_empty, **gold, **dict(meta.extra)}


def _thumbnail(image: Image, image_cache: ImageCache) -> str:
    import cv2

    try:
        pixels = image_cache.rgb(image)
    except ImageError:
        return '<span class="held">an image that cannot be read</span>'
    scale = min(1.0, THUMBNAIL_SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    data = base64.b64encode(encoded.tobytes()).decode()
    size_text = f"{pixels.shape[1]} x {pixels.shape[0]}"
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" alt="image,'
        f' {size_text}" title="{size_text}">'
    )
