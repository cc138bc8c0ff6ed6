"""Dialogues in the JSON that LLaVA, ShareGPT and ms-swift use: `conversations` or `messages` with
`<image>` in their text.

License, revision and link: each corpus' own; its card or recipe states them, and without `access` a
row counts as private. A file is one JSON array, read item by item, or JSON lines. Images lie in
files below the folder of the file, or `images`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingshu.core.errors import InputError
from lingshu.core.pseudonyms import check_key
from lingshu.core.rows import RowError, sample_from_row
from lingshu.core.types import Drop, Sample
from lingshu.deidentify.ids import IdDeduplicator, check_kinds, hash_ids, with_ids
from lingshu.sources._image_lookup import find_image, image_names
from lingshu.sources._json_items import iter_json_items

IMAGE_TOKEN = "<image>"
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def read(
    path: Path,
    *,
    ids: Mapping[str, str] | None = None,
    images: Path | None = None,
    key: bytes | None = None,
) -> Iterator[Sample | Drop]:
    """The dialogues of a file in order; images are found below `images` (else beside the file), not
    opened.

    Each `<image>` stands for the next image; a dialogue that names images without placing them
    shows them first. `ids` maps patient, study, series or article to keys of a row, whose values
    are kept as hashes under `key` alone. Drops: bad_json, bad_messages, image_count (more or fewer
    `<image>` than images), duplicate_id, and those of core/rows.py.

    Raises:
        InputError: no such file, or an option that is none.
    """
    ids, key = dict(ids or {}), check_key(key)
    check_kinds(ids)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a .json or .jsonl file.")
    root, deduplicate = (images or path.parent).resolve(), IdDeduplicator()
    for row_number, row in enumerate(iter_json_items(path), 1):
        yield deduplicate(_sample(row, row_number, ids, root, key))


def _sample(
    row: object, row_number: int, ids: Mapping[str, str], root: Path, key: bytes
) -> Sample | Drop:
    if not isinstance(row, dict):
        return Drop(
            f"row-{row_number}",
            "bad_json",
            f"row {row_number}: {row if isinstance(row, ValueError) else 'no JSON object'}",
        )
    name = str(row.get("id") or f"row-{row_number}")
    try:
        images = [find_image(image, root) for image in image_names(row)]
        turns = _turns(row, len(images))
    except RowError as error:
        return Drop(name, error.reason, error.detail)
    excluded = {"conversations", "system", *ids.values()}
    sample = sample_from_row(
        {**{k: v for k, v in row.items() if k not in excluded}, "messages": turns},
        row_number,
        images,
    )
    if isinstance(sample, Drop):
        return sample
    if _has_surrogates(sample):
        return Drop(sample.id, "bad_text", f"row {row_number} is no UTF-8; save the file as UTF-8.")
    raw_ids = {kind: str(row[field]) for kind, field in ids.items() if row.get(field) is not None}
    return replace(sample, meta=with_ids(sample.meta, hash_ids(raw_ids, key)))


def _has_surrogates(sample: Sample) -> bool:
    # Bytes that are no UTF-8 were marked by halves of surrogate pairs, which no file can hold.
    return any("\ud800" <= c <= "\udfff" for message in sample.messages for c in message.text)


def _turns(row: Mapping[str, Any], n_images: int) -> list[dict[str, object]]:
    conversation = (
        row.get("conversations") if row.get("conversations") is not None else row.get("messages")
    )
    if (
        not isinstance(conversation, list)
        or not conversation
        or not all(isinstance(turn, dict) for turn in conversation)
    ):
        raise RowError("bad_messages", "conversations or messages must be a list of turns.")
    turns: list[dict[str, object]] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.append({"role": "system", "content": row["system"]})
    image_index = 0
    for turn in conversation:
        role = _ROLES.get(str(turn.get("from", turn.get("role"))))
        text = turn.get("value", turn.get("content"))
        if role is None or not isinstance(text, str):
            raise RowError(
                "bad_messages",
                "a turn needs from (human, gpt or system) and value, or role and content.",
            )
        parts, image_index = _split_images(text, image_index)
        turns.append({"role": role, "content": parts})
    if image_index not in (0, n_images):
        raise RowError(
            "image_count", f"the dialogue places {image_index} images and names {n_images}."
        )
    return turns


def _split_images(text: str, image_index: int) -> tuple[list[dict[str, object]], int]:
    """Text and images of one turn; line breaks beside an image only set it apart, and go."""
    parts: list[dict[str, object]] = []
    segments = text.split(IMAGE_TOKEN)
    for index, segment in enumerate(segments):
        if index:
            parts.append({"type": "image", "image": image_index})
            image_index += 1
        content = segment.strip("\n") if len(segments) > 1 else segment
        if content:
            parts.append({"type": "text", "text": content})
    return parts, image_index
