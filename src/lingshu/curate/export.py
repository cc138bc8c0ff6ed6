"""A dataset in the forms that other trainers read: LLaVA's conversations and ms-swift's messages,
images as files.

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

IMAGE_TOKEN = "<image>"  # stands for an image in both forms
ROWS, IMAGES, CARD = "rows.json", "images", "export.json"
_SUFFIX = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
}


def export(name: str, dataset: Path) -> dict[str, int]:
    """Write DATASET/NAME/rows.json and images/; returns how many rows were written, and left out by
    reason.

    A row whose words hold the mark of an image cannot be told apart from one with more images: it
    is left out. LLaVA's form asks for an answer as well, so that unanswered rows are left out of
    it.

    Raises:
        StorageError: the disk refused.
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
                path = f"{IMAGES}/{sha256_bytes(data)[:32]}{_SUFFIX[read_header(data).format]}"
                if not (folder / path).exists():
                    (folder / path).write_bytes(data)
                    counts["images"] += 1
                paths.append(path)
            file.write(
                (",\n" if counts["rows"] else "\n")
                + json.dumps(EXPORTS[name](sample, paths), ensure_ascii=False)
            )
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
    """The images in the order of their marks; one that two turns show stands twice."""
    return [
        paths[part]
        for message in sample.messages
        for part in message.parts
        if isinstance(part, int)
    ]


def llava(sample: Sample, paths: list[str]) -> dict[str, Any]:
    """One row of LLaVA: `conversations` of human and gpt, `image` a path, or a list of them where
    there are several.
    """
    image_paths = _referenced_images(sample, paths)
    roles = {"user": "human", "assistant": "gpt", "system": "system"}
    row: dict[str, Any] = {"id": sample.id}
    if image_paths:
        row["image"] = image_paths[0] if len(image_paths) == 1 else image_paths
    return row | {
        "conversations": [{"from": roles[m.role], "value": _text(m)} for m in sample.messages]
    }


def ms_swift(sample: Sample, paths: list[str]) -> dict[str, Any]:
    """One row of ms-swift: `messages`, and `images` in the order of their marks; `solution` where
    an answer is known and not given.
    """
    row: dict[str, Any] = {
        "id": sample.id,
        "messages": [{"role": m.role, "content": _text(m)} for m in sample.messages],
    }
    image_paths = _referenced_images(sample, paths)
    if image_paths:
        row["images"] = image_paths
    if sample.gold and not sample.answered:
        row["solution"] = sample.gold[0]
    return row


EXPORTS: Mapping[str, Callable[[Sample, list[str]], dict[str, Any]]] = {
    "llava": llava,
    "ms-swift": ms_swift,
}
