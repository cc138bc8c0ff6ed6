"""The model card of an exported checkpoint, written from its run card alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lingshu.core.run_card import RunCard
from lingshu.models.base import ModelFamily

DISCLAIMER = (
    "**For research only. Not a medical device, not for clinical use.** Answers can be wrong,"
    " incomplete or made up; nothing this model says may guide the care of a patient."
)


def model_card(family: ModelFamily, card: RunCard) -> str:
    """Markdown with a hub header: what the model was trained from and on, in which stages, and how
    it scored.
    """
    notes = card.notes
    front_matter = (
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags:\n- medical\n-"
        " lingshu\n---\n"
    )
    parts = [
        f"# {notes.get('name', 'lingshu checkpoint')}\n\n{DISCLAIMER}\n",
        (
            f"A {family.model_class} trained with lingshu {card.versions.get('lingshu', '')} (seed"
            f" {card.seed}).\n"
        ),
        f"Starting point: {notes.get('start', 'not recorded')}.\n",
        _table("Stages", notes.get("stages", ())),
        _table("Training data", notes.get("data", ())),
        _table("Scores", notes.get("scores", ()))
        or "## Scores\n\nNot evaluated when this checkpoint was written.\n",
        "## Versions\n\n"
        + ", ".join(f"{name} {version}" for name, version in card.versions.items())
        + "\n",
    ]
    return front_matter + "\n".join(part for part in parts if part)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in keys) + " |" for row in rows]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else str(value).replace("|", "\\|").replace("\n", " ")
    )
