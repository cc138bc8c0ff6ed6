"""Dialogues in the JSON that LLaVA, ShareGPT and ms-swift use: `conversations` or `messages` with
`<image>` in their text.

Licence, revision and link: each corpus' own; its card or recipe states them, and without `access` a
row counts as private. A file is one JSON array, read item by item, or JSON lines. Images lie in
files below the folder of the file, or `images`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingshu.core.errors import InputError
from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow, sample_from_row
from lingshu.imaging.pseudonyms import check_key
from lingshu.sources._find import find_image, image_names
from lingshu.sources._ids import Once, check_kinds, hashes, with_ids
from lingshu.sources._json_items import items

IMAGE = "<image>"
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
    root, once = (images or path.parent).resolve(), Once()
    for number, row in enumerate(items(path), 1):
        yield once(_sample(row, number, ids, root, key))


def _sample(
    row: object, number: int, ids: Mapping[str, str], root: Path, key: bytes
) -> Sample | Drop:
    if not isinstance(row, dict):
        return Drop(
            f"row-{number}",
            "bad_json",
            f"row {number}: {row if isinstance(row, ValueError) else 'no JSON object'}",
        )
    name = str(row.get("id") or f"row-{number}")
    try:
        images = [find_image(image, root) for image in image_names(row)]
        turns = _turns(row, len(images))
    except BadRow as bad:
        return Drop(name, bad.reason, bad.detail)
    hidden = {"conversations", "system", *ids.values()}
    sample = sample_from_row(
        {**{k: v for k, v in row.items() if k not in hidden}, "messages": turns}, number, images
    )
    if isinstance(sample, Drop):
        return sample
    if _broken(sample):
        return Drop(sample.id, "bad_text", f"row {number} is no UTF-8; save the file as UTF-8.")
    raw = {kind: str(row[field]) for kind, field in ids.items() if row.get(field) is not None}
    return replace(sample, meta=with_ids(sample.meta, hashes(raw, key)))


def _broken(sample: Sample) -> bool:
    # Bytes that are no UTF-8 were marked by halves of surrogate pairs, which no file can hold.
    return any("\ud800" <= c <= "\udfff" for message in sample.messages for c in message.text)


def _turns(row: Mapping[str, Any], images: int) -> list[dict[str, object]]:
    said = row.get("conversations") if row.get("conversations") is not None else row.get("messages")
    if not isinstance(said, list) or not said or not all(isinstance(turn, dict) for turn in said):
        raise BadRow("bad_messages", "conversations or messages must be a list of turns.")
    turns: list[dict[str, object]] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.append({"role": "system", "content": row["system"]})
    shown = 0
    for turn in said:
        role = _ROLES.get(str(turn.get("from", turn.get("role"))))
        text = turn.get("value", turn.get("content"))
        if role is None or not isinstance(text, str):
            raise BadRow(
                "bad_messages",
                "a turn needs from (human, gpt or system) and value, or role and content.",
            )
        parts, shown = _parts(text, shown)
        turns.append({"role": role, "content": parts})
    if shown not in (0, images):
        raise BadRow("image_count", f"the dialogue places {shown} images and names {images}.")
    return turns


def _parts(text: str, shown: int) -> tuple[list[dict[str, object]], int]:
    """Text and images of one turn; line breaks beside an image only set it apart, and go."""
    parts: list[dict[str, object]] = []
    pieces = text.split(IMAGE)
    for place, piece in enumerate(pieces):
        if place:
            parts.append({"type": "image", "image": shown})
            shown += 1
        words = piece.strip("\n") if len(pieces) > 1 else piece
        if words:
            parts.append({"type": "text", "text": words})
    return parts, shown
