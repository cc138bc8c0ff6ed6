"""A dataset in other trainers' formats: LLaVA's conversations and ms-swift's messages.

Sources: the data format of LLaVA (docs/Finetune_Custom_Data.md of haotian-liu/LLaVA) and of
ms-swift (custom datasets, messages).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import read_dataset
from lingshu.core.files import atomic_folder, sha256_bytes, write_json
from lingshu.core.types import Message, Sample
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import ShardReader

IMAGE_TOKEN = "<image>"  # represents an image in both formats
ROWS, IMAGES, CARD = "rows.json", "images", "export.json"
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}


def export(name: str, dataset: Path) -> dict[str, int]:
    """Write DATASET/NAME/rows.json and images/; returns the rows written, and left out by reason.

    A row whose text contains the image token cannot be told apart from one with more images and is
    left out. LLaVA's format needs an answer, so it leaves out unanswered rows as well.
    """
    counts: dict[str, int] = {"rows": 0, "images": 0}
    with (
        atomic_folder(dataset / name) as folder,
        ShardReader() as shards,
        (folder / ROWS).open("w", encoding="utf-8") as file,
    ):
        (folder / IMAGES).mkdir()
        file.write("[")
        for sample in read_dataset(dataset):
            reason = _skip_reason(name, sample)
            if reason:
                counts[reason] = counts.get(reason, 0) + 1
                continue
            paths = []
            for image in sample.images:
                data = shards.read(image)
                format_name = read_header(data).format
                suffix = _SUFFIXES.get(format_name, f".{format_name.lower()}")
                path = f"{IMAGES}/{sha256_bytes(data)[:32]}{suffix}"
                if not (folder / path).exists():
                    (folder / path).write_bytes(data)
                    counts["images"] += 1
                paths.append(path)
            row = json.dumps(EXPORTS[name](sample, paths), ensure_ascii=False)
            file.write((",\n" if counts["rows"] else "\n") + row)
            counts["rows"] += 1
        file.write("\n]\n")
        write_json(folder / CARD, counts)
    return counts


def _skip_reason(name: str, sample: Sample) -> str | None:
    if any(IMAGE_TOKEN in message.text for message in sample.messages):
        return "contains_image_token"
    return "unanswered" if name == "llava" and not sample.answered else None


def _text(message: Message) -> str:
    return "".join(part if isinstance(part, str) else IMAGE_TOKEN + "\n" for part in message.parts)


def _referenced_images(sample: Sample, paths: list[str]) -> list[str]:
    """The images in the order of their tokens; one that two turns show appears twice."""
    parts = (part for message in sample.messages for part in message.parts)
    return [paths[part] for part in parts if isinstance(part, int)]


def _llava(sample: Sample, paths: list[str]) -> dict[str, Any]:
    """`conversations` of human and gpt; `image` a path, or a list of paths."""
    images = _referenced_images(sample, paths)
    roles = {"user": "human", "assistant": "gpt", "system": "system"}
    row: dict[str, Any] = {"id": sample.id}
    if images:
        row["image"] = images[0] if len(images) == 1 else images
    turns = [{"from": roles[m.role], "value": _text(m)} for m in sample.messages]
    return row | {"conversations": turns}


def _ms_swift(sample: Sample, paths: list[str]) -> dict[str, Any]:
    """`messages` and `images`; `solution` where an answer is known but not given."""
    messages = [{"role": m.role, "content": _text(m)} for m in sample.messages]
    row: dict[str, Any] = {"id": sample.id, "messages": messages}
    images = _referenced_images(sample, paths)
    if images:
        row["images"] = images
    if sample.gold and not sample.answered:
        row["solution"] = sample.gold[0]
    return row


EXPORTS: Mapping[str, Callable[[Sample, list[str]], dict[str, Any]]] = {
    "llava": _llava,
    "ms-swift": _ms_swift,
}
