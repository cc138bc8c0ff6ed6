"""The page that explains a run: each step's counts, and a few rows before and after it.

One file, nothing external; no text or pixel of rows that are neither open nor de-identified.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import DatasetCard
from lingshu.core.errors import ImageError
from lingshu.core.files import write_text
from lingshu.core.types import Image, Sample
from lingshu.curate.card import distributions_svg, format_drops, render
from lingshu.curate.spill import load_sample
from lingshu.curate.worker import Example
from lingshu.imaging.cache import ImageCache

EXPLAIN_PAGE = "explain.html"
THUMBNAIL_SIDE = 144  # pixels
MAX_IMAGES, MAX_WORDS = 4, 180  # shown of one row
# Pieces of text with the tag that marks each, "" for none.
MarkedText = list[tuple[str, str]]


def write_page(path: Path, card: DatasetCard, examples: Sequence[Example]) -> None:
    """Write the page of a run."""
    steps = []
    with ImageCache() as images:
        for step in card.steps or ():
            shown = sorted(
                (example for example in examples if example.step == step["name"]),
                key=lambda example: (example.outcome == "kept", example.outcome),
            )
            views = [_example(example, images) for example in shown]
            steps.append({**step, "reasons": format_drops(step), "examples": views})
    n_read = steps[0]["in"] if steps else 0
    chart = distributions_svg(card.distributions or {})
    write_text(path, render("explain.html.j2", card=card, n_read=n_read, steps=steps, chart=chart))


def _example(example: Example, images: ImageCache) -> dict[str, Any]:
    before = load_sample(example.before)
    kind = example.outcome.split(":")[0]
    if kind in ("dropped", "kept"):
        sides = [_side("", before, images)]
    else:
        after = (load_sample(text) for text in example.after)
        sides = [_side("before", before, images)]
        sides += [_side("after", sample, images, before=before) for sample in after]
    may_show = _may_show(before)
    label = f"{before.id} {example.detail}" if may_show else "a row that is not open"
    return {"kind": kind, "outcome": example.outcome, "label": label, "sides": sides}


def _may_show(sample: Sample) -> bool:
    return sample.meta.access == "open" or sample.meta.deidentified is True


def _side(
    caption: str, sample: Sample, images: ImageCache, *, before: Sample | None = None
) -> dict[str, Any]:
    if not _may_show(sample):
        words = sum(len(message.text.split()) for message in sample.messages)
        summary = f"{len(sample.images)} images, {len(sample.messages)} turns, {words} words"
        return {"caption": caption, "withheld": summary}
    if before is not None and not _may_show(before):
        before = None
    old_texts: list[str | None] = [message.text for message in before.messages] if before else []
    old_texts += [None] * len(sample.messages)
    return {
        "caption": caption,
        "withheld": "",
        "images": [_thumbnail(image, images) for image in sample.images[:MAX_IMAGES]],
        "n_more": max(0, len(sample.images) - MAX_IMAGES),
        "messages": [
            (message.role, _marked_text(message.text, old))
            for message, old in zip(sample.messages, old_texts, strict=False)
        ],
        "metadata": _marked_metadata(sample, before),
    }


def _marked_text(text: str, old: str | None) -> MarkedText:
    """A truncated text; removed words are in `del` and new ones in `ins`."""
    new = _truncated_words(text)
    if old is None or old == text:
        return [("", " ".join(new))]
    before, parts = _truncated_words(old), MarkedText()
    for op, a, b, c, d in difflib.SequenceMatcher(None, before, new, autojunk=False).get_opcodes():
        if op in ("delete", "replace"):
            parts.append(("del", " ".join(before[a:b])))
        if op != "delete":
            parts.append(("" if op == "equal" else "ins", " ".join(new[c:d])))
    return parts


def _truncated_words(text: str) -> list[str]:
    words = re.findall(r"[一-鿿]|[^\s一-鿿]+", text)
    return words if len(words) <= MAX_WORDS else [*words[:MAX_WORDS], "…"]


def _marked_metadata(sample: Sample, before: Sample | None) -> MarkedText:
    old = None if before is None else _metadata(before)
    return [
        ("ins" if old is not None and old.get(name) != value else "", f"{name}: {value[:80]}")
        for name, value in _metadata(sample).items()
    ]


def _metadata(sample: Sample) -> dict[str, str]:
    names = ("source", "license", "modality", "kind", "language")
    values = {name: getattr(sample.meta, name) for name in names}
    values["gold"] = " | ".join(sample.gold or ())
    return {name: value for name, value in values.items() if value} | dict(sample.meta.extra)


def _thumbnail(image: Image, images: ImageCache) -> dict[str, Any] | None:
    import cv2

    try:
        pixels = images.rgb(image)
    except ImageError:
        return None
    scale = min(1.0, THUMBNAIL_SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    return {
        "data": base64.b64encode(encoded.tobytes()).decode(),
        "width": width,
        "height": height,
        "size": f"{pixels.shape[1]} x {pixels.shape[0]}",
    }
