"""Dialogues in JSON as of LLaVA, ShareGPT and ms-swift: `conversations` or `messages`, `<image>`.

License, revision and link: each corpus' own; its card or recipe states them, and without `access` a
row counts as private. A file is one JSON array, read item by item, or JSON lines. Images are files
below the folder of the file, or below `images`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingshu.core.errors import InputError
from lingshu.core.pseudonyms import check_key
from lingshu.core.rows import RowError, sample_from_row
from lingshu.core.types import Drop, Sample
from lingshu.deidentify.ids import IdDeduplicator, check_kinds, hash_ids, with_ids
from lingshu.sources._image_lookup import find_images

IMAGE_TOKEN = "<image>"
MAX_ITEM_CHARS = 32 << 20  # an item that does not end within this many characters is damaged
_CHUNK = 1 << 20
_ROLES = {"human": "user", "gpt": "assistant"}


def read(
    path: Path,
    *,
    ids: Mapping[str, str] | None = None,
    images: Path | None = None,
    key: bytes | None = None,
) -> Iterator[Sample | Drop]:
    """The dialogues of a file; images are located below `images` (default: the file's folder).

    Each `<image>` is replaced by the next image; a dialogue that names images without placing them
    shows them first. `ids` maps patient, study, series or article to keys of a row, whose values
    are kept only as hashes under `key`. Drops: bad_json, bad_messages, image_count (more or fewer
    `<image>` than images), bad_text, duplicate_id, and those of core/rows.py.

    Raises:
        InputError: no such file, or a wrong option.
    """
    ids, key = dict(ids or {}), check_key(key)
    check_kinds(ids)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a .json or .jsonl file.")
    root, deduplicate = (images or path.parent).resolve(), IdDeduplicator()
    for row_number, row in enumerate(iter_json_items(path), 1):
        yield deduplicate(_sample(row, row_number, ids, root, key))


def iter_json_items(path: Path) -> Iterator[object | ValueError]:
    """The items of a .json array without holding it, or the values of a file of JSON lines.

    A damaged line becomes a ValueError, and the next follows. After a damaged item of an array
    nothing can be read: its ValueError is the last.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            head = file.read(_CHUNK)
            if head.lstrip()[:1] == "[":
                yield from _iter_array(file.read, head.lstrip()[1:])
            else:
                file.seek(0)
                yield from (_parse_line(line) for line in file if line.strip())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def _parse_line(text: str) -> object | ValueError:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON ({type(error).__name__})")


def _iter_array(read_more: Callable[[int], str], buffer: str) -> Iterator[object | ValueError]:
    decoder, start = json.JSONDecoder(), 0
    while True:
        # Skip the comma and blanks before an item.
        while True:
            while start < len(buffer) and buffer[start] in " \t\r\n,":
                start += 1
            if start < len(buffer):
                break
            buffer, start = read_more(_CHUNK), 0
            if not buffer:
                yield ValueError("the array does not end")
                return
        if buffer[start] == "]":
            return
        value, end, is_complete = None, start, False
        try:
            value, end = decoder.raw_decode(buffer, start)
            # A number may continue after the buffer's end.
            is_complete = end < len(buffer)
        except RecursionError:
            yield ValueError("an item is nested too deep")
            return
        except ValueError:
            pass
        if is_complete:
            yield value
            start = end
            continue
        chunk = read_more(max(_CHUNK, len(buffer) - start))
        if not chunk or len(buffer) - start > MAX_ITEM_CHARS:
            yield ValueError("an item is not JSON")
            return
        buffer, start = buffer[start:] + chunk, 0


def _sample(
    row: object, row_number: int, ids: Mapping[str, str], root: Path, key: bytes
) -> Sample | Drop:
    name = f"row-{row_number}"
    if not isinstance(row, dict):
        problem = row if isinstance(row, ValueError) else "not a JSON object"
        return Drop(name, "bad_json", f"row {row_number}: {problem}")
    try:
        images = find_images(row, root)
        turns = _turns(row, len(images))
    except RowError as error:
        return error.to_drop(str(row.get("id") or name))
    excluded = {"conversations", "system", *ids.values()}
    fields = {field: value for field, value in row.items() if field not in excluded}
    sample = sample_from_row({**fields, "messages": turns}, row_number, images)
    if isinstance(sample, Drop):
        return sample
    # Bytes that are not UTF-8 were marked by halves of surrogate pairs, which no file can hold.
    if any("\ud800" <= c <= "\udfff" for message in sample.messages for c in message.text):
        detail = f"row {row_number} is not UTF-8; save the file as UTF-8."
        return Drop(sample.id, "bad_text", detail)
    raw_ids = {kind: str(row[field]) for kind, field in ids.items() if row.get(field) is not None}
    return replace(sample, meta=with_ids(sample.meta, hash_ids(raw_ids, key)))


def _turns(row: Mapping[str, Any], n_images: int) -> list[dict[str, object]]:
    dialogue = row.get("conversations")
    dialogue = row.get("messages") if dialogue is None else dialogue
    turns_in = dialogue if isinstance(dialogue, list) else []
    if not turns_in or not all(isinstance(turn, dict) for turn in turns_in):
        raise RowError("bad_messages: conversations or messages must be a list of turns.")
    turns: list[dict[str, object]] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.append({"role": "system", "content": row["system"]})
    n_placed = 0
    for turn in turns_in:
        speaker = str(turn.get("from", turn.get("role")))
        role, text = _ROLES.get(speaker, speaker), turn.get("value", turn.get("content"))
        if role not in ("user", "assistant", "system") or not isinstance(text, str):
            detail = "a turn needs from (human, gpt or system) and value, or role and content."
            raise RowError(f"bad_messages: {detail}")
        parts, n_placed = _split_images(text, n_placed)
        turns.append({"role": role, "content": parts})
    if n_placed not in (0, n_images):
        detail = f"the dialogue places {n_placed} images and names {n_images}."
        raise RowError(f"image_count: {detail}")
    return turns


def _split_images(text: str, n_placed: int) -> tuple[list[dict[str, object]], int]:
    """Text and images of one turn; line breaks that only separate an image are removed."""
    parts: list[dict[str, object]] = []
    segments = text.split(IMAGE_TOKEN)
    for index, segment in enumerate(segments):
        if index:
            parts.append({"type": "image", "image": n_placed + index - 1})
        content = segment.strip("\n") if len(segments) > 1 else segment
        if content:
            parts.append({"type": "text", "text": content})
    return parts, n_placed + len(segments) - 1
