"""Write a checkpoint with a model card that stock transformers and vLLM load like the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lingshu.core.files import atomic_folder, read_json, write_json, write_manifest
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.models.base import VisionLanguageFamily
from lingshu.models.load import no_progress_bars
from lingshu.models.processor import Processor

CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- medical
- lingshu
---
# {name}

**For research only. Not a medical device, not for clinical use.** Answers can be wrong, incomplete\
 or invented; nothing this model says may guide the care of a patient.

A {model_class} trained with lingshu {version} (seed {seed}).

Starting point: {start}.
"""


def export(model: Any, processor: Processor, folder: Path, card: RunCard) -> None:
    """Write model, tokenizer, image processor, generation settings, model card, run card and
    manifest, all or nothing.

    Raises:
        StorageError: the disk refused the write; an older folder of that name is unchanged.
    """
    with atomic_folder(folder) as temporary, no_progress_bars():
        model.save_pretrained(temporary)
        save_processor(processor, temporary)
        text = model_card(processor.family, card)
        (temporary / "README.md").write_text(text, encoding="utf-8")
        write_run_card(temporary, card)
        write_manifest(temporary)


def save_processor(processor: Processor, folder: Path) -> None:
    """Write tokenizer, chat template and image processor, with the processor settings for vLLM (the
    older form) and for transformers 5.
    """
    family = processor.family
    named = {"processor_class": family.processor_class}
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    tokenizer = folder / "tokenizer_config.json"
    write_json(tokenizer, {**read_json(tokenizer), **named})
    image_config = read_json(folder / "preprocessor_config.json")
    image_config |= {"image_processor_type": family.image_processor_type, **named}
    write_json(folder / "preprocessor_config.json", image_config)
    if family.video_processor_type is not None:
        video_config = {**image_config, "video_processor_type": family.video_processor_type}
        del video_config["image_processor_type"]
        write_json(folder / "video_preprocessor_config.json", video_config)
    settings = family.processor_settings(processor.image_processor)
    write_json(folder / "processor_config.json", {**named, **settings})


def model_card(family: VisionLanguageFamily, card: RunCard) -> str:
    """Markdown with a hub header: what the model was trained from and on, and its scores."""
    notes, versions = card.notes, card.versions
    introduction = CARD.format(
        name=notes.get("name", "lingshu checkpoint"),
        model_class=family.model_class,
        version=versions.get("lingshu", ""),
        seed=card.seed,
        start=notes.get("start", "not recorded"),
    )
    parts = [
        introduction,
        _table("Stages", notes.get("stages", ())),
        _table("Training data", notes.get("data", ())),
        _table("Scores", notes.get("scores", ()))
        or "## Scores\n\nNot evaluated when this checkpoint was written.\n",
        "## Versions\n\n" + ", ".join(f"{name} {v}" for name, v in versions.items()) + "\n",
    ]
    return "\n".join(part for part in parts if part)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in keys) + " |" for row in rows]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
